"""A classifier of sequences or tokens with its tokenizer, multiplexed or not: loaded, checked and ready to run."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
import sys
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
from fastmux.joined_configuration import BERT_LIKE
from fastmux.labelling.labels import Answers, label_names
from fastmux.labelling.placement import Placement
from fastmux.labelling.row_tokenizer import RowTokenizer
from fastmux.models.checkpoints import read_config
from fastmux.models.heads import TMuxForSequenceClassification, TMuxForTokenClassification
from fastmux.models.joined import JoinedForSequenceClassification
from fastmux.models.loading import check_vocabulary, read_pretrained, read_tokenizer
from fastmux.models.published import is_published, published_config
from fastmux.modules.embeddings import EmbeddingAdapter
from fastmux.modules.is_plain import is_plain
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes.torch import TorchRuntime, problem_of

#: For each ending of a classifier's class, the class that loads it and the class that loads a published T-MUX.
_KINDS = {
    "ForSequenceClassification": (AutoModelForSequenceClassification, TMuxForSequenceClassification),
    "ForTokenClassification": (AutoModelForTokenClassification, TMuxForTokenClassification),
}
#: Texts on which the fast and the slow way of tokenising must agree.
_PROBES = ["a", "Don't  stop: it's 3.14 \u00e9t\u00e9 \u6f22\u5b57 [MASK]", " b "]


@dataclass
class Classifier:
    """A model in eval mode, and its tokenizer.

    Attributes:
        per_token: Whether it labels tokens.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
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
        check_vocabulary(model, tokenizer)
        if tokenizer.pad_token_id is None:
            raise ValueError(f"the tokenizer of the {what} has no pad token, which batches need")
        return cls(model, tokenizer, kind == "ForTokenClassification")

    @property
    def model_class(self) -> str:
        return type(self.model).__name__

    @property
    def num_instances(self) -> int:
        """N; 1 of a plain encoder."""
        return getattr(self.model.config, "num_instances", 1)

    @property
    def problem_type(self) -> str:
        """As in a Hugging Face config."""
        return "single_label_classification" if self.per_token else problem_of(self.model.config)

    def vocabulary(self) -> dict[str, int]:
        """The tokenizer's ids, by token."""
        return self.tokenizer.get_vocab()

    @property
    def names(self) -> list[str]:
        """The names of the labels."""
        return label_names(self.model.config.id2label, self.model.config.num_labels)

    def max_length(self, asked: int | None, what: str = "model") -> int:
        """The most tokens of a row, special tokens included.

        Raises:
            ValueError: ``asked`` is more than the model has positions.
        """
        room = room_of(self.model)
        if asked is not None and asked > room:
            raise ValueError(f"max_length is {asked}, but the {what} has room for {room} tokens")
        return asked or min(room, self.tokenizer.model_max_length)

    def takes_types(self) -> bool:
        """Whether the model tells the texts of a pair apart by ``token_type_ids``."""
        config = self.model.config
        if getattr(getattr(config, "conventions", None), "ignore_token_types", False):
            return False
        ours = hasattr(config, "backbone_config")
        known = getattr(config.backbone_config if ours else config, "type_vocab_size", 0 if ours else None)
        accepted = "token_type_ids" in inspect.signature(self.model.forward).parameters
        return accepted and (known is None or known > 1) and "token_type_ids" in self.tokenizer.model_input_names

    def row_tokenizer(self, max_length: int, truncation: bool, words: str | None, pairs: bool) -> RowTokenizer:
        """A tokenizer of rows for the model, for any process.

        Raises:
            ValueError: The tokenizer cannot say where words are.
        """
        given = words == "given"
        probes = [probe.split() for probe in _PROBES] if given else _PROBES
        try:
            expected = self.tokenizer(probes, is_split_into_words=given, return_token_type_ids=self.takes_types())
        except (ValueError, AssertionError) as error:
            raise ValueError(f"the tokenizer takes no words: {error}") from error
        types = self.takes_types() and (pairs or any(map(any, expected["token_type_ids"])))
        rust = getattr(self.tokenizer, "backend_tokenizer", None)
        if rust is not None:
            own = RowTokenizer(rust.to_str(), max_length, truncation, words, types)
            fast = RowTokenizer(rust.to_str(), sys.maxsize, False, words, types)
            fast.start()
            tokens, _ = fast.encode(probes)
            ends = tokens.starts.tolist()
            found = [tokens.ids[a:b].tolist() for a, b in itertools.pairwise(ends)]
            if found == expected["input_ids"]:
                return own
        if words is not None:
            raise ValueError("the tokenizer cannot say where words are, which tags need; expected a fast one, in Rust")
        return RowTokenizer(self.tokenizer, max_length, truncation, None, types)

    def answers(self, words: str | None, all_scores: bool, prefix: str = "") -> Answers:
        """What turns its logits into answers; ``words`` is that of the `RowTokenizer` that tokenised."""
        return Answers(self.per_token, self.problem_type, self.names, all_scores, words == "found", prefix)

    def engine(
        self, placement: Placement, copies: int = 1, fallback: Engine | None = None, min_confidence: float | None = None
    ) -> Engine:
        """An engine that runs the model on its device, in eval mode, with only the part of the last layer that the head
        reads."""
        model = self.model
        if not self.per_token and _reads_first_position(model):
            # With N = 1 nothing is joined: this only runs the last layer at the first position alone.
            model = JoinedForSequenceClassification.from_backbone(model, 1, row_layers=0, last_layers=1)
        model = model.to(placement.device, getattr(torch, placement.dtype)).eval()
        if placement.torch_compile:
            model.compile(dynamic=True)
        runtime = TorchRuntime(model, self.tokenizer.pad_token_id, takes_types=self.takes_types())
        return Engine(runtime, placement.batch_tokens, copies, placement.pass_tokens, fallback, min_confidence)

    def fingerprint(self) -> dict[str, str]:
        """The digests of all weights and of the tokenizer."""
        digest = hashlib.sha256(self.model.config.to_json_string().encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        rust = getattr(self.tokenizer, "backend_tokenizer", None)
        words = rust.to_str() if rust is not None else repr(sorted(self.tokenizer.get_vocab().items()))
        return {
            "model": digest.hexdigest()[:32],
            "tokenizer": hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:32],
        }


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


def room_of(model: PreTrainedModel) -> int:
    """How many tokens of a row, special tokens included, a model has positions for."""
    encoder = model.base_model
    if hasattr(encoder, "max_length") and hasattr(encoder, "multiplexer"):
        return encoder.max_length
    encoder = encoder.base_model if encoder.base_model is not encoder else encoder
    room = getattr(encoder.config, "max_position_embeddings", None)
    if hasattr(encoder, "embeddings"):
        with contextlib.suppress(AttributeError):
            return EmbeddingAdapter(encoder.embeddings, room).max_length
    return room or sys.maxsize


def _reads_first_position(model: PreTrainedModel) -> bool:
    """Whether a plain encoder's head reads one position, and its modules have no hooks that would be lost."""
    if model.config.model_type not in BERT_LIKE or getattr(model.config, "is_decoder", False):
        return False
    if not type(model).__module__.startswith("transformers.models."):
        return False
    return all(is_plain(module, type(module)) for module in model.modules())
