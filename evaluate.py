"""Correct scans for scatter, decompose and reconstruct them (``python evaluate.py --help``)."""

from pcctlearn.app.main import evaluate

if __name__ == "__main__":
    evaluate()
