"""Frames are the same whatever file they come from; wrong files are named with a remedy."""

import numpy as np
import pytest

from pcctlearn.bench.stacks import Frames, RawLayout, read_mask

SHAPE = (3, 4)
COUNTS = np.random.default_rng(0).integers(0, 60000, (6, 2, *SHAPE)).astype(np.uint16)


def read(files, shape=SHAPE, n_thresholds=2, layout=None):
    frames = Frames("air[0]", files, n_thresholds, shape, layout or RawLayout())
    return np.concatenate([block for _, block in frames.blocks()])


def headerless(path, values, dtype="<u2", header=b""):
    path.write_bytes(header + values.astype(dtype).tobytes())
    return path


def tiff(path, values, **options):
    tifffile = pytest.importorskip("tifffile", reason="an option, pip install tifffile")
    tifffile.imwrite(path, values, photometric="minisblack", **options)
    return path


def npy(path, values):
    np.save(path, values)
    return path


def page_by_page(path, values):
    tifffile = pytest.importorskip("tifffile", reason="an option, pip install tifffile")
    with tifffile.TiffWriter(path) as file:
        for frame in values if values.ndim > 2 else values[None]:
            file.write(frame, photometric="minisblack", contiguous=False)
    return path


WAYS = {
    "tif page by page": lambda path, values: page_by_page(path.with_suffix(".tif"), values),
    "npy": lambda path, values: npy(path.with_suffix(".npy"), values),
    "raw": lambda path, values: headerless(path.with_suffix(".raw"), values),
    "tif": lambda path, values: tiff(path.with_suffix(".tif"), values),
    "compressed tif": lambda path, values: tiff(
        path.with_suffix(".tiff"), values, compression="zlib"
    ),
}


@pytest.mark.parametrize("save", WAYS.values(), ids=WAYS)
def test_a_file_for_each_threshold(save, tmp_path):
    files = [save(tmp_path / f"t{i}", COUNTS[:, i]) for i in range(2)]
    np.testing.assert_array_equal(read(files), COUNTS)


@pytest.mark.parametrize("save", WAYS.values(), ids=WAYS)
def test_a_file_with_all_thresholds(save, tmp_path):
    np.testing.assert_array_equal(read([save(tmp_path / "all", COUNTS)]), COUNTS)


@pytest.mark.parametrize("save", WAYS.values(), ids=WAYS)
def test_one_frame_and_one_threshold(save, tmp_path):
    one = save(tmp_path / "one", COUNTS[0, 0])
    np.testing.assert_array_equal(read([one], n_thresholds=1), COUNTS[:1, :1])


def test_pages_that_alternate_between_thresholds(tmp_path):
    pages = COUNTS.reshape(-1, *SHAPE)
    for file in (tiff(tmp_path / "a.tif", pages), npy(tmp_path / "a.npy", pages)):
        np.testing.assert_array_equal(read([file]), COUNTS)


def test_a_line_detector_may_lack_the_axis_of_its_rows(tmp_path):
    line = COUNTS[:, :, :1]
    files = [npy(tmp_path / f"{i}.npy", line[:, i, 0]) for i in range(2)]
    np.testing.assert_array_equal(read(files, (1, 4)), line)
    np.testing.assert_array_equal(read([npy(tmp_path / "a.npy", line[:, :, 0])], (1, 4)), line)


def test_headerless_files_have_the_layout_that_is_told(tmp_path):
    file = headerless(tmp_path / "a.raw", COUNTS, ">u4", b"header")
    np.testing.assert_array_equal(read([file], layout=RawLayout(">u4", 6)), COUNTS)


def test_blocks_are_multiples_of_a_view(tmp_path, monkeypatch):
    monkeypatch.setattr("pcctlearn.bench.stacks._BLOCK_BYTES", 400)
    frames = Frames("scan", [npy(tmp_path / "a.npy", COUNTS)], 2, SHAPE, RawLayout())
    blocks = list(frames.blocks(multiple=3))
    assert [(start, len(block)) for start, block in blocks] == [(0, 3), (3, 3)]


