"""Folder of a run: locked by one run at a time, with outputs of earlier runs moved aside."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pcctlearn.files.atomic import discard_parts, remove
from pcctlearn.files.locks import LockedError, locked

log = logging.getLogger(__name__)

MARKER = "results.json"  # written last: if it exists, all outputs are complete
OUTPUTS = (MARKER, "report.html", "figures", "arrays.h5")  # of every run
EARLIER = "earlier_"  # prefix of the folders that hold outputs of earlier runs
# other programs use these names too, so these alone do not prove that a run made the folder
_COMMON_NAMES = {"report.html", "figures", "checkpoints", "csv"}


@contextmanager
def held(folder: Path, setting: str, wait: bool = False) -> Iterator[None]:
    """Make a folder and lock it.

    Args:
        folder: the folder for the outputs.
        setting: the command-line key that names the folder, for error messages.
        wait: wait until another run has ended instead of raising an error.

    Raises:
        OSError: another run has locked the folder, or it cannot be written to.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / ".lock", wait))
        except LockedError as holder:
            raise OSError(
                f"{folder} is in use by another run ({holder}): wait until it ends, or choose "
                f"another folder with {setting}=FOLDER"
            ) from None
        except OSError as error:
            raise OSError(
                f"{folder} cannot be written to ({error.strerror}): choose another with "
                f"{setting}=FOLDER"
            ) from error
        discard_parts(folder, held=True)
        yield


def set_aside(
    folder: Path, setting: str, outputs: Sequence[str] = OUTPUTS, keep: bool = False
) -> None:
    """Move or remove the outputs of an earlier run.

    Args:
        folder: a folder that the caller has locked.
        setting: the command-line key that names the folder, for error messages.
        outputs: names of all outputs of a run in the order of their removal, the marker first.
        keep: move them to a folder ``earlier_N`` and log it, instead of removing them.

    Raises:
        OSError: the folder holds files with names of outputs that were not made by a run.
    """
    present = [name for name in outputs if os.path.lexists(folder / name)]
    if present and set(present) <= _COMMON_NAMES:
        raise OSError(
            f"{folder / present[0]} exists and was not made by a run: choose another folder "
            f"with {setting}=FOLDER"
        )
    if not keep:
        for name in present:
            remove(folder / name)
    elif present:
        numbers = range(1, 2 + len(list(folder.glob(f"{EARLIER}*"))))
        aside = next(p for n in numbers if not os.path.lexists(p := folder / f"{EARLIER}{n}"))
        aside.mkdir()
        for name in present:
            (folder / name).rename(aside / name)
        log.warning("moved the outputs of an earlier run in %s to %s", folder, aside)


def discard_empty(folder: Path) -> None:
    """Remove a folder that a failed run has left empty, unless it is the working directory."""
    if not (folder.exists() and folder.samefile(Path.cwd())):
        with suppress(OSError):  # it holds files, or does not exist
            folder.rmdir()


def is_earlier(folder: Path, above: Path) -> bool:
    """Whether a folder below ``above`` holds outputs that were moved aside by a later run."""
    return any(part.startswith(EARLIER) for part in folder.relative_to(above).parts)
