"""A model with its tokenizer: what both say of rows, and a digest of all that answers depend on."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.joins import BERT_LIKE
from fastmux.labelling.placement import Placement
from fastmux.labelling.row_tokenizer import RowTokenizer
from fastmux.models.loading import check_vocabulary
from fastmux.modules.embeddings import EmbeddingAdapter
from fastmux.modules.is_plain import is_plain
from fastmux.passes.runtimes.captured import CudaGraphs
from fastmux.passes.runtimes.torch import TorchRuntime

#: Texts on which the fast and the slow way of tokenising must agree.
_PROBES = ["a", "Don't  stop: it's 3.14 \u00e9t\u00e9 \u6f22\u5b57 [MASK]", " b "]


@dataclass
class TokenizedModel:
    """A model in eval mode, and its tokenizer."""

    model: Any
    tokenizer: PreTrainedTokenizerBase

    @property
    def model_class(self) -> str:
        return type(self.model).__name__

    @property
    def forward(self) -> Callable:
        """What is called with the tokens of rows."""
        return self.model.forward

    @property
    def num_instances(self) -> int:
        """N; 1 of a plain encoder."""
        return getattr(self.model.config, "num_instances", 1)

    def vocabulary(self) -> dict[str, int]:
        """The tokenizer's ids, by token."""
        return self.tokenizer.get_vocab()

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
        accepted = "token_type_ids" in inspect.signature(self.forward).parameters
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
            own = RowTokenizer(rust.to_str(), max_length, truncation, words, types, self.tokenizer.truncation_side)
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

    def runtime(self, model: Any, placement: Placement) -> TorchRuntime:
        """What runs the model, or a form of it, on its device."""
        graphs = CudaGraphs() if placement.captured else None
        types, room = self.takes_types(), room_of(self.model)
        return TorchRuntime(model, self.tokenizer.pad_token_id, takes_types=types, graphs=graphs, room=room)

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


def check_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, what: str) -> None:
    """Raise ValueError for a tokenizer of another vocabulary than the model's, or without a pad token."""
    check_vocabulary(model, tokenizer)
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of the {what} has no pad token, which batches need")


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


def reads_by_layers(model: PreTrainedModel) -> bool:
    """Whether a plain encoder's layers can be run one by one: its modules have no hooks that would be lost."""
    if model.config.model_type not in BERT_LIKE or getattr(model.config, "is_decoder", False):
        return False
    if not type(model).__module__.startswith("transformers.models."):
        return False
    return all(is_plain(module, type(module)) for module in model.modules())
