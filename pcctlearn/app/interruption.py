"""End a command on Ctrl-C or SIGTERM after cleaning up, with the exit status that shells expect."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Raise SystemExit on SIGINT and SIGTERM, and leave with status 128 + number: 130 or 143.

    ``finally`` blocks and Lightning's teardown run. A KeyboardInterrupt is not raised, because
    Lightning turns it into status 1. If a library catches the SystemExit and continues, the status
    is set at the end. A second signal ends the process at once.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in _NAMES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            print(f"pcctlearn: stopped by {_NAMES[signal.Signals(received[0])]}", file=sys.stderr)
            sys.exit(128 + received[0])
