"""Functions that write files with different libraries, for tests of a full disk."""

import h5py
import matplotlib.figure
import numpy as np


def save_h5(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.random.default_rng(0).random(100_000))


WRITERS = {
    "text": lambda path: path.write_text("x" * 800_000),
    "HDF5": save_h5,
    "figure": lambda path: matplotlib.figure.Figure(dpi=300).savefig(path, format="raw"),
}
