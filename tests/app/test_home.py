"""The commands run without a home, a password entry and a writable working folder."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile

import pytest
from support.studies import REPOSITORY

from pcctlearn.app import home

SMALL = [
    "tomography.geometry.n_views=2",
    "tomography.geometry.n_rows=8",
    "tomography.geometry.n_columns=12",
]
SMALL += ["tomography.geometry.pixel_cm=3.84", "montecarlo.transport.pixel_cm=3.84"]
SMALL += ["montecarlo.transport.accuracy=0.5", "montecarlo.transport.chunk_histories=50"]
SLABS = ["experiment=thresholds_slabs", "study.water_cm=[0.0,24.0,8.0]", "study.max_steps=2"]
SLABS += ["study.calcium_cm=[0.0,1.0,0.5]"]


@pytest.fixture
def variables(monkeypatch):
    """An environment without the variables of a user."""
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", *home._CACHES):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_writable_home_changes_no_variable(variables, tmp_path):
    variables.setenv("HOME", str(tmp_path))
    variables.setenv("USER", "someone")
    before = dict(os.environ)
    home.provide_home()
    assert dict(os.environ) == before


@pytest.mark.parametrize("place", ["", "/dev/null"], ids=["none", "read-only"])
def test_without_a_writable_home_caches_are_in_a_private_folder(variables, tmp_path, place):
    variables.setattr(tempfile, "tempdir", str(tmp_path))
    variables.setattr(os.path, "expanduser", lambda path: place or path)
    home.provide_home()
    for name in home._CACHES:
        assert os.environ[name].startswith(str(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert ("HOME" in os.environ) == (not place)


def test_a_folder_that_others_can_write_to_is_not_used(variables, tmp_path):
    variables.setattr(tempfile, "tempdir", str(tmp_path))
    variables.setattr(os.path, "expanduser", lambda path: path)
    taken = tmp_path / f"pcctlearn-{os.getuid()}"
    taken.mkdir(mode=0o777)
    taken.chmod(0o777)
    home.provide_home()
    assert not list(taken.iterdir())


@pytest.mark.physics
@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can change its uid")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
def test_the_commands_run_as_nobody_in_a_read_only_folder(tmp_path_factory):
    """A uid without a password entry, no variables but PATH, and / as the working folder."""
    folder = tmp_path_factory.mktemp("nobody")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o777 if path == folder else 0o755)
    reads = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    uid = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *reads)
    bare = ("env", "-i", "--chdir=/", "PATH=/usr/bin:/bin", "OMP_NUM_THREADS=1")
    for words in (
        ["train.py", *SLABS, f"hydra.run.dir={folder}/train"],
        ["simulate.py", *SMALL, "datasets.n_cases=1", f"folder={folder}/scans"],
        ["evaluate.py", f"scans={folder}/scans", "scatter=none", f"folder={folder}/evaluated"],
    ):
        script = str(REPOSITORY / words[0])
        done = subprocess.run(
            [*uid, *bare, sys.executable, script, *words[1:]],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
    for name in ("train", "scans", "evaluated"):
        assert (folder / name / "results.json").is_file()
