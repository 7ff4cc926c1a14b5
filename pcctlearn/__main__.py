"""``python -m pcctlearn COMMAND …``."""

from pcctlearn.app.main import main

main()