def test_frames_are_not_loaded_whole(tmp_path):
    stack = Frames("scan", [npy(tmp_path / "a.npy", COUNTS)], 2, SHAPE, RawLayout())._stacks[0]
    assert isinstance(stack, np.memmap)


REFUSED = {
    "missing": (lambda f: [f / "no.npy"], FileNotFoundError, r"air\[0\].*no\.npy.*correct"),
    "size": (
        lambda f: [headerless(f / "a.raw", COUNTS, header=b"x")],
        ValueError,
        r"a\.raw has 289 bytes.*multiple of 48 \(2 x 3 x 4 uint16.*raw\.dtype",
    ),
    "floats": (lambda f: [npy(f / "a.npy", COUNTS * 0.5)], ValueError, "float64, not counts"),
    "shape": (
        lambda f: [npy(f / "a.npy", COUNTS[..., :3])],
        ValueError,
        r"\(6, 2, 3, 3\), expected \(frames, 2, 3, 4\).*detector\.n_columns",
    ),
    "pickle": (
        lambda f: [npy(f / "a.npy", np.array([{"a": 1}], dtype=object))],
        ValueError,
        "Python objects",
    ),
    "no array": (lambda f: [headerless(f / "a.npy", COUNTS)], ValueError, "a NumPy array"),
    "no TIFF": (lambda f: [headerless(f / "a.tif", COUNTS)], ValueError, "a TIFF stack"),
    "ending": (lambda f: [headerless(f / "a.dat", COUNTS)], ValueError, r"end in \.npy.*rename"),
    "three files": (
        lambda f: [npy(f / f"{i}.npy", COUNTS[:, 0]) for i in range(3)],
        ValueError,
        "3 files for 2 thresholds",
    ),
    "lengths": (
        lambda f: [npy(f / f"{i}.npy", COUNTS[i:, i]) for i in range(2)],
        ValueError,
        r"0\.npy has 6 frames, 1\.npy 5",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_files_are_refused(case, tmp_path):
    files, kind, words = REFUSED[case]
    if case == "no TIFF":
        pytest.importorskip("tifffile")
    with pytest.raises(kind, match=words):
        read(files(tmp_path))


@pytest.mark.parametrize("save", [WAYS["npy"], WAYS["tif"]], ids=["npy", "tif"])
def test_a_mask_marks_pixels_by_any_number_but_zero(save, tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[1, 2] = 255
    assert np.argwhere(read_mask(save(tmp_path / "mask", mask), SHAPE)).tolist() == [[1, 2]]


def test_wrong_masks_are_refused(tmp_path):
    other = npy(tmp_path / "mask.npy", np.zeros((4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"detector\.mask.*\(4, 3\).*raw frame \(3, 4\)"):
        read_mask(other, SHAPE)
    with pytest.raises(ValueError, match=r"must end in \.npy, \.tif"):
        read_mask(headerless(tmp_path / "mask.raw", COUNTS), SHAPE)
    with pytest.raises(FileNotFoundError, match=r"detector\.mask"):
        read_mask(tmp_path / "no.npy", SHAPE)


def test_a_truncated_tiff_is_not_read_as_a_shorter_one(tmp_path):
    file = WAYS["compressed tif"](tmp_path / "a", COUNTS[:, 0])
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"a\.tiff is damaged.*page offset"):
        read([file], n_thresholds=1)


def test_tiff_pages_of_different_shapes_are_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="an option, pip install tifffile")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for frame in (COUNTS[0, 0], COUNTS[1, 0, :2]):
            file.write(frame, photometric="minisblack", contiguous=False)
    with pytest.raises(ValueError, match=r"a\.tif is damaged.*its pages have 2 shapes"):
        read([tmp_path / "a.tif"])


def test_tiff_stacks_name_what_is_missing(tmp_path, monkeypatch):
    file = headerless(tmp_path / "a.tif", COUNTS)
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(ImportError, match="pip install tifffile"):
        read([file])
