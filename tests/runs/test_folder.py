"""The folder of a run admits one run at a time; earlier outputs are moved aside or removed."""

from pathlib import Path

import pytest

from pcctlearn.runs import folder as run_folder
from pcctlearn.runs.folder import OUTPUTS, held, is_earlier, set_aside


def fill(folder, names=OUTPUTS, content="old"):
    for name in names:
        path = folder / name / "a.png" if name == "figures" else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_second_run_is_rejected_until_the_first_has_ended(tmp_path):
    with held(tmp_path / "run", "folder"):
        with (
            pytest.raises(OSError, match=r"run is in use .*folder=FOLDER"),
            held(tmp_path / "run", "folder"),
        ):
            pass
        with held(tmp_path / "other", "folder"):  # the remedy in the message
            pass
    with held(tmp_path / "run", "folder"):
        pass
    assert entries(tmp_path / "run") == []


def test_a_folder_below_a_file_is_rejected(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match=r"file/run .*folder=FOLDER"),
        held(tmp_path / "file" / "run", "folder"),
    ):
        pass


def test_partial_files_of_runs_on_other_machines_are_removed(tmp_path):
    (tmp_path / ".results.json.elsewhere.1.1.part").mkdir()
    with held(tmp_path, "folder"):
        assert entries(tmp_path) == [".lock"]


def test_earlier_outputs_are_numbered(tmp_path, caplog):
    for number in (1, 2, 3):
        fill(tmp_path, content=str(number))
        set_aside(tmp_path, "folder", keep=True)
        assert entries(tmp_path) == [f"earlier_{n}" for n in range(1, number + 1)]
        assert (tmp_path / f"earlier_{number}" / "results.json").read_text() == str(number)
    assert len(caplog.messages) == 3
    assert all(f"earlier_{n}" in text for n, text in enumerate(caplog.messages, 1))
    assert is_earlier(tmp_path / "earlier_1" / "a", tmp_path)
    assert not is_earlier(tmp_path / "earlier_1", tmp_path / "earlier_1")


def test_outputs_of_an_interrupted_run_are_removed_and_other_files_stay(tmp_path, caplog):
    fill(tmp_path, [name for name in OUTPUTS if name != "results.json"])
    (tmp_path / "notes.txt").write_text("written by the user")
    set_aside(tmp_path, "folder")
    assert entries(tmp_path) == ["notes.txt"]
    assert not caplog.text


def test_a_folder_that_no_run_made_is_rejected_unchanged(tmp_path):
    fill(tmp_path, ["figures"])
    with pytest.raises(OSError, match=r"figures exists .*folder=FOLDER"):
        set_aside(tmp_path, "folder")
    assert entries(tmp_path) == ["figures"]
    set_aside(tmp_path / "another", "folder")  # the remedy in the message


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("after", range(4))
def test_clearing_resumes_after_an_interruption(tmp_path, monkeypatch, keep, after):
    fill(tmp_path)
    done = []

    def step(self, *target):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(self)
        return original(self, *target)

    holder, name = (Path, "rename") if keep else (run_folder, "remove")
    original = getattr(holder, name)
    monkeypatch.setattr(holder, name, step)
    with pytest.raises(KeyboardInterrupt):
        set_aside(tmp_path, "folder", keep=keep)
    assert after == 0 or not (tmp_path / "results.json").exists()
    monkeypatch.undo()
    set_aside(tmp_path, "folder", keep=keep)
    assert not set(entries(tmp_path)) & set(OUTPUTS)
