"""`export`: a classifier becomes a folder that ONNX Runtime or CTranslate2 loads, without torch."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fastmux.distillation.texts import Row, check_texts
from fastmux.distribution import of_extra
from fastmux.embedding.folder import says_pooling
from fastmux.embedding.model import EmbeddingModel
from fastmux.embedding.vectorizer import Vectorizer
from fastmux.exporting.card import export_card
from fastmux.exporting.ctranslate2_file import check_ctranslate2, write_ctranslate2
from fastmux.exporting.exported import Export
from fastmux.exporting.onnx_file import write_onnx
from fastmux.files import replacing
from fastmux.labelling.classifier import Classifier
from fastmux.labelling.exported import RUNTIMES
from fastmux.labelling.placement import Placement
from fastmux.labelling.tokenized_model import room_of
from fastmux.passes.cascade import agrees
from fastmux.passes.engine import Engine
from fastmux.passes.runtimes import EMBEDDING
from fastmux.passes.runtimes.ctranslate2 import LEAST_WIDTH
from fastmux.passes.runtimes.record import EXPORTED, MODEL, PRECISIONS, TOKENIZER, RuntimeRecord, digest, is_exported
from fastmux.passes.runtimes.torch import TorchRuntime
from fastmux.passes.tokens import Tokens

#: Rows that the exported model is compared on where no texts are given, and their tokens at most.
_ROWS, _LENGTH = 64, 32
#: The largest difference of logits in float32, in units of their spread.
_TOLERANCE = 1e-3


def export(
    model: str | os.PathLike | PreTrainedModel | EmbeddingModel,
    output_dir: str | os.PathLike,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    runtime: str = "onnxruntime",
    precision: str = "float32",
    texts: Sequence[Row] | None = None,
    max_length: int | None = None,
) -> Export:
    """Write a model for ONNX Runtime or CTranslate2; `fastmux.predict`, `Labeller`, ``fastmux serve`` take the folder.

    A plain encoder whose head reads one position is written without the rest of its last layer, exactly. With
    ``precision="int8"`` matrices have 8 bits, with a scale for each of their columns and each position of the input
    (`fastmux.exporting.row_int8`): a row's answer does not depend on padding, nor on rows that do not share its group.
    CTranslate2, which runs plain encoders alone, has such scales of its own.

    Args:
        model: A T-MUX, a joined model or a plain encoder that labels rows or tokens; or its name or folder; or one of
            sentence-transformers, which `fastmux.embed` takes then.
        output_dir: A new folder. It gets the model, ``runtime.json``, the tokenizer, the config and a card.
        tokenizer: The model's; comes with ``model`` if that is a name or a folder.
        runtime: "onnxruntime" or "ctranslate2".
        precision: "float32" or "int8".
        texts: Texts, or pairs of texts, on which the exported model is compared with the original; random tokens if
            None.
        max_length: The tokens of a row, at most; what the model has room for if None.

    Returns:
        What was written, and how it compares.

    Raises:
        ValueError: An option is out of range; the folder is not empty; the model is no classifier, cannot be traced or
            is not for that runtime; the exported model answers NaN, or in float32 otherwise than the original. Nothing
            is left behind.
        ImportError: The runtime, or for ONNX Runtime onnx or onnxscript, is not installed.

    Example:
        >>> import fastmux, tempfile
        >>> from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "film"]
        >>> tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
        >>> tiny = BertConfig(
        ...     vocab_size=7, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        ... )
        >>> model = BertForSequenceClassification(tiny).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = fastmux.export(model, folder + "/fast", tokenizer=tokenizer, texts=["fine film", "film"])
        ...     found.same, fastmux.Labeller(folder + "/fast")(["fine"])[0].keys()
        (1.0, dict_keys(['label', 'score']))
    """
    for name, value, known in (("runtime", runtime, EXPORTED), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, known))}")
    folder = Path(output_dir)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"output_dir {str(folder)!r} is not empty; give a new folder")
    rows = None if texts is None else check_texts(texts)
    if rows is not None and not rows:
        raise ValueError("texts is empty, expected at least one text, or None")
    if isinstance(model, (str, os.PathLike)) and is_exported(model):
        raise ValueError(f"model {str(model)!r} is exported already; give the one that it was made from")
    if runtime == "onnxruntime":
        with of_extra("export", "an export"):
            for package in ("onnx", "onnxruntime", "onnxscript"):
                importlib.import_module(package)
    RUNTIMES[runtime].check(precision)
    embeds = isinstance(model, EmbeddingModel) or (isinstance(model, (str, os.PathLike)) and says_pooling(model))
    loaded = Vectorizer.of(model, tokenizer) if embeds else Classifier.of(model, tokenizer)
    return write(loaded, folder, runtime, precision, rows, max_length)


def write(
    classifier: Classifier | Vectorizer,
    folder: Path,
    runtime: str,
    precision: str,
    rows: Sequence[Row] | None = None,
    max_length: int | None = None,
) -> Export:
    """Write a loaded model, in `export`'s way; the arguments are checked."""
    if runtime == "ctranslate2":
        check_ctranslate2(classifier.model)
    length = classifier.max_length(max_length)
    tokens = _tokens(classifier, rows, length)
    original = classifier.engine(Placement())
    in_torch: Any = original.runtime
    plan = original.plan(tokens.lengths)
    expected = original.run(tokens, plan).logits
    with replacing(folder) as temporary:
        temporary.mkdir(parents=True)
        room = length if max_length is not None else room_of(classifier.model)
        if runtime == "ctranslate2":
            files = write_ctranslate2(classifier.model, temporary, precision)
        else:
            write_onnx(in_torch.model, temporary / MODEL, in_torch.layout, room, classifier.takes_types())
            if precision == "int8":
                from fastmux.exporting.row_int8 import quantize_file

                quantize_file(temporary / MODEL)
            files = [MODEL]
        _describe(classifier, in_torch, temporary, runtime, files, precision, length, room)
        exported = RUNTIMES[runtime](temporary)
        try:
            answered = Engine(exported, original.batch_tokens).run(tokens, plan).logits
        except ValueError as error:
            raise ValueError(f"the exported model fails on {len(tokens.lengths)} rows: {error}") from error
        found = _compared(exported.record, expected, answered, tokens, (temporary / files[0]).stat().st_size)
        export_card(found, folder.name).save(temporary / "README.md")
    return found


