"""The experiments that ``experiment.py`` knows: each is a file here, an import and an entry of ``EXPERIMENTS``; recipes
are the YAML files beside them."""

from training.experiments.base import Experiment, Fit, Metric, Multiplexing, Rows
from training.experiments.houses import Houses
from training.experiments.mnist import Mnist
from training.experiments.molecules import Molecules
from training.experiments.paired_digits import PairedDigits
from training.experiments.prumux import Prumux
from training.experiments.pruning import Pruning

__all__ = ["EXPERIMENTS", "Experiment", "Fit", "Metric", "Multiplexing", "Rows"]

#: Every experiment by name.
EXPERIMENTS: dict[str, type[Experiment]] = {
    experiment.name: experiment for experiment in (Mnist, PairedDigits, Pruning, Prumux, Houses, Molecules)
}
