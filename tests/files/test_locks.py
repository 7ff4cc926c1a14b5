"""One process at a time holds a lock, and the lock of a killed process is free."""

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from pcctlearn.files import locks
from pcctlearn.files.locks import LockedError, discard_locks, locked
from pcctlearn.files.processes import own_process

HOLD = """
import sys, time
from pathlib import Path
from pcctlearn.files.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
COUNT = """
import sys
from pathlib import Path
from pcctlearn.files.locks import locked
lock, number = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(30):
    with locked(lock, wait=True):
        number.write_text(str(int(number.read_text()) + 1))
"""


def holder(path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


def without_system_locks(monkeypatch):
    def unsupported(handle, flags):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)


def test_the_holder_is_named_and_its_lock_is_free_after_a_kill(tmp_path):
    path = tmp_path / ".lock"
    process = holder(path)
    try:
        with (
            pytest.raises(LockedError, match=f"{process.pid} .*{platform.node()}"),
            locked(path),
        ):
            pass
        discard_locks(tmp_path)
        assert path.exists()
    finally:
        end(process)
    assert path.exists()
    with locked(path):
        assert path.read_text().startswith(own_process())
    assert not path.exists()


def test_lock_files_of_killed_processes_are_removed(tmp_path):
    process = holder(tmp_path / ".scan.h5.lock")
    end(process)
    discard_locks(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_process_can_wait_for_the_lock(tmp_path):
    path = tmp_path / ".lock"
    process = holder(path)
    stop = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {process.pid}"])
    with locked(path, wait=True):
        assert process.wait() == -signal.SIGKILL
    stop.wait()
    process.stdout.close()


def test_processes_never_hold_a_lock_together(tmp_path, monkeypatch):
    """Three processes each add one to a number 30 times, and no addition is lost."""
    monkeypatch.setattr(locks, "_WAIT_s", 0.001)
    number = tmp_path / "number"
    number.write_text("0")
    words = [sys.executable, "-c", COUNT, str(tmp_path / ".lock"), str(number)]
    processes = [subprocess.Popen(words) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert number.read_text() == "90"


def test_without_locks_of_the_system_the_file_is_the_lock(tmp_path, monkeypatch):
    without_system_locks(monkeypatch)
    path = tmp_path / ".lock"
    with locked(path):
        with pytest.raises(LockedError, match=f"{os.getpid()} .*delete"), locked(path):
            pass
        assert path.exists()
    assert not path.exists()
    path.write_text(f"1.1 {platform.node()} then\n")  # pid 1 was started later
    with locked(path):
        pass
    path.write_text("1.1 another_machine then\n")
    with pytest.raises(LockedError, match=f"delete {path}"), locked(path):
        pass
    path.unlink()  # the remedy in the message
    with locked(path):
        pass


def test_an_old_empty_lock_file_is_free(tmp_path, monkeypatch):
    """Its process was killed before it wrote its name."""
    without_system_locks(monkeypatch)
    path = tmp_path / ".lock"
    path.write_text("")
    with pytest.raises(LockedError, match="another process"), locked(path):
        pass
    os.utime(path, (time.time() - 60,) * 2)
    with locked(path):
        pass
