"""Make scans or the response of a detector (``python simulate.py --help``).

An interrupted command continues where it stopped when it is run again.
"""

from pcctlearn.app.main import simulate

if __name__ == "__main__":
    simulate()
