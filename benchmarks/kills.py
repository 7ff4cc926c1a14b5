"""Kill simulate, train, evaluate and sweeps at random times, and start them again.

Every command runs in its smallest size in its own folder, which every second time holds the outputs
of a finished run with other settings. It is killed at a random moment (SIGKILL, or one time in four
SIGTERM) and started again. Faults after the kill are files that cannot be read, and folders with
results.json but without all other outputs or with outputs of two runs. Faults after the second
start are temporary files, and outputs that differ from those of an uninterrupted run. Scans,
volumes and results are compared bit by bit, results of training to 1e-5.
"""

import argparse
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import h5py
import torch
import yaml
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
PANEL, GRID = "n_views=2 n_rows=8 n_columns=12 pixel_cm=3.84", "n_z=24 n_y=28 n_x=24 voxel_cm=1.0"
SMALL = [f"tomography.geometry.{word}" for word in PANEL.split()]
SMALL += [f"tomography.grid.{word}" for word in GRID.split()]
SMALL += [f"montecarlo.transport.{w}" for w in ("accuracy=0.3", "chunk_histories=50", "pixel_cm=4")]
SMALL += ["datasets.n_cases=3", "n_threads=1"]
LEARNED = ["experiment=scatter_direct", "scatter.correction.channels=[4,4]"]
LEARNED += ["scatter.correction.grid=[2,3]"]
LEARNED += ["study.split=[1,1,1]", "study.with_noise=false", "trainer.max_epochs=8", "logger=none"]
TIMES = ("seconds", "per_second", "step_share")  # parts of the names of results that are times


@dataclass
class Command:
    """The words of a command for a folder, another setting, and outputs compared bit by bit."""

    words: Callable[[Path], list[str]]
    other: str
    same_bytes: tuple[str, ...] = ()
    seconds: float = 0.0
    reference: Path = field(default_factory=Path)
    earlier: Path = field(default_factory=Path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="simulate, train, evaluate, sweep")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), arguments.kills, arguments.seed, arguments.only)
    Console(width=100).print(table(results))
    for fault in results["faults"]:
        print(fault)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if results["faults"] else 0)


def measure(folder: Path, n_kills: int, seed: int, only: list[str] | None = None) -> dict:
    """Counts for each command, and a description of each fault."""
    commands = prepared(folder, only)
    draw, counts, faults = random.Random(seed), {name: _zeros() for name in commands}, []
    for number in track(range(n_kills), "kills", console=Console(stderr=True)):
        name = list(commands)[number % len(commands)]
        command, run = commands[name], folder / "runs" / f"{name}_{number}"
        has_earlier = number // len(commands) % 2 == 1
        if has_earlier:
            shutil.copytree(command.earlier, run)
        kind = signal.SIGTERM if draw.random() < 0.25 else signal.SIGKILL
        after_s = draw.uniform(0.2, 1.0) * command.seconds
        killed = _killed(command.words(run), after_s, kind)
        case = f"{name} {number}, {kind.name} after {after_s:.2f} s"
        wrong = damaged(run) + unfinished(run, command, has_earlier)
        status = _started(command.words(run)).returncode
        wrong += [f"the second start exits with {status}"] * bool(status)
        again = damaged(run) + leftover(run) + different(run, command)
        count = counts[name]
        count["kills"] += killed
        count["finished before"] += not killed
        count["damaged"] += bool(wrong)
        count["different"] += bool(again)
        faults += [f"{case}: {fault}" for fault in wrong + again]
        shutil.rmtree(run, ignore_errors=True)
    return {"seed": seed, "commands": counts, "faults": faults}


def prepared(folder: Path, only: list[str] | None = None) -> dict[str, Command]:
    """The commands, each with its time, a reference run, and a finished run with other settings."""
    scans = folder / "scans"
    train = [*SMALL, *LEARNED, f"paths.data={folder / 'data'}"]

    def script(name: str, *words: str) -> list[str]:
        return [sys.executable, str(ROOT / f"{name}.py"), *words]

    commands = {
        "simulate": Command(
            lambda run: script("simulate", *SMALL, f"folder={run}"),
            "datasets.n_cases=2",  # a smaller set; scans with other settings would be rejected
            ("scans/", "results.json"),
        ),
        "train": Command(lambda run: script("train", *train, f"hydra.run.dir={run}"), "seed=7"),
        "evaluate": Command(
            lambda run: script(
                "evaluate", f"scans={scans}", "scatter=none", f"folder={run}", "n_threads=1"
            ),
            "vmi_keV=[50,70]",
            (".nii.gz", "projections.h5", "results.json"),
        ),
        "sweep": Command(
            lambda run: script("train", "-m", *train, "seed=1,2", f"hydra.sweep.dir={run}"),
            "trainer.max_epochs=4",
        ),
    }
    _run(commands["simulate"].words(scans))  # the input of evaluate
    commands = {name: command for name, command in commands.items() if not only or name in only}
    for name, command in commands.items():
        command.reference, command.earlier = folder / f"{name}_0", folder / f"{name}_1"
        _run([*command.words(command.earlier), command.other])  # also compiles, and makes the scans
        began = perf_counter()
        _run(command.words(command.reference))
        command.seconds = perf_counter() - began
    return commands


