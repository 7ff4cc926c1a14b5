"""Command-line code of train.py, simulate.py and evaluate.py: configuration, signals, messages."""
