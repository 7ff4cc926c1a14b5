"""Correct scans for scatter, decompose and reconstruct them: counts, maps and images in files.

Commands:
    python evaluate.py scans=SCAN.h5 scatter=none       the counts as they are
    python evaluate.py scans=FOLDER scatter=kernel      scatter kernels of the scanner itself
    python evaluate.py scans=SCAN.h5 scatter=network scatter.checkpoint=CHECKPOINT.ckpt
    python evaluate.py --help                           what there is to choose
"""

import os
from pathlib import Path
from typing import Any

from pcctlearn.command.entry import run_configured

os.environ.setdefault("PCCTLEARN_ROOT", str(Path(__file__).resolve().parent))


def main(config: Any) -> None:
    """Evaluate the scans that the configuration names."""
    from pcctlearn.experiments.evaluation import evaluate  # heavy imports wait until needed

    evaluate(config)


if __name__ == "__main__":
    run_configured(main, "evaluate.py")
