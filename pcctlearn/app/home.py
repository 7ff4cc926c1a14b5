"""Folders that libraries expect: a home, a user name, and caches that can be written to."""

import getpass
import os
import tempfile
from pathlib import Path

_CACHES = {
    "XDG_CACHE_HOME": "cache",
    "NUMBA_CACHE_DIR": "numba",
    "MPLCONFIGDIR": "matplotlib",
    "WANDB_CACHE_DIR": "wandb",
    "WANDB_CONFIG_DIR": "wandb",
    "WANDB_DATA_DIR": "wandb",
}


def provide_home() -> None:
    """Set variables for libraries that fail without a home, as in a container or a batch job.

    Nothing changes if the user's cache folder can be written to. Otherwise caches go to a private
    folder in the system's temporary folder. Call it before these libraries are imported.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # no entry in the password database
        os.environ["USER"] = f"uid{os.getuid()}"
    home = Path(os.path.expanduser("~"))
    if home.is_absolute() and _writable(os.environ.get("XDG_CACHE_HOME") or home / ".cache"):
        return
    folder = _private_folder()
    if not home.is_absolute():
        os.environ["HOME"] = str(folder)
    for name, below in _CACHES.items():
        if not _writable(os.environ.get(name)):
            (folder / below).mkdir(exist_ok=True)
            os.environ[name] = str(folder / below)


def _writable(folder: str | Path | None) -> bool:
    """Whether a folder can be written to, or made."""
    if not folder:
        return False
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def _private_folder() -> Path:
    """The same folder in each run, so that caches are reused; a new one if others can access it."""
    folder = Path(tempfile.gettempdir()) / f"pcctlearn-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o77 or folder.is_symlink():
        return Path(tempfile.mkdtemp(prefix="pcctlearn-"))
    return folder
