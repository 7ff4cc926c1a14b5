"""Run one experiment: compose its configuration, fit or calibrate, write results and a report.

    python train.py                                   the default experiment
    python train.py experiment=thresholds_slabs       another one
    python train.py --help                            what there is to choose
"""

import os
import sys
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

os.environ.setdefault("PCCTLEARN_ROOT", str(Path(__file__).resolve().parent))


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float:
    """Run the experiment; the number returned is what a sweep minimises."""
    from pcctlearn.experiments.run import run  # heavy imports wait until there is something to run

    return run(config)


def explain(error: BaseException) -> str:
    """What was wrong and how to mend it, in one line."""
    first = " ".join(str(error).split())
    if first.startswith("Could not override"):
        key = first.split("'")[1]
        return f"there is no configuration key {key!r}: `python train.py --cfg job` shows them all"
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


if __name__ == "__main__":
    wants_traceback = os.environ.setdefault("HYDRA_FULL_ERROR", "") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then leaves its errors to us
    try:
        main()
    except (
        ValueError,
        TypeError,
        OSError,
        ArithmeticError,
        HydraException,
        OmegaConfBaseException,
    ) as error:
        if wants_traceback:
            raise
        print(f"pcctlearn: {explain(error)}", file=sys.stderr)
        sys.exit(2)
