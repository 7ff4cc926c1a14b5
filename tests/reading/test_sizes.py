"""Declared sizes are compared with the limit before files are unpacked."""

import zipfile

import pytest

from pcctlearn.reading.sizes import require_size, require_zip

CALLED = ("a response", "write it again")


def test_a_size_within_the_limit():
    require_size("a", 1000, "write it again", 1000)
    with pytest.raises(ValueError, match=r"a .*0\.001001 MB.* 0\.001 MB.*write it again"):
        require_size("a", 1001, "write it again", 1000)


def test_a_size_beyond_memory():
    with pytest.raises(ValueError, match=r"1e\+06 GB.* memory.*write it again"):
        require_size("a", 10**15, "write it again")


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(10**7))
    assert path.stat().st_size < 20_000
    require_zip(path, *CALLED, most_bytes=10**7)
    with pytest.raises(ValueError, match=r"10 MB.* 5 MB"):
        require_zip(path, *CALLED, most_bytes=5 * 10**6)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", b"text"])
def test_a_file_that_is_not_a_zip_is_refused(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz .*a response"):
        require_zip(path, *CALLED, most_bytes=10**6)
