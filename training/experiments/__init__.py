"""The experiments that ``experiment.py`` knows: each is a file here, an import and an entry of ``EXPERIMENTS``; recipes
are the YAML files beside them."""

from training.experiments.base import Experiment, Metric, Multiplexing, Rows
from training.experiments.mnist import Mnist
from training.experiments.paired_digits import PairedDigits

__all__ = ["EXPERIMENTS", "Experiment", "Metric", "Multiplexing", "Rows"]

#: Every experiment by name.
EXPERIMENTS: dict[str, type[Experiment]] = {experiment.name: experiment for experiment in (Mnist, PairedDigits)}