def damaged(folder: Path) -> list[str]:
    """Outputs under their final names that cannot be read."""
    wrong = []
    for path in (path for path in folder.rglob("*") if path.is_file() and _is_output(path)):
        try:
            _read(path)
        except Exception as error:  # libraries raise many kinds for a truncated file
            wrong.append(f"{path.relative_to(folder)} cannot be read: {error}")
    return wrong


def unfinished(run: Path, command: Command, has_earlier: bool) -> list[str]:
    """Folders with results.json that lack outputs, or that hold outputs of two runs."""
    wrong = []
    for marker in run.rglob("results.json"):
        job = marker.parent
        place = job.relative_to(run)
        if any(part.startswith((".", "earlier_")) for part in place.parts):
            continue
        outputs = _outputs(job)
        as_new = outputs == _outputs(command.reference / place)
        as_earlier = has_earlier and outputs == _outputs(command.earlier / place)
        if not (as_new or as_earlier):
            wrong.append(f"{place} has results.json, but not the outputs of one run")
    return wrong


def leftover(run: Path) -> list[str]:
    """Temporary files and locks in the folder of a finished run."""
    left = [path for path in run.rglob("*") if path.name.endswith((".part", ".lock"))]
    return [f"{path.relative_to(run)} is left over" for path in left]


def different(run: Path, command: Command) -> list[str]:
    """Outputs that differ from those of an uninterrupted run."""
    found, wanted = _outputs(run), _outputs(command.reference)
    wrong = [f"{name} is missing or belongs to another run" for name in sorted(found ^ wanted)]
    for name in found & wanted:
        if any(word in name for word in command.same_bytes):
            if (run / name).read_bytes() != (command.reference / name).read_bytes():
                wrong.append(f"{name} differs")
        elif name.endswith("results.json"):
            ours, theirs = (
                json.loads((place / name).read_text(encoding="utf-8"))
                for place in (run, command.reference)
            )
            wrong += [
                f"{name}: {key} is {ours.get(key)}, uninterrupted {value}"
                for key, value in theirs.items()
                if not any(word in key for word in TIMES)
                and not abs(ours.get(key, float("nan")) - value) <= 1e-5 * abs(value) + 1e-9
            ]
    return wrong


def table(results: dict) -> Table:
    shown = Table(title="killed and started again", title_justify="left")
    shown.add_column("command")
    for column in _zeros():
        shown.add_column(column, justify="right")
    for name, counts in results["commands"].items():
        shown.add_row(name, *(str(counts[column]) for column in _zeros()))
    return shown


def _zeros() -> dict[str, int]:
    return dict.fromkeys(("kills", "finished before", "damaged", "different"), 0)


def _outputs(folder: Path) -> set[str]:
    """Names of all outputs, without logs and outputs that were moved aside."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = (name for name in names if not any(part.startswith("earlier_") for part in name.parts))
    return {name.as_posix() for name in kept if _is_output(name)}


def _is_output(path: Path) -> bool:
    return not path.name.endswith((".log", ".lock", ".part")) and not any(
        part.endswith(".part") for part in path.parts
    )


def _read(path: Path) -> None:
    """Read a file from beginning to end."""
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)
    elif path.suffix == ".ckpt":
        torch.load(path, weights_only=True)
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".yaml":
        yaml.safe_load(path.read_text(encoding="utf-8"))
    elif path.suffix == ".png":
        Image.open(path).load()
    elif path.suffix == ".gz":
        gzip.decompress(path.read_bytes())
    elif path.suffix == ".html" and not path.read_text(encoding="utf-8").rstrip().endswith(
        "</html>"
    ):
        raise ValueError("</html> is missing")


def _killed(words: list[str], after_s: float, kind: signal.Signals) -> bool:
    """Start a command and send it a signal after a time; whether it was still running."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, env=_environment(), **quiet)  # type: ignore[call-overload]
    try:
        process.wait(after_s)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(kind)
        process.wait()
        return True


def _run(words: list[str]) -> None:
    done = _started(words)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} exits with {done.returncode}: {done.stderr[-800:]}")


def _started(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, check=False, env=_environment(), capture_output=True, text=True)


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


if __name__ == "__main__":
    main()
