"""Calibrate the pixels of a detector from counts behind plates (``python calibrate.py --help``)."""

from pcctlearn.app.main import calibrate

if __name__ == "__main__":
    calibrate()
