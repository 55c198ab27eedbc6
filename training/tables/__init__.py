"""The parts of ``experiment.py``: recipes, one cell of a table, and the table."""
