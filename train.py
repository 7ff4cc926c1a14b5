"""Run one experiment: compose its configuration, fit or calibrate, write results and a report.

Commands:
    python train.py                                   the default experiment
    python train.py experiment=thresholds_slabs       another one
    python train.py --help                            what there is to choose
"""

import errno
import os
import sys
from pathlib import Path

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

os.environ.setdefault("PCCTLEARN_ROOT", str(Path(__file__).resolve().parent))

# what a wrong word, a wrong file, a full disk or memory, or a missing package raises; anything else
# is ours, with its traceback
EXPECTED = (
    ValueError,
    TypeError,
    OSError,
    ArithmeticError,
    MemoryError,
    ImportError,
    HydraException,
    OmegaConfBaseException,
)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """Run the experiment; the number returned is what a sweep minimises."""
    from pcctlearn.experiments.run import run  # heavy imports wait until there is something to run

    return run(config)


def explain(error: BaseException) -> str:
    """What was wrong and how to mend it, in one line."""
    first = " ".join(str(error).split())
    if first.startswith("Could not override"):
        key = first.split("'")[1]
        return f"there is no configuration key {key!r}: `python train.py --cfg job` shows them all"
    if isinstance(error, MissingConfigException) and "Available options" in first:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        choices = first.partition(f"in '{group}':")[2].partition("Config search path")[0]
        return f"{group}={choice} is no choice: take one of {', '.join(choices.split())}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} needs a value: add {error.full_key}=VALUE"
    while isinstance(error, HydraException) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.errno is not None:
        remedy = "is it there and open to you? Choose another folder with hydra.run.dir=FOLDER"
        if error.errno == errno.ENOSPC:
            remedy = "free some space, or choose another folder with hydra.run.dir=FOLDER"
        return f"{error.filename}: {error.strerror}; {remedy}"
    return " ".join(str(error).split())


if __name__ == "__main__":
    wants_traceback = os.environ.setdefault("HYDRA_FULL_ERROR", "") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then leaves its errors to us
    try:
        main()
    except EXPECTED as error:
        if wants_traceback:
            raise
        print(f"pcctlearn: {explain(error)}", file=sys.stderr)
        sys.exit(2)
