"""A classifier that ``fastmux export`` wrote, loaded without torch and transformers."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from tokenizers import Tokenizer

from fastmux.labelling.labels import Answers
from fastmux.labelling.placement import Placement
from fastmux.labelling.row_tokenizer import RowTokenizer
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes.ctranslate2 import CTranslate2Runtime
from fastmux.passes.runtimes.onnxruntime import OnnxRuntime
from fastmux.passes.runtimes.record import TOKENIZER, RuntimeRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Exported = TypeVar("Exported", bound="ExportedClassifier")

#: What runs an exported model, by the name in its record.
RUNTIMES: dict[str, type[OnnxRuntime] | type[CTranslate2Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "ctranslate2": CTranslate2Runtime,
}


@dataclass(frozen=True)
class ExportedClassifier:
    """An exported model and its tokenizer.

    Args:
        runtime: The model, loaded.
        tokenizer_json: Its tokenizer.
    """

    runtime: OnnxRuntime | CTranslate2Runtime
    tokenizer_json: str

    #: Whether models of this class embed; others label.
    embeds: ClassVar[bool] = False

    @classmethod
    def of(
        cls: type[Exported],
        model: str | PathLike,
        tokenizer: PreTrainedTokenizerBase | None = None,
        what: str = "model",
    ) -> Exported:
        """The model in a folder.

        Raises:
            ValueError: The folder is damaged or of another version; this processor cannot run it; ``tokenizer`` is
                another one than it was exported with.
            ImportError: What runs it is not installed.
        """
        try:
            record = RuntimeRecord.read(Path(model))
            if (record.embedding is not None) != cls.embeds:
                raise ValueError("it labels rows, and has no vectors" if cls.embeds else "it embeds, and has no labels")
            runtime = RUNTIMES[record.runtime](Path(model))
            found = cls(runtime, (Path(model) / TOKENIZER).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{what} {str(model)!r} cannot be loaded: {error}") from error
        if tokenizer is not None and tokenizer.get_vocab() != found.vocabulary():
            raise ValueError(f"tokenizer has other tokens than the one that {what} {str(model)!r} was exported with")
        return found

    @property
    def record(self) -> RuntimeRecord:
        return self.runtime.record

    @property
    def per_token(self) -> bool:
        return self.record.per_token

    @property
    def names(self) -> list[str]:
        """The names of the labels."""
        return list(self.record.labels)

    @property
    def problem_type(self) -> str:
        return self.record.problem_type

    @property
    def model_class(self) -> str:
        """The class that was exported, and how."""
        return f"{self.record.made_from['class']}, exported in {self.record.precision}"

    @property
    def num_instances(self) -> int:
        """N; 1 of a plain encoder."""
        return self.record.num_instances

    def vocabulary(self) -> dict[str, int]:
        """The id of each token of the tokenizer."""
        return Tokenizer.from_str(self.tokenizer_json).get_vocab(with_added_tokens=True)

    def max_length(self, asked: int | None, what: str = "model") -> int:
        """The most tokens of a row, special tokens included.

        Raises:
            ValueError: More are asked for than the model was exported for.
        """
        room = self.record.room
        if asked is not None and asked > room:
            raise ValueError(f"max_length is {asked}, but the {what} was exported for at most {room} tokens")
        return asked or self.record.max_length

    def takes_types(self) -> bool:
        """Whether the model tells the texts of a pair apart by ``token_type_ids``."""
        return self.record.takes_types

    def row_tokenizer(self, max_length: int, truncation: bool, words: str | None, pairs: bool) -> RowTokenizer:
        """A tokenizer of rows for the model, for any process.

        Raises:
            ValueError: The tokenizer takes no words.
        """
        if words == "given" and self.record.refuses_words is not None:
            raise ValueError(self.record.refuses_words)
        types = self.takes_types() and (pairs or self.record.types_alone)
        return RowTokenizer(self.tokenizer_json, max_length, truncation, words, types, self.record.side)

    def answers(self, words: str | None, all_scores: bool, prefix: str = "") -> Answers:
        """What turns its logits into answers; ``words`` is that of the `RowTokenizer` that tokenised."""
        return Answers(self.per_token, self.problem_type, self.names, all_scores, words == "found", prefix)

    def engine(
        self, placement: Placement, copies: int = 1, fallback: Engine | None = None, min_confidence: float | None = None
    ) -> Engine:
        """The engine that runs the model."""
        return Engine(self.runtime, placement.batch_tokens, copies, placement.pass_tokens, fallback, min_confidence)

    def fingerprint(self) -> dict[str, str]:
        """The digests of the model and of the tokenizer."""
        files = self.record.files
        return {"model": files[self.record.file][:32], "tokenizer": files[TOKENIZER][:32]}
