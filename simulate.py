"""Make data: scans with scatter and noise of phantoms or CT volumes, or a detector's response.

Commands:
    python simulate.py                                           ten heads, a minute or two
    python simulate.py datasets=nifti datasets.path=CT.nii.gz    your own CT
    python simulate.py detector=silicon                          the response of a detector
    python simulate.py --help                                    what there is to choose

An interrupted command continues where it stopped when it is run again.
"""

import os
from pathlib import Path
from typing import Any

from pcctlearn.command.entry import run_configured

os.environ.setdefault("PCCTLEARN_ROOT", str(Path(__file__).resolve().parent))


def main(config: Any) -> None:
    """Simulate what the configuration says."""
    from pcctlearn.experiments.run import run  # heavy imports wait until there is something to run

    run(config)


if __name__ == "__main__":
    run_configured(main, "simulate.py")
