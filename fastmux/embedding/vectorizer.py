"""An embedding model with its tokenizer and its prompt: loaded, checked and ready to run."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.embedding.config import EmbeddingConfig
from fastmux.embedding.model import EmbeddingModel, load_embedding_model
from fastmux.labelling.placement import Placement
from fastmux.labelling.row_tokenizer import RowTokenizer
from fastmux.labelling.tokenized_model import TokenizedModel, check_tokenizer
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes import EMBEDDING


@dataclass
class Vectorizer(TokenizedModel):
    """An `EmbeddingModel` in eval mode, its tokenizer, and the prompt that is put before each text."""

    prompt: str = ""

    @classmethod
    def of(
        cls,
        model: str | PathLike | PreTrainedModel | EmbeddingModel,
        tokenizer: PreTrainedTokenizerBase | None,
        what: str = "model",
        *,
        pooling: str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> Vectorizer:
        """The model that is given as a name, a folder, or in memory: an `EmbeddingModel`, or an encoder.

        Raises:
            ValueError: It cannot be loaded, says no pooling, has no prompt of that name, or no tokenizer.
        """
        if isinstance(model, (str, PathLike)):
            model, own = load_embedding_model(model, pooling=pooling, what=what)
            tokenizer = tokenizer or own
        else:
            if tokenizer is None:
                raise ValueError(f"tokenizer is None, expected the tokenizer of the {what}")
            if not isinstance(model, EmbeddingModel):
                if pooling is None:
                    raise ValueError(
                        f"{what} is a {type(model).__name__}, which says no pooling; say with pooling, 'mean', 'cls' "
                        "or 'lasttoken', how its states become one vector"
                    )
                model = EmbeddingModel(copy.deepcopy(model), EmbeddingConfig(pooling))
            check_tokenizer(model, tokenizer, what)
        said = model.embedding_config.prompt_of(prompt_name, prompt)
        found = cls(model, tokenizer, said)
        if said and not model.embedding_config.include_prompt:
            # A copy, as the prompt is of this use of the model.
            found.model = copy.copy(model)
            found.model.prompt_length = found.prompt_length()
        return found

    per_token: ClassVar[bool] = False
    problem_type: ClassVar[str] = EMBEDDING
    names: ClassVar[list[str]] = []

    @property
    def model_class(self) -> str:
        return type(self.model.encoder).__name__

    @property
    def forward(self) -> Callable:
        """See `TokenizedModel`."""
        return self.model.encoder.forward

    @property
    def config(self) -> EmbeddingConfig:
        return self.model.embedding_config

    @property
    def vector_size(self) -> int:
        """D."""
        return self.model.vector_size

    def prompt_length(self) -> int:
        """The tokens at the start of a row that are the prompt's, as sentence-transformers counts them: those of the
        prompt alone, without a special one at their end."""
        ids = self.tokenizer(self.prompt)["input_ids"]
        return len(ids) - (ids[-1] in self.tokenizer.all_special_ids)

    def fingerprint(self) -> dict[str, str]:
        """The digests of all weights, with what comes behind the encoder, and of the tokenizer."""
        found = super().fingerprint()
        own = f"{found['model']} {self.config}"
        return found | {"model": hashlib.sha256(own.encode()).hexdigest()[:32]}

    def rows_tokenizer(self, max_length: int) -> RowTokenizer:
        """A tokenizer of texts, for any process, that puts the prompt before them and cuts them."""
        return replace(self.row_tokenizer(max_length, True, None, False), prompt=self.prompt)

    def engine(self, placement: Placement, copies: int = 1) -> Engine:
        """An engine that runs the model on its device, in eval mode."""
        model: Any = self.model.to(placement.device, getattr(torch, placement.dtype)).eval()
        if placement.torch_compile:
            model.compile(dynamic=True)
        runtime = self.runtime(model, placement)
        return Engine(runtime, placement.batch_tokens, copies, placement.pass_tokens)
