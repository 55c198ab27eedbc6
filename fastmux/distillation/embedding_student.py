"""The student of a model that embeds: a joined encoder with the original's pooling and dense layers."""

from __future__ import annotations

from fastmux.embedding.model import EmbeddingModel
from fastmux.models.joined import JoinedModel


class EmbeddingStudent:
    """What `convert` makes of an `EmbeddingModel`."""

    @staticmethod
    def from_backbone(original: EmbeddingModel, num_instances: int, **structure) -> EmbeddingModel:
        """The arguments and errors are those of `fastmux.JoinedModel.from_backbone`."""
        return original.with_encoder(JoinedModel.from_backbone(original.encoder, num_instances, **structure))
