"""Task heads on demultiplexed states."""

from __future__ import annotations

from torch import Tensor, nn

CLASSIFIERS = ("linear", "mlp", "mlp_norm")


class MlpClassifier(nn.Module):
    """``W_2 (LN) GELU(W_1 z + b_1) + b_2``: z (..., d) -> (..., C). There is a LayerNorm if ``norm`` is true."""

    def __init__(self, width: int, num_labels: int, *, norm: bool = False, eps: float = 1e-12):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width, eps=eps) if norm else nn.Identity()
        self.out_proj = nn.Linear(width, num_labels)

    def forward(self, z: Tensor) -> Tensor:
        return self.out_proj(self.layer_norm(nn.functional.gelu(self.dense(z))))


def build_classifier(kind: str, width: int, num_labels: int, eps: float = 1e-12) -> nn.Module:
    """Builds the head of a name in `CLASSIFIERS`."""
    if kind == "linear":
        return nn.Linear(width, num_labels)
    return MlpClassifier(width, num_labels, norm=kind == "mlp_norm", eps=eps)
