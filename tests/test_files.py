"""A half-written file never appears under its final name."""

import errno

import pytest

from pcctlearn.files import written_whole


def write_half(path, error):
    with written_whole(path) as temporary:
        temporary.write_text("half a rep")
        raise error


def test_what_is_written_appears_whole(tmp_path):
    path = tmp_path / "new folder" / "report.html"
    with written_whole(path) as temporary:
        temporary.write_text("a report")
        assert temporary.suffix == path.suffix
        assert not path.exists()
    assert path.read_text() == "a report"
    assert list(path.parent.iterdir()) == [path]


def test_space_that_ends_within_a_file(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device")
    sentence = r"cannot write .*report.html: No space left.*; free some space, or choose another"
    with pytest.raises(OSError, match=sentence):
        write_half(tmp_path / "report.html", error)
    assert not list(tmp_path.iterdir())


def test_a_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*choose another folder"):
        write_half(tmp_path / "file" / "report.html", KeyboardInterrupt())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path, error):
    path = tmp_path / "report.html"
    path.write_text("the old report")
    with pytest.raises(error):
        write_half(path, error())
    assert path.read_text() == "the old report"
    assert list(tmp_path.iterdir()) == [path]
