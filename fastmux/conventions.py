"""`Conventions`: what published checkpoints do differently from fastmux."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fastmux.modules.classifier import CLASSIFIERS

RETRIEVAL_DEMULTIPLEXERS = ("shared", "own")


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises ValueError unless ``value`` is one of the names that are allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, allowed))}")


@dataclass(frozen=True)
class Conventions:
    """What checkpoints that the authors of DataMUX and MUX-PLM published do differently from fastmux.

    Args:
        classifier_type: The task head. "linear" (default); "mlp": a layer and a GELU before the linear layer;
            "mlp_norm": a LayerNorm between the two as well.
        retrieval_demultiplexer: The demultiplexer that retrieval reads. "shared" (default): the task's. "own": another
            one of the same kind. A warm-up and a masked language model then train that one only; the task's keeps its
            initial weights.
        retrieval_transform: Whether one more layer, GELU and LayerNorm precede the retrieval decoder.
        retrieval_residual: Whether there are skip connections around that layer, and in "rsa" when retrieval reads it.
        retrieval_skips_first: Whether the retrieval loss leaves out the first position, which is the same in all rows.
        retrieval_counts_padding: Whether the retrieval loss counts padding, as MUX-BERT's masked language model does.
        task_loss_weight: The weight of the task in the loss. 1 - lambda if None.
        first_token_id: The token that replaces the first token of every row. None (default) replaces none.
        ignore_token_types: Whether the model ignores ``token_type_ids``: every token is of the first segment.
        attend_padding: Whether the encoder attends to padding. Retrieval then knows padding by its token.
        padded_length: The length to which every row is padded, or as much of it as the model has room for. The answers
            of a model that attends to padding depend on it. `fastmux.predict`, `fastmux.Labeller` and
            ``model.predict`` pad to it; ``forward`` takes rows as they are. None pads to the longest row.
        ignore_padding_labels: Whether labels at padded positions are ignored, as in DataMUX's token classification.
            Hugging Face's data collators set such labels to -100, which are ignored in any case.

    Raises:
        ValueError: A value is outside of what is listed above, or ``padded_length`` is given for a model that does not
            attend to padding.
    """

    classifier_type: str = "linear"
    retrieval_demultiplexer: str = "shared"
    retrieval_transform: bool = False
    retrieval_residual: bool = False
    retrieval_skips_first: bool = False
    retrieval_counts_padding: bool = False
    task_loss_weight: float | None = None
    first_token_id: int | None = None
    ignore_token_types: bool = False
    attend_padding: bool = False
    padded_length: int | None = None
    ignore_padding_labels: bool = False

    def __post_init__(self) -> None:
        check_choice("classifier_type", self.classifier_type, CLASSIFIERS)
        check_choice("retrieval_demultiplexer", self.retrieval_demultiplexer, RETRIEVAL_DEMULTIPLEXERS)
        if self.task_loss_weight is not None and self.task_loss_weight < 0.0:
            raise ValueError(f"task_loss_weight is {self.task_loss_weight}, expected a number of at least 0")
        if self.padded_length is not None and not (self.attend_padding and self.padded_length >= 1):
            raise ValueError(
                f"padded_length is {self.padded_length}, expected None, or at least 1 and attend_padding=True"
            )

    @classmethod
    def of(cls, given: dict | Conventions | None) -> Conventions:
        """The conventions that are given, as an object or as the dict of a stored config; by default fastmux's own."""
        if isinstance(given, Conventions):
            return given
        unknown = sorted(set(given or {}) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"conventions has {', '.join(unknown)}, which fastmux does not know")
        return cls(**given or {})

    def to_dict(self) -> dict:
        """The conventions that differ from fastmux's own."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}
