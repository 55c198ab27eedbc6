"""Other runtimes of a plain encoder, and other ways to batch its rows, for bench/runtimes.py.

Each runtime is a `fastmux.passes.runtimes.Runtime`, and is left out where its package is not installed. What
optimum and the ONNX backend of sentence-transformers run is ONNX Runtime with a file that torch exports, and is
measured as that: torch's present exporter here, and files of theirs where they are given.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from onnxruntime.quantization import quantize_dynamic
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import fastmux
from fastmux.passes.plan import Layout
from fastmux.passes.runtimes import Runtime
from fastmux.passes.runtimes.ctranslate2 import CTranslate2Runtime
from fastmux.passes.runtimes.onnxruntime import OnnxRuntime
from fastmux.passes.runtimes.record import MODEL, digest
from fastmux.passes.runtimes.torch import TorchRuntime
from fastmux.passes.tokens import Tokens

#: Packages that run a plain encoder.
PEERS = tuple(name for name in ("ctranslate2", "openvino") if importlib.util.find_spec(name))
#: A usual batch size and length of pipelines that pad all rows alike.
_BATCH, _PADDED = 32, 128


class OpenVinoRuntime:
    """An ONNX file of a plain encoder that labels rows, in OpenVINO."""

    num_instances, layout, per_token, problem_type = 1, Layout(), False, "single_label_classification"
    pad_token_id, weights = 0, 0

    def __init__(self, model: PreTrainedModel, file: Path, precision: str):
        import openvino

        self.num_labels: int = model.config.num_labels
        options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": precision}
        self._compiled = openvino.Core().compile_model(file, "CPU", options)
        self._names = [given.any_name for given in self._compiled.inputs]

    def start(self, inputs: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
        given = {name: inputs.get(name, np.zeros_like(inputs["input_ids"])) for name in self._names}
        logits = self._compiled(given)[0].copy()
        return lambda: logits

    def ready(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def peers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    exported: Path,
    folder: Path,
    files: dict[str, Path],
) -> dict[str, Runtime]:
    """Runtimes of a plain encoder by name.

    Args:
        exported: What ``fastmux export`` wrote of it in float32.
        folder: A new folder for files.
        files: ONNX files of it by name.
    """
    folder.mkdir()
    found: dict[str, Runtime] = {"torch bfloat16": TorchRuntime(copy.deepcopy(model).bfloat16(), 0)}
    inputs = {name: torch.ones((2, 8), dtype=torch.long) for name in ("input_ids", "attention_mask", "token_type_ids")}
    rows, length = torch.export.Dim("rows"), torch.export.Dim("length", min=2, max=512)
    shapes = {name: {0: rows, 1: length} for name in inputs}
    options = {"input_names": list(inputs), "output_names": ["logits"], "verbose": False}
    program = torch.onnx.export(model, (), kwargs=inputs, dynamic_shapes=shapes, **options)
    program.save(folder / MODEL)
    record = OnnxRuntime(exported).record
    torchs = "ONNX Runtime float32, exported by torch"
    for number, (name, file) in enumerate({torchs: folder / MODEL, **files}.items()):
        path = folder / (str(number) if number else "torch")
        path.mkdir()
        shutil.copy(file, path / MODEL)
        replace(record, files={MODEL: digest(path / MODEL)}).save(path)
        found[name] = OnnxRuntime(path)
    found["ONNX Runtime dynamic int8, exported by torch"] = dynamic(folder / "torch", folder / "dynamic")
    if "openvino" in PEERS:
        for name, precision in (("float32", "f32"), ("bfloat16", "bf16")):
            found[f"OpenVINO {name}"] = OpenVinoRuntime(model, folder / "torch" / MODEL, precision)
    if "ctranslate2" in PEERS:
        for precision in ("float32", "int8"):
            path = folder / f"ctranslate2-{precision}"
            fastmux.export(model, path, tokenizer=tokenizer, runtime="ctranslate2", precision=precision)
            found[f"CTranslate2 {precision}"] = CTranslate2Runtime(path)
    return found


def dynamic(exported: Path, folder: Path) -> Runtime:
    """ONNX Runtime's own 8 bits of a model that was exported in float32."""
    record = OnnxRuntime(exported).record
    folder.mkdir()
    quantize_dynamic(exported / MODEL, folder / MODEL)
    replace(record, files={MODEL: digest(folder / MODEL)}).save(folder)
    return OnnxRuntime(folder)


def one_by_one(runtime: Runtime, lengths: np.ndarray) -> tuple[Runtime, list[np.ndarray]]:
    """A runtime and a plan with a pass for each row."""
    return runtime, list(np.arange(len(lengths))[:, None])


def padded_alike(runtime: Runtime, lengths: np.ndarray) -> tuple[Runtime, list[np.ndarray]]:
    """A runtime and a plan of batches in the rows' order, all padded to one length."""
    padding = copy.copy(runtime)
    padding.layout = replace(runtime.layout, least=_PADDED)
    return padding, np.array_split(np.arange(len(lengths)), range(_BATCH, len(lengths), _BATCH))


#: By name, ways to batch rows that are not the engine's.
WAYS = {"one row at a time": one_by_one, f"unsorted, padded to {_PADDED}": padded_alike}


def floors(
    texts: list[str], train: Iterable[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> Iterator[tuple[str, Callable[[], object]]]:
    """What labels text without an encoder, or does a part of it: names and calls, from texts."""
    known, labels = zip(*train, strict=True)
    bag = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000)).fit(known, labels)
    table, head = (tensor.detach().numpy() for tensor in (model.get_input_embeddings().weight, model.classifier.weight))

    def static() -> np.ndarray:
        tokens = Tokens.of_rows(tokenizer(texts)["input_ids"])
        return np.add.reduceat(table[tokens.ids], tokens.starts[:-1]) / tokens.lengths[:, None] @ head.T

    yield "tokenising", lambda: tokenizer(texts)
    yield "TF-IDF and logistic regression", lambda: bag.predict(texts)
    yield "static embeddings", static
    if importlib.util.find_spec("model2vec"):
        from model2vec import StaticModel

        rust = tokenizer.backend_tokenizer
        embedder = StaticModel(table[: rust.get_vocab_size()], rust)
        yield "model2vec", lambda: embedder.encode(texts) @ head.T
