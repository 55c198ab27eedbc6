"""The parts of ``experiment.py``: its recipes, one cell of a table, the table."""
