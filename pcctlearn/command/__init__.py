"""What train.py, simulate.py and evaluate.py share: composition, checks, signals, sentences."""