def _embedding(vectorizer: Vectorizer) -> dict[str, Any]:
    """What the record says of a model that embeds."""
    kept = ("pooling", "include_prompt", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
    config = {name: getattr(vectorizer.config, name) for name in kept}
    return {"size": vectorizer.vector_size, "prompt": vectorizer.prompt, "config": config}


def _describe(
    classifier: Classifier | Vectorizer,
    in_torch: TorchRuntime,
    folder: Path,
    runtime: str,
    files: list[str],
    precision: str,
    max_length: int,
    room: int,
) -> None:
    """Write what belongs to the model's files: tokenizer, config and record."""
    classifier.tokenizer.save_pretrained(folder)
    classifier.model.config.save_pretrained(folder)
    alone = classifier.row_tokenizer(max_length, False, "found" if classifier.per_token else None, pairs=False)
    if not isinstance(alone.tokenizer, str):
        raise ValueError("the tokenizer has no form in Rust that gives the same tokens, which an exported model needs")
    (folder / TOKENIZER).write_text(alone.tokenizer, encoding="utf-8")
    refuses_words = None
    try:
        classifier.row_tokenizer(max_length, False, "given", pairs=False)
    except ValueError as error:
        refuses_words = str(error)
    layout = in_torch.layout
    if runtime == "ctranslate2":
        layout = replace(layout, least=min(max(layout.least, LEAST_WIDTH), room))
    RuntimeRecord(
        runtime=runtime,
        file=files[0],
        files={name: digest(folder / name) for name in (*files, TOKENIZER)},
        precision=precision,
        labels=tuple(classifier.names),
        per_token=classifier.per_token,
        problem_type=classifier.problem_type,
        layout=layout,
        num_instances=classifier.num_instances,
        weights=in_torch.weights,
        pad_token_id=in_torch.pad_token_id,
        max_length=max_length,
        room=room,
        takes_types=classifier.takes_types(),
        types_alone=alone.types,
        refuses_words=refuses_words,
        made_from={"class": classifier.model_class, **classifier.fingerprint()},
        side=classifier.tokenizer.truncation_side,
        embedding=_embedding(classifier) if isinstance(classifier, Vectorizer) else None,
    ).save(folder)


def _tokens(classifier: Classifier | Vectorizer, texts: Sequence[Row] | None, length: int) -> Tokens:
    """Rows to compare on."""
    if texts is not None:
        pairs = isinstance(texts[0], tuple)
        row_tokenizer = classifier.row_tokenizer(length, True, "found" if classifier.per_token else None, pairs)
        row_tokenizer.start()
        return row_tokenizer.encode(list(texts))[0]
    draw = np.random.default_rng(0)
    size, pad = classifier.model.config.vocab_size, classifier.tokenizer.pad_token_id
    known = np.delete(np.arange(size), pad)  # no padding within a row, from which some encoders count positions
    ids = [draw.choice(known, draw.integers(1, min(length, _LENGTH) + 1)).tolist() for _ in range(_ROWS)]
    return Tokens.of_rows(ids)


def _compared(record: RuntimeRecord, expected: np.ndarray, answered: np.ndarray, tokens: Tokens, size: int) -> Export:
    """The logits of the same rows in the same groups, of the original and of the exported model.

    Raises:
        ValueError: They differ, in float32.
    """
    spread = max(float(expected.std()), float(np.finfo(np.float32).tiny))
    difference = float(np.abs(answered - expected).max()) / spread
    if record.precision == "float32" and difference > _TOLERANCE:
        raise ValueError(f"the exported model answers otherwise than the original: logits differ by {difference:.1e}")
    same = None
    if record.problem_type not in ("regression", EMBEDDING):
        lengths = tokens.lengths if record.per_token else None
        same = float(agrees(answered, expected, record.problem_type, lengths).mean())
    return Export(record, len(tokens.lengths), same, difference, size / 2**20)
