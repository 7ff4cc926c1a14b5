"""Arrays are read as they were written, and other contents are never opened."""

import io
import zipfile

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import eye

from pcctlearn.reading.arrays import MOST_BYTES, read_mat, read_npz

CALLED = ("a response", "write it again")
ARRAYS = {
    "a": np.arange(6.0).reshape(2, 3),
    "b": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(3, 2)),
    "c": np.array([True, False]),
}


def npz_with(path, name, content, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{name}.npy", content)
    return path


def header(shape, descr="<f8", version=(1, 0)):
    """The header of an .npy file that declares this shape."""
    stream = io.BytesIO()
    words = {"descr": descr, "fortran_order": False, "shape": shape}
    write = {(1, 0): np.lib.format.write_array_header_1_0}.get(
        version, np.lib.format.write_array_header_2_0
    )
    write(stream, words)
    return stream.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_read_as_it_was_written(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, **ARRAYS, d=np.float64(3.5), e=np.zeros((0, 4)))
    back = read_npz(path, None, *CALLED)
    for name, values in [*ARRAYS.items(), ("d", np.float64(3.5)), ("e", np.zeros((0, 4)))]:
        np.testing.assert_array_equal(back[name], values)
        assert back[name].dtype == values.dtype
    assert list(read_npz(path, ["b"], *CALLED)) == ["b"]
    back["a"][0] = 7  # arrays are writable


def test_mat_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "a.mat"
    for options in ({}, {"do_compression": True}, {"format": "4"}):
        savemat(path, {name: ARRAYS[name].astype(float) for name in "ab"}, **options)
        back = read_mat(path, ["a", "b"], *CALLED)
        for name, values in back.items():
            np.testing.assert_array_equal(values, ARRAYS[name])


@pytest.mark.parametrize(
    "content",
    [
        header((10**12,)),
        header((10**12,), version=(2, 0)),
        header((3,)) + bytes(16),
        header((3,)) + bytes(32),
        header((-3,)) + bytes(24),
        header((2**62, 2**62, 0)),
        header((3,), "|O") + bytes(24),
        header((3,), "<c16") + bytes(48),
        header((3,), "<U2") + bytes(24),
        header((3,))[:40],
        b"",
    ],
)
def test_an_array_that_contradicts_its_header_is_refused(tmp_path, content):
    path = npz_with(tmp_path / "a.npz", "a", content)
    with pytest.raises(ValueError, match=r"a\.npz .*a response.*write it again"):
        read_npz(path, ["a"], *CALLED)


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path = npz_with(tmp_path / "a.npz", "a", header((10**6,)) + bytes(8 * 10**6))
    assert read_npz(path, ["a"], *CALLED)["a"].shape == (10**6,)
    with pytest.raises(ValueError, match=r"8 MB.* 1 MB"):
        read_npz(path, ["a"], *CALLED, most_bytes=10**6)


def test_a_missing_name(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    savemat(tmp_path / "a.mat", ARRAYS)
    for read in (read_npz, read_mat):
        with pytest.raises(ValueError, match=r"'?zz.*: write it again"):
            read(tmp_path / f"a.{read.__name__[-3:]}", ["zz"], *CALLED)


@pytest.mark.parametrize(
    "value", [{"x": 1.0}, np.array([{}, 1], dtype=object), "word", 1j * np.ones(3), eye(4).tocsc()]
)
def test_other_contents_of_mat_are_refused(tmp_path, value):
    path = tmp_path / "a.mat"
    savemat(path, {"a": value})
    with pytest.raises(ValueError, match=r"a\.mat .*numbers.*write it again"):
        read_mat(path, ["a"], *CALLED)


def test_a_cell_nested_without_end_is_not_opened(tmp_path):
    nested = np.zeros(1)
    for _ in range(150):
        nested = np.array([nested, 0], dtype=object)
    path = tmp_path / "a.mat"
    savemat(path, {"a": np.ones(3), "deep": nested})
    np.testing.assert_array_equal(read_mat(path, ["a"], *CALLED)["a"], [[1, 1, 1]])
    with pytest.raises(ValueError, match=r"deep .*cell"):
        read_mat(path, ["deep"], *CALLED)


def test_a_declared_shape_of_terabytes_in_mat(tmp_path):
    path = tmp_path / "a.mat"
    savemat(path, {"a": np.ones((7, 7))})
    content = path.read_bytes()
    shape = np.array([7, 7], "<i4").tobytes()
    assert content.count(shape) == 1
    path.write_bytes(content.replace(shape, np.array([2**30, 2**30], "<i4").tobytes()))
    with pytest.raises(ValueError, match=f"{MOST_BYTES / 1e9:.4g} GB"):
        read_mat(path, ["a"], *CALLED)


def test_a_mat_file_of_version_7_3_is_refused_with_the_option_to_use(tmp_path):
    path = tmp_path / "a.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(ValueError, match="'-v7'"):
        read_mat(path, ["a"], *CALLED)
