"""The training command, ``train.py``, and what it alone needs: tasks, data, recipes, metrics, plots."""
