"""Run one experiment: fit or calibrate, write results and a report (``python train.py --help``)."""

from pcctlearn.app.main import train

if __name__ == "__main__":
    train()
