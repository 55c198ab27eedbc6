"""Solubility of molecules (Delaney, 2004, "ESOL"; MoleculeNet's set) by graph attention and graph convolutions; and N
molecules at once, in one union graph.

Needs PyTorch Geometric and RDKit: ``pip install '.[graphs]'`` in a clone.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastmux.distribution import of_extra
from fastmux.modules.groups import group
from fastmux.training.experiments.base import Experiment, Metric, Multiplexing, Rows, draw_split, scales, select
from fastmux.training.tasks.labels import measurement
from fastmux.training.tasks.readers import find_files, read_table

SMILES, TARGET = "smiles", "measured.log.solubility.in.mols.per.litre"
#: Delaney's own linear model, fitted to these molecules: a figure to compare with.
DELANEY = "ESOL.predicted.log.solubility.in.mols.per.litre"
TEST_SHARE = 0.2
#: Convolutions behind the attention.
CONVOLUTIONS = 3
#: What stands where a molecule has no further atom or bond.
PAD = -1


@dataclass(frozen=True)
class Molecules(Experiment):
    """Attributes:
    hidden_size: The features of an atom.
    num_heads: The heads of the graph attention.
    dropout: Dropout before the last layer.
    """

    hidden_size: int = 96
    num_heads: int = 4
    dropout: float = 0.1

    name = "esol"
    inputs = ("atoms", "ends", "bonds")
    metrics = (Metric("rmse", of_mean=math.sqrt), Metric("mae"))
    splits_by_seed = True

    def __post_init__(self):
        super().__post_init__()
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}")

    def load(self, data_dir: str, seed: int) -> tuple[Rows, Rows]:
        rows = read_molecules(data_dir)
        train, test = draw_split(len(rows["solubility"]), TEST_SHARE, seed)
        rows = {**rows, **scales(rows["solubility"], train)}
        return select(rows, train), select(rows, test)

    def model(self, multiplexing: Multiplexing) -> nn.Module:
        return MoleculeNetwork(self, multiplexing)

    def loss(self, outputs: Tensor, rows: Rows) -> Tensor:
        return nn.functional.mse_loss(outputs, (rows["solubility"] - rows["center"]) / rows["scale"])

    def measure(self, outputs: Tensor, rows: Rows) -> Rows:
        return errors(outputs.float() * rows["scale"] + rows["center"], rows["solubility"])

    def references(self, train: Rows, test: Rows) -> dict[str, Rows]:
        return {
            "always the mean": errors(train["solubility"].mean(), test["solubility"]),
            "Delaney's own model, fitted to these": errors(test["delaney"], test["solubility"]),
        }


class MoleculeNetwork(nn.Module):
    """atoms (B, A, 9), ends (B, 2, E), bonds (B, E, 3), padded with -1 -> (B), the solubility, standardised.

    Every atom becomes a vector by its own properties alone. Atom j of N molecules is bound to one vector, and the graph
    network runs once, on the union of their bonds; then each molecule's atoms are taken out of what it made, and their
    mean, sum and maximum tell the solubility.
    """

    def __init__(self, experiment: Molecules, multiplexing: Multiplexing):
        super().__init__()
        from torch_geometric.utils.smiles import e_map, x_map

        hidden = experiment.hidden_size
        self.num_instances = multiplexing.num_instances
        # What an atom or bond is, property by property; a bond also by whose it is, so that they can be told apart.
        self.atom = nn.ModuleList(nn.Embedding(len(values), hidden) for values in x_map.values())
        self.bond = nn.ModuleList(nn.Embedding(self.num_instances * len(values), hidden) for values in e_map.values())
        self.graph = GraphNetwork(hidden, experiment.num_heads)
        self.bound = multiplexing.wrap(self.graph, hidden, feature_dim=-1)
        self.last = nn.Sequential(
            nn.Linear(3 * hidden, hidden), nn.ReLU(), nn.Dropout(experiment.dropout), nn.Linear(hidden, 1)
        )

    def forward(self, atoms: Tensor, ends: Tensor, bonds: Tensor) -> Tensor:
        real = atoms[..., 0] != PAD
        x = sum(table(column.clamp(min=0)) for table, column in zip(self.atom, atoms.unbind(-1), strict=True))
        z = self.bound(x * real[..., None], *self._union(real, ends, bonds)) * real[..., None]
        total = z.sum(1)
        highest = z.masked_fill(~real[..., None], -math.inf).amax(1)
        # Sums grow with molecules, which is what solubility does; a tenth keeps them in the size of the others.
        return self.last(torch.cat([total / real.sum(1, keepdim=True), total / 10, highest], -1)).squeeze(-1)

    def _union(self, real: Tensor, ends: Tensor, bonds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which atoms the groups have (G, A); bonds as places in the flattened (2, E), and their features (E, d)."""
        from torch_geometric.utils import coalesce

        n, longest = self.num_instances, real.shape[1]
        # A short last group is filled with rows from the start of the batch, as `Multiplexed` does it with atoms.
        real, ends, bonds = (group(t, n) for t in (real, ends, bonds))
        groups, slots = (torch.arange(size, device=real.device) for size in real.shape[:2])
        there = ends[:, :, 0] != PAD
        places = (ends + longest * groups[:, None, None, None]).movedim(2, 0)[:, there]
        slot = slots[:, None].expand_as(there[0]).expand_as(there)[there]
        features = sum(
            table(slot * (table.num_embeddings // n) + column)
            for table, column in zip(self.bond, bonds[there].unbind(-1), strict=True)
        )
        places, features = coalesce(places, features, num_nodes=len(real) * longest, reduce="sum")
        return real.any(1), places, features


class GraphNetwork(nn.Module):
    """Graph attention that sees bonds, then graph convolutions: x (G, A, d) -> (G, A, d)."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        from torch_geometric.nn import GATv2Conv, GCNConv

        self.attention = GATv2Conv(hidden_size, hidden_size // num_heads, num_heads, edge_dim=hidden_size)
        self.convolutions = nn.ModuleList(GCNConv(hidden_size, hidden_size) for _ in range(CONVOLUTIONS))
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden_size) for _ in range(1 + CONVOLUTIONS))

    def forward(self, x: Tensor, real: Tensor, places: Tensor, features: Tensor) -> Tensor:
        """real (G, A): where there is an atom; places (2, E), features (E, d): of the bonds, in the flattened x."""
        flat, there = x.flatten(0, 1), real.flatten()
        # Without what is padding: molecules differ much in size.
        places = (there.cumsum(0) - 1)[places]
        h = flat[there]
        h = h + self.norms[0](self.attention(h, places, features)).relu()
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):
            h = h + norm(convolution(h, places)).relu()
        return torch.zeros_like(flat).masked_scatter(there[:, None], h.to(flat.dtype)).view_as(x)


def errors(solubility: Tensor, true: Tensor) -> Rows:
    """Squared and absolute errors of each molecule, (B)."""
    off = (solubility - true).abs()
    return {"rmse": off**2, "mae": off}


@functools.lru_cache(maxsize=1)
def read_molecules(data_dir: str) -> Rows:
    """atoms (rows, A, 9), ends (rows, 2, E), bonds (rows, E, 3): int64, of A atoms and E bond ends at most, padded with
    -1; solubility and Delaney's prediction of it, float32 (rows), log mol/L.

    Raises:
        ValueError: The file is missing; a row is no molecule, its atoms have no bonds, or its solubility is no number.
        MissingExtraError: PyTorch Geometric or RDKit is not installed.
    """
    layout = f"columns {SMILES}, {TARGET}, {DELANEY}"
    path = find_files("esol", data_dir, {"molecules": ("delaney-processed.csv",)}, layout)["molecules"]
    table = read_table(path, [SMILES, TARGET, DELANEY])
    with of_extra("graphs", "the experiment esol"):
        from torch_geometric.utils import from_smiles

    def graph_of(text: str, typed: bool):
        graph = from_smiles(text.strip())
        if not graph.num_nodes:
            raise ValueError(f"is no molecule: {text!r}")
        if graph.num_nodes > 1 and not graph.num_edges:
            raise ValueError(f"has {graph.num_nodes} atoms and no bond between any two: {text!r}")
        return graph

    graphs = table.read(SMILES, graph_of)
    if len(graphs) < 8:
        raise ValueError(f"{path}: {len(graphs)} molecules, expected at least 8, to train on and to test")
    atoms, ends = max(g.num_nodes for g in graphs), max(g.num_edges for g in graphs)
    pad = functools.partial(nn.functional.pad, value=PAD)
    return {
        "atoms": torch.stack([pad(graph.x, (0, 0, 0, atoms - graph.num_nodes)) for graph in graphs]),
        "ends": torch.stack([pad(graph.edge_index, (0, ends - graph.num_edges)) for graph in graphs]),
        "bonds": torch.stack([pad(graph.edge_attr, (0, 0, 0, ends - graph.num_edges)) for graph in graphs]),
        "solubility": torch.tensor(table.read(TARGET, measurement)),
        "delaney": torch.tensor(table.read(DELANEY, measurement)),
    }
