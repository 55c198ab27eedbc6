"""A model that embeds and that ``fastmux export`` wrote, loaded without torch and transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from fastmux.embedding.config import EmbeddingConfig
from fastmux.labelling.exported import ExportedClassifier
from fastmux.labelling.row_tokenizer import RowTokenizer


@dataclass(frozen=True)
class ExportedVectorizer(ExportedClassifier):
    """An exported model that embeds, its tokenizer, and the prompt that is put before each text."""

    prompt: str = ""

    embeds: ClassVar[bool] = True

    def asked(self, pooling: str | None = None, prompt_name: str | None = None, prompt: str | None = None) -> Any:
        """The same with a prompt.

        Raises:
            ValueError: There is none of that name; it was exported for another one; or the pooling is another.
        """
        if pooling not in (None, self.config.pooling):
            raise ValueError(f"pooling is {pooling!r}, but the model was exported with {self.config.pooling!r}")
        said = self.config.prompt_of(prompt_name, prompt)
        if not self.config.include_prompt and said != self._embedding["prompt"]:
            raise ValueError(
                f"the model leaves its prompt out of the pooling, and was exported for the prompt "
                f"{self._embedding['prompt']!r}; {said!r} takes another export"
            )
        return replace(self, prompt=said)

    @property
    def _embedding(self) -> dict[str, Any]:
        return self.record.embedding or {}

    @property
    def config(self) -> EmbeddingConfig:
        """Its pooling and its prompts."""
        return EmbeddingConfig(**self._embedding["config"])

    @property
    def vector_size(self) -> int:
        """D."""
        return self._embedding["size"]

    def rows_tokenizer(self, max_length: int) -> RowTokenizer:
        """A tokenizer of texts, for any process, that puts the prompt before them and cuts them."""
        return replace(self.row_tokenizer(max_length, True, None, False), prompt=self.prompt)
