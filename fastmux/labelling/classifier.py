"""A classifier of sequences or tokens with its tokenizer, multiplexed or not: loaded, checked and ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from fastmux.files import finish_replacing
from fastmux.labelling.labels import Answers, label_names
from fastmux.labelling.placement import Placement
from fastmux.labelling.tokenized_model import TokenizedModel, check_tokenizer, reads_by_layers
from fastmux.models.checkpoints import read_config
from fastmux.models.heads import TMuxForSequenceClassification, TMuxForTokenClassification
from fastmux.models.joined import JoinedForSequenceClassification
from fastmux.models.loading import read_pretrained, read_tokenizer
from fastmux.models.published import is_published, published_config
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes.torch import problem_of

#: For each ending of a classifier's class, the class that loads it and the class that loads a published T-MUX.
_KINDS = {
    "ForSequenceClassification": (AutoModelForSequenceClassification, TMuxForSequenceClassification),
    "ForTokenClassification": (AutoModelForTokenClassification, TMuxForTokenClassification),
}


@dataclass
class Classifier(TokenizedModel):
    """A model in eval mode, and its tokenizer.

    Attributes:
        per_token: Whether it labels tokens.
    """

    per_token: bool

    @classmethod
    def of(
        cls, model: str | PathLike | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, what: str = "model"
    ) -> Classifier:
        """The classifier that is given as a model, a name or a folder.

        Raises:
            ValueError: The model is no classifier, has no tokenizer or one of another vocabulary, lacks weights, or
                cannot be read.
        """
        if isinstance(model, (str, PathLike)):
            tokenizer = tokenizer or read_tokenizer(model)
            model, named = _load(model, what)
        else:
            named = type(model).__name__
            if tokenizer is None:
                raise ValueError(f"tokenizer is None, expected the tokenizer of the {what}")
        kind = next((end for end in _KINDS if named.endswith(end)), None)
        if kind is None:
            raise ValueError(f"{what} is a {named}, expected a class that ends in {' or '.join(_KINDS)}")
        check_tokenizer(model, tokenizer, what)
        return cls(model, tokenizer, kind == "ForTokenClassification")

    @property
    def problem_type(self) -> str:
        """As in a Hugging Face config."""
        return "single_label_classification" if self.per_token else problem_of(self.model.config)

    @property
    def names(self) -> list[str]:
        """The names of the labels."""
        return label_names(self.model.config.id2label, self.model.config.num_labels)

    def answers(self, words: str | None, all_scores: bool, prefix: str = "") -> Answers:
        """What turns its logits into answers; ``words`` is that of the `RowTokenizer` that tokenised."""
        return Answers(self.per_token, self.problem_type, self.names, all_scores, words == "found", prefix)

    def engine(
        self, placement: Placement, copies: int = 1, fallback: Engine | None = None, min_confidence: float | None = None
    ) -> Engine:
        """An engine that runs the model on its device, in eval mode, with only the part of the last layer that the head
        reads."""
        model = self.model
        if not self.per_token and reads_by_layers(model):
            # With N = 1 nothing is joined: this only runs the last layer at the first position alone.
            model = JoinedForSequenceClassification.from_backbone(model, 1, row_layers=0, last_layers=1)
        model = model.to(placement.device, getattr(torch, placement.dtype)).eval()
        if placement.torch_compile:
            model.compile(dynamic=True)
        runtime = self.runtime(model, placement)
        return Engine(runtime, placement.batch_tokens, copies, placement.pass_tokens, fallback, min_confidence)


def _load(name: str | PathLike, what: str) -> tuple[PreTrainedModel, str]:
    try:
        if Path(name).is_dir():
            finish_replacing(Path(name))
        stored = read_config(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"{what} {str(name)!r} cannot be loaded: {error}") from error
    published = is_published(stored)
    config = published_config(str(name), stored) if published else read_pretrained(AutoConfig, name, what)
    named = (config.architectures or ["model without a head"])[0]
    kind = next((end for end in _KINDS if named.endswith(end)), None)
    if kind is None:
        raise ValueError(
            f"{what} {str(name)!r} is a {named}, which gives no labels; expected a class that ends in "
            f"{' or '.join(_KINDS)}"
        )
    model, info = read_pretrained(_KINDS[kind][1 if published else 0], name, what, output_loading_info=True)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"{what} {str(name)!r} lacks {len(missing)} tensors, e.g. {', '.join(missing[:3])}")
    return model, named
