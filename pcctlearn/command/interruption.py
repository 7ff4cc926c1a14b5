"""Ctrl-C and SIGTERM end a command in order, with the exit status that shells expect."""

import os
import signal
import sys
import threading
from types import FrameType

_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_received: list[int] = []


def exit_on_signals() -> None:
    """Have SIGINT and SIGTERM raise SystemExit with 128 + number: 130 and 143.

    ``finally`` blocks and Lightning's teardown then run. KeyboardInterrupt would not do: Lightning
    turns it into status 1, and Hydra's sweeps would go on. A second signal ends the process.
    """
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, _stop)


def received() -> str | None:
    """The first signal since the start, in words."""
    return _SIGNALS[signal.Signals(_received[0])] if _received else None


def status() -> int:
    """The exit status of that signal."""
    return 128 + _received[0]


def _stop(number: int, frame: FrameType | None) -> None:
    if _received:
        os._exit(128 + number)
    _received.append(number)
    sys.exit(128 + number)
