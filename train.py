"""Run one experiment: compose its configuration, fit or calibrate, write results and a report.

Commands:
    python train.py                                   the default experiment
    python train.py experiment=thresholds_slabs       another one
    python train.py --help                            what there is to choose
"""

import os
from pathlib import Path

import hydra
from omegaconf import DictConfig

from pcctlearn.command import run_command

os.environ.setdefault("PCCTLEARN_ROOT", str(Path(__file__).resolve().parent))


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """Run the experiment; the number returned is what a sweep minimises."""
    from pcctlearn.experiments.run import run  # heavy imports wait until there is something to run

    return run(config)


if __name__ == "__main__":
    run_command(main, "train.py")
