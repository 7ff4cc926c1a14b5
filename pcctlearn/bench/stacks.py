"""Stacks of raw frames on disk: NumPy, TIFF and headerless files, read block by block."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from pcctlearn.reading.damaged import readable

_BLOCK_BYTES = 2**25
_ENDINGS = (".npy", ".tif", ".tiff", ".raw")
_DTYPES = ("uint8", "uint16", "uint32", "int16", "int32", ">u2", ">u4", ">i2", ">i4")

Block = Integer[np.ndarray, "frame threshold row column"]


@dataclass(frozen=True)
class RawLayout:
    """Numbers of headerless files: their dtype, little-endian unless it begins with >."""

    dtype: str = "uint16"
    header_bytes: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ValueError(f"must be one of {', '.join(_DTYPES)}, got {self.dtype}: correct it")

    @property
    def numbers(self) -> np.dtype:
        """The numbers as NumPy reads them."""
        return np.dtype(self.dtype).newbyteorder(">" if self.dtype[0] == ">" else "<")


@runtime_checkable
class _Stack(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, index: slice) -> np.ndarray: ...


class Frames:
    """All frames of an exposure, from one file for each threshold, or from one file.

    A file has the axes frame row column, or frame threshold row column if it holds all thresholds;
    pages of a TIFF stack that holds all thresholds may alternate between them. A detector of one
    row may lack the axis of the rows.

    Args:
        where: what is measured, for messages.
        files: one for each threshold, from the lowest on, or one.
        n_thresholds: of the detector.
        raw_shape: rows and columns of a frame.
        layout: of headerless files.

    Raises:
        FileNotFoundError: a file is missing. ValueError: a file has another shape, size or kind of
            numbers, or files have different numbers of frames. ImportError: tifffile is missing.
    """

    def __init__(
        self,
        where: str,
        files: Sequence[Path],
        n_thresholds: int,
        raw_shape: tuple[int, int],
        layout: RawLayout,
    ) -> None:
        if len(files) not in (1, n_thresholds):
            raise ValueError(
                f"{where} lists {len(files)} files for {n_thresholds} thresholds: list one file "
                "for each threshold, or one file with all of them"
            )
        if len(set(files)) < len(files):
            raise ValueError(
                f"{where} lists {files[0].name} twice: list one file for each threshold"
            )
        self.where, self.files, self.raw_shape = where, tuple(files), raw_shape
        per_file = n_thresholds // len(files)
        self._stacks = [_opened(where, path, per_file, raw_shape, layout) for path in files]
        per_frame = per_file * math.prod(raw_shape)
        lengths = [math.prod(stack.shape) // per_frame for stack in self._stacks]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"{where}: {files[0].name} has {lengths[0]} frames, "
                + ", ".join(f"{f.name} {n}" for f, n in zip(files[1:], lengths[1:], strict=True))
                + ": give the files of the same measurement"
            )
        self.n_frames, self._per_file = lengths[0], per_file

    @property
    def most(self) -> int:
        """The greatest number that the files can hold."""
        return min(int(np.iinfo(stack.dtype).max) for stack in self._stacks)

    def blocks(self, multiple: int = 1) -> Iterator[tuple[int, Block]]:
        """Blocks of frames, each a multiple of some frames: index of the first, and counts."""
        n_bytes = self._per_file * len(self._stacks) * math.prod(self.raw_shape) * 8
        length = max(1, _BLOCK_BYTES // (n_bytes * multiple)) * multiple
        for start in range(0, self.n_frames, length):
            yield start, self._read(start, min(length, self.n_frames - start))

    def _read(self, start: int, n: int) -> Block:
        parts = []
        for path, stack in zip(self.files, self._stacks, strict=True):
            k = stack.shape[0] // self.n_frames  # pages of a frame
            with readable(path, "a stack of frames", "copy it again, or save it as .npy"):
                part = np.asarray(stack[start * k : (start + n) * k])
            parts.append(part.reshape(n, self._per_file, *self.raw_shape))
        return np.concatenate(parts, 1)


def read_mask(path: Path, raw_shape: tuple[int, int]) -> np.ndarray:
    """Pixels (row, column) that a mask marks by any number but zero, from .npy or .tif.

    Raises:
        ValueError: another shape or kind of file. FileNotFoundError: there is no such file.
    """
    if path.suffix.lower() not in _ENDINGS[:-1]:
        raise ValueError(
            f"detector.mask {path} must end in .npy, .tif or .tiff: save the mask as one of them"
        )
    stack = _open("detector.mask", path, RawLayout(), raw_shape)
    with readable(path, "a pixel mask", "save it again"):
        values = np.asarray(stack[:])
    if values.dtype.kind not in ("b", "i", "u") or values.squeeze().shape != tuple(
        n for n in raw_shape if n > 1
    ):
        raise ValueError(
            f"detector.mask {path} has the shape {values.shape} ({values.dtype}), a raw frame "
            f"{raw_shape}: give a mask of whole numbers for the pixels of the raw frames"
        )
    return values.reshape(raw_shape) != 0


def _opened(
    where: str, path: Path, per_file: int, raw_shape: tuple[int, int], layout: RawLayout
) -> _Stack:
    """A stack whose axes and numbers are those of the detector."""
    expected = raw_shape if per_file == 1 else (per_file, *raw_shape)
    stack = _open(where, path, layout, expected)
    frames = [raw_shape, *([raw_shape[1:]] if raw_shape[0] == 1 else [])]
    whole = [shape if per_file == 1 else (per_file, *shape) for shape in frames]
    shape = tuple(stack.shape)
    pages = per_file > 1 and shape[1:] in frames and shape[0] % per_file == 0
    if stack.dtype.kind not in "ui":
        raise ValueError(
            f"{where}: {path} holds {stack.dtype}, not counts: save frames as unsigned integers "
            "(uint16 or uint32), neither averaged nor corrected"
        )
    if not (shape[1:] in whole or pages) or 0 in shape:
        axes = "frame row column" if per_file == 1 else "frame threshold row column"
        raise ValueError(
            f"{where}: {path} has the shape {shape}, expected (frames, "
            f"{', '.join(map(str, expected))}) for the axes {axes}: correct detector.n_rows and "
            "detector.n_columns, or save the file with these axes"
        )
    return stack


def _open(where: str, path: Path, layout: RawLayout, frame: tuple[int, ...]) -> _Stack:
    """A stack as its file has it; nothing but its header is read. One frame is a stack, too."""
    if not path.is_file():
        raise FileNotFoundError(f"{where}: there is no file {path}: correct its name, or copy it")
    ending = path.suffix.lower()
    if ending == ".npy":
        with readable(path, "a NumPy array", "save it with numpy.save"):
            stack: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        return stack[None] if stack.shape == frame else stack
    if ending in (".tif", ".tiff"):
        stack = _tiff(path)
        return stack[:][None] if stack.shape == frame else stack
    if ending == ".raw":
        return _headerless(where, path, layout, frame)
    raise ValueError(
        f"{where}: {path} must end in {', '.join(_ENDINGS)}: rename it, or save it as one of them"
    )


def _headerless(where: str, path: Path, layout: RawLayout, frame: tuple[int, ...]) -> _Stack:
    found, per_frame = path.stat().st_size, math.prod(frame) * layout.numbers.itemsize
    n, rest = divmod(found - layout.header_bytes, per_frame)
    if n < 1 or rest:
        raise ValueError(
            f"{where}: {path} has {found} bytes, expected raw.header_bytes: {layout.header_bytes} "
            f"and a multiple of {per_frame} ({' x '.join(map(str, frame))} {layout.dtype} a "
            "frame): correct raw.dtype, raw.header_bytes, detector.n_rows or detector.n_columns"
        )
    shape = (n, *frame)
    return np.memmap(path, layout.numbers, "r", layout.header_bytes, shape)


def _tiff(path: Path) -> _Stack:
    try:
        import tifffile
    except ImportError:
        raise ImportError(
            f"{path} needs tifffile: pip install tifffile, or save the frames as .npy or .raw"
        ) from None
    with readable(path, "a TIFF stack", "save it again, without compression"):
        with _warnings_raised(), tifffile.TiffFile(path) as file:
            kinds = {(series.shape, series.dtype) for series in file.series}
            mapped = len(file.series) == 1 and file.series[0].dataoffset is not None
        if len(kinds) != 1:
            raise ValueError(f"its pages have {len(kinds)} shapes or kinds of numbers")
        if mapped:
            return tifffile.memmap(path, mode="r")
        return _TiffPages(path)


class _Raised(logging.Handler):
    """Raises what tifffile only logs, such as pages beyond the end of a truncated file."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ValueError(record.getMessage())


@contextmanager
def _warnings_raised() -> Iterator[None]:
    """Raise ValueError for the first warning of tifffile."""
    logger, handler = logging.getLogger("tifffile"), _Raised(logging.WARNING)
    others, propagates = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = others, propagates


class _TiffPages:
    """A TIFF stack that cannot be mapped into memory, page by page.

    It is compressed, or its pages were written one by one, each as a series of its own.
    """

    def __init__(self, path: Path) -> None:
        import tifffile

        self._file = tifffile.TiffFile(path)
        self._series = self._file.series
        first = self._series[0]
        single = len(self._series) == 1
        n_pages, page = (
            (len(first.pages), first.keyframe.shape) if single else (len(self._series), first.shape)
        )
        self.shape = (n_pages, *page)
        self.dtype = np.dtype(first.dtype)

    def __getitem__(self, index: slice) -> np.ndarray:
        """Some pages."""
        if len(self._series) > 1:
            return np.stack([series.asarray() for series in self._series[index]])
        pages = self._file.asarray(key=index, series=0)
        return pages.reshape(-1, *self.shape[1:])
