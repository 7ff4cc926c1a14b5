"""Read-only files that come with the package: configurations (conf) and tables (data)."""

from importlib.resources import files
from pathlib import Path


def resource(*parts: str) -> Path:
    """Path of a file or folder, such as ``resource("data", "physics", "spectra")``.

    An installed package contains conf and data; in a checkout they are beside it.
    """
    package = Path(str(files("pcctlearn")))
    packaged = package.joinpath(*parts)
    return packaged if packaged.exists() else package.parent.joinpath(*parts)
