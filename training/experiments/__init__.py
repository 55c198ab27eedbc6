"""The experiments that ``experiment.py`` knows: each is a file here, an import and an entry of ``EXPERIMENTS``; recipes
are the YAML files beside them."""

from fastmux.training.experiments.base import Experiment, Fit, Metric, Multiplexing, Rows
from fastmux.training.experiments.houses import Houses
from fastmux.training.experiments.mnist import Mnist
from fastmux.training.experiments.molecules import Molecules
from fastmux.training.experiments.paired_digits import PairedDigits
from fastmux.training.experiments.prumux import Prumux
from fastmux.training.experiments.pruning import Pruning

__all__ = ["EXPERIMENTS", "Experiment", "Fit", "Metric", "Multiplexing", "Rows"]

#: Every experiment by name.
EXPERIMENTS: dict[str, type[Experiment]] = {
    experiment.name: experiment for experiment in (Mnist, PairedDigits, Pruning, Prumux, Houses, Molecules)
}
