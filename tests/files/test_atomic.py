"""Files and folders appear whole under their final name, or not at all."""

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.writers import WRITERS

from pcctlearn.files.atomic import added_whole, discard_parts, folder_written_whole, written_whole
from pcctlearn.files.names import safe_stem
from pcctlearn.files.processes import is_alive, own_process

ROOT = Path(__file__).parents[1]


def write_half(path, error):
    with written_whole(path) as temporary:
        temporary.write_text("half a rep")
        raise error


@pytest.mark.parametrize("name", ["report.html", "a.h5", "b.nii.gz", "é" * 100 + ".h5", "x" * 250])
def test_a_file_appears_whole(tmp_path, name):
    path = tmp_path / "new folder" / name
    with written_whole(path) as temporary:
        temporary.write_text("a report")
        assert not path.exists()
        assert not path.suffix or not list(path.parent.glob(f"*{path.suffix}"))
    assert path.read_text() == "a report"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names open files by /proc")
def test_a_file_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    """Otherwise a power cut leaves an empty file under the final name."""
    events = []
    replace, sync = os.replace, os.fsync

    def noted_sync(handle):
        events.append(("sync", os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    def noted_replace(source, target):
        events.append(("replace", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    path = tmp_path / "a.h5"
    with written_whole(path) as temporary:
        temporary.write_text("")
    assert events == [("sync", str(temporary)), ("replace", str(path)), ("sync", str(tmp_path))]


def test_a_full_disk_is_named_with_its_remedy(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match=r"report\.html.*No space left.*free some space"):
        write_half(tmp_path / "report.html", error)
    assert not list(tmp_path.iterdir())


def test_a_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"report\.html.*another folder"):
        write_half(tmp_path / "file" / "report.html", KeyboardInterrupt())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, RuntimeError])
def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path, error):
    path = tmp_path / "report.html"
    path.write_text("the old report")
    with pytest.raises(error):
        write_half(path, error())
    assert path.read_text() == "the old report"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole(tmp_path):
    with folder_written_whole(tmp_path / "deep" / "scan") as part:
        (part / "a").write_text("a")
        assert not (tmp_path / "deep" / "scan").exists()
    assert (tmp_path / "deep" / "scan" / "a").read_text() == "a"
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["scan"]


def test_the_last_entry_is_added_after_all_others(tmp_path, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(b.name), replace(a, b)))
    with added_whole(tmp_path, last="b") as part:
        for name in ("b", "c", "a"):
            (part / name).write_text(name)
        assert not moved
    assert moved == ["a", "c", "b"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("writer", [folder_written_whole, lambda path: added_whole(path, "b")])
def test_a_failure_leaves_no_folder(tmp_path, writer):
    def fail():
        with writer(tmp_path) as part:
            (part / "b").write_text("half")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert not list(tmp_path.iterdir())


# -- files of killed processes

KILLED = """
import os, signal, sys
from pathlib import Path
from pcctlearn.files import atomic as files
with getattr(files, sys.argv[1])(Path(sys.argv[2])) as part:
    (part / "half").write_text("") if part.is_dir() else part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_within(writer, path):
    command = [sys.executable, "-c", KILLED, writer, str(path)]
    assert subprocess.run(command, check=False).returncode < 0


@pytest.mark.parametrize("writer", ["written_whole", "folder_written_whole"])
def test_only_files_of_killed_processes_are_removed(tmp_path, writer):
    kill_within(writer, tmp_path / "scan.h5")
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".part")
    with written_whole(tmp_path / "other.h5") as mine:
        mine.write_text("")
        discard_parts(tmp_path)
        assert not left.exists()
        assert mine.exists()


def test_a_temporary_file_whose_pid_is_in_use_again_is_removed(tmp_path):
    kill_within("written_whole", tmp_path / "scan.h5")
    (left,) = tmp_path.iterdir()
    head, _, _, _ = left.name.rsplit(".", 3)
    here = psutil.Process()
    again = left.rename(tmp_path / f"{head}.{here.pid}.{int(here.create_time()) - 60}.part")
    discard_parts(tmp_path)
    assert not again.exists()


def test_temporary_files_of_other_machines_are_removed_only_under_a_lock(tmp_path):
    for name in ("scan.h5", "scan"):
        (tmp_path / f".{name}.elsewhere.1.1.part").write_text("")
    discard_parts(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    discard_parts(tmp_path, of="scan.h5", held=True)
    assert [entry.name for entry in tmp_path.iterdir()] == [".scan.elsewhere.1.1.part"]


def test_own_process_is_alive_and_an_ended_one_is_not():
    assert is_alive(own_process())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    started = int(psutil.Process(ended.pid).create_time())
    while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert not is_alive(f"{ended.pid}.{started}")  # ended, though not waited for
    ended.wait()
    assert not is_alive(f"{ended.pid}.{started}")
    assert not is_alive("no.process")
    assert platform.node() not in own_process()


# -- a full disk, as each library reports it

LIMITED = """
import resource, signal, sys
from pathlib import Path
from support.writers import WRITERS
from pcctlearn.files.atomic import written_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    with written_whole(Path(sys.argv[2])) as part:
        WRITERS[sys.argv[1]](part)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
@pytest.mark.parametrize("library", WRITERS)
def test_a_full_disk_is_one_sentence_for_every_library(tmp_path, library):
    path = tmp_path / "out" / "file"
    command = [sys.executable, "-c", LIMITED, library, str(path)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert str(path) in done.stdout, done.stdout + done.stderr
    assert "free some space" in done.stdout
    assert not list(path.parent.iterdir())


# -- names

BAD = ["..", ".", "", " ", "...", ".hidden", "._scan", "a/b", "a\\b", "a\x00b", "a\nb", "a\udcffb"]
BAD += ["x" * 201, "é" * 101, "figures", 'a"b', "a:b", "a\x7fb"]


@pytest.mark.parametrize("name", BAD)
def test_unsafe_names_are_refused_and_the_remedy_works(name):
    with pytest.raises(ValueError, match="scan_1") as raised:
        safe_stem(name, f"{name}.h5", reserved={"figures"})
    assert str(raised.value).isprintable()
    assert safe_stem("scan_1", "scan_1.h5", reserved={"figures"}) == "scan_1"


@pytest.mark.parametrize("name", ["head_00001", "Jürgen", "頭部", "a b", "a.b", "x" * 200, "[1]$"])
def test_ordinary_names_are_accepted(tmp_path, name):
    stem = safe_stem(name, name)
    assert stem == name
    with written_whole(tmp_path / f"{stem}_scatter_fraction.png") as part:
        part.write_text("")
