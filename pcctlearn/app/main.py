"""The command ``pcctlearn``, and what train.py, simulate.py, calibrate.py and evaluate.py call."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pcctlearn.app.entry import run_command, run_configured

_USAGE = """pcctlearn COMMAND [WORDS …]

train      run an experiment: fit or calibrate, measure, write results and a report
simulate   make scans of phantoms or CT volumes, or the response table of a detector
calibrate  find gain, skew and thresholds of every detector pixel from plates
import     BENCH.yaml FOLDER: raw frames of a bench to plate and scan files
evaluate   correct scans for scatter, decompose and reconstruct them
check      FILE …: print the contents of scan, plate and pixel model files, or their faults
compare    FOLDER: compare the finished runs below a folder
report     FOLDER: draw the figures of a finished run again, and write its report

`pcctlearn COMMAND --help` lists the settings of train, simulate, calibrate and evaluate."""


def train() -> None:
    """Run one experiment."""
    run_configured(_run, "train.py")


def simulate() -> None:
    """Make scans, or the response table of a detector."""
    run_configured(_run, "simulate.py")


def calibrate() -> None:
    """Calibrate the pixels of a detector from counts behind plates."""
    run_configured(_run, "calibrate.py")


def evaluate() -> None:
    """Correct scans for scatter, decompose and reconstruct them."""
    run_configured(_run, "evaluate.py")


def check() -> None:
    """Print the contents of files, or their faults; exit with 1 if there are any."""
    from pcctlearn.app.check import check_files

    sys.exit(check_files())


def import_frames() -> None:
    """Turn raw frames of a bench into plate and scan files."""

    def main() -> None:
        from pcctlearn.bench.importer import import_frames as import_all

        import_all()

    run_command(main, "import")


def compare() -> None:
    """Compare the finished runs below a folder."""

    def main() -> None:
        from pcctlearn.app.comparison import compare as compare_runs

        if len(sys.argv) != 2 or not compare_runs(Path(sys.argv[1])):
            raise ValueError("give a folder with two or more finished runs, such as multirun/DATE")

    run_command(main, "compare")


def report() -> None:
    """Draw the figures of a finished run again, and write its report."""

    def main() -> None:
        from pcctlearn.console import say
        from pcctlearn.runs.results import redraw

        if len(sys.argv) != 2:
            raise ValueError("give the folder of a finished run, such as outputs/EXPERIMENT/DATE")
        folder = Path(sys.argv[1])
        drawn = redraw(folder)
        say(f"drew {len(drawn)} figures; report: {folder / 'report.html'}")

    run_command(main, "report")


COMMANDS: dict[str, Callable[[], None]] = {
    "train": train,
    "simulate": simulate,
    "calibrate": calibrate,
    "evaluate": evaluate,
    "import": import_frames,
    "check": check,
    "compare": compare,
    "report": report,
}


def main() -> None:
    """Run the command that the first argument names, with the other arguments."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(_USAGE)
    elif name not in COMMANDS:
        print(
            f"pcctlearn: unknown command {name}; accepted: {', '.join(COMMANDS)}", file=sys.stderr
        )
        sys.exit(2)
    else:
        sys.argv = [f"pcctlearn {name}", *sys.argv[2:]]
        COMMANDS[name]()


def _run(config: Any) -> float | None:
    from pcctlearn.app.run import run  # heavy imports wait until there is something to run

    return run(config)
