"""Run one experiment: compose its configuration, fit or calibrate, write results and a report.

Commands:
    python train.py                                   the default experiment
    python train.py experiment=thresholds_slabs       another one
    python train.py --help                            what there is to choose
"""

import os
from pathlib import Path
from typing import Any

from pcctlearn.command.entry import run_configured

os.environ.setdefault("PCCTLEARN_ROOT", str(Path(__file__).resolve().parent))


def main(config: Any) -> float | None:
    """Run the experiment; the number returned is what a sweep minimises."""
    from pcctlearn.experiments.run import run  # heavy imports wait until there is something to run

    return run(config)


if __name__ == "__main__":
    run_configured(main, "train.py")
