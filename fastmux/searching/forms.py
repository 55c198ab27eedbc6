"""The forms in which a model can run: in PyTorch as it is, or exported for ONNX Runtime, in 32 or 8 bits."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.speed import engine_of
from fastmux.distillation.texts import Row
from fastmux.embedding.exported import ExportedVectorizer
from fastmux.embedding.model import EmbeddingModel
from fastmux.exporting.export import export
from fastmux.files import remove
from fastmux.labelling.exported import ExportedClassifier
from fastmux.labelling.placement import Placement
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes.onnxruntime import OnnxRuntime

ORIGINAL = "original"
FLOAT32, INT8 = "float32", "int8"
#: The name of the original in 8 bits.
SMALL_ORIGINAL = f"{ORIGINAL}, 8 bits"


@dataclass(frozen=True)
class Form:
    """A model, as it runs.

    Attributes:
        model: The name of the model: that of a candidate, or "original".
        words: What the model is, in a few words.
        engine: Runs it.
        runtime: "PyTorch" or "ONNX Runtime".
        precision: "float32" or "int8".
        multiplexed: Whether rows or positions share passes.
        folder: Where it is exported; None in PyTorch.
    """

    model: str
    words: str
    engine: Engine
    runtime: str
    precision: str
    multiplexed: bool = False
    folder: Path | None = None

    @property
    def name(self) -> str:
        """Its name in tables and pictures."""
        if self.runtime == "PyTorch":
            return self.model
        return f"{self.model}, 8 bits" if self.precision == INT8 else f"{self.model}, ONNX Runtime"

    @property
    def companions(self) -> bool:
        """Whether a row's answer depends on the rows of its group."""
        return self.engine.runtime.num_instances > 1


def in_torch(
    name: str, words: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, multiplexed: bool = False
) -> Form:
    """A model in PyTorch, as `fastmux.predict` runs it."""
    return Form(name, words, engine_of(model, tokenizer), "PyTorch", FLOAT32, multiplexed)


def why_not_exported(device: str, precision: str = INT8) -> str | None:
    """Why models cannot be exported in this precision here; None if they can."""
    if device != "cpu":
        return "exported models run on the CPU alone"
    for package in ("onnx", "onnxruntime", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed, which the extra `export` brings"
    try:
        OnnxRuntime.check(precision)
    except ValueError as error:
        return str(error)
    return None


def exported(
    form: Form,
    model: PreTrainedModel | EmbeddingModel,
    tokenizer: PreTrainedTokenizerBase,
    precision: str,
    folder: Path,
    texts: Sequence[Row] | None = None,
) -> Form:
    """A form's model for ONNX Runtime; if the folder has it already, it is read.

    Raises:
        ValueError: It cannot be exported.
    """
    kind = ExportedVectorizer if isinstance(model, EmbeddingModel) else ExportedClassifier
    try:
        found = kind.of(folder)
    except ValueError:
        remove(folder)
        export(model, folder, tokenizer=tokenizer, precision=precision, texts=texts)
        found = kind.of(folder)
    return Form(form.model, form.words, found.engine(Placement()), "ONNX Runtime", precision, form.multiplexed, folder)
