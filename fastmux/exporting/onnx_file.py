"""A Hugging Face model as an ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from transformers import PreTrainedModel

from fastmux.exporting.slow_kernels import avoid_slow_kernels
from fastmux.passes.plan import Layout

#: Of the example that the graph is traced with; neither is in the graph.
_GROUPS, _LENGTH = 2, 8
_MOST_GROUPS = 2**16
#: The first that quantises by blocks, which rows are.
_OPSET = 21


def write_onnx(model: PreTrainedModel, path: Path, layout: Layout, max_length: int, takes_types: bool) -> None:
    """Write a model in eval mode: ``input_ids``, ``attention_mask`` (and ``token_type_ids``) (B, L) -> ``logits``.

    Args:
        layout: How the model lays out groups: B is any number of whole groups of ``layout.rows``.
        max_length: L, at most.
        takes_types: ``token_type_ids`` is an input.

    Raises:
        ValueError: torch cannot trace the model.
    """
    ids = torch.ones((_GROUPS * layout.rows, _LENGTH), dtype=torch.long, device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if takes_types:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    groups = torch.export.Dim("groups", min=1, max=_MOST_GROUPS)
    shape = {0: layout.rows * groups, 1: torch.export.Dim("length", min=2, max=max(max_length, _LENGTH))}
    try:
        with _quietly(), _eager_attention(model), torch.no_grad():
            program = torch.onnx.export(
                model,
                (),
                kwargs=inputs,
                dynamic_shapes=dict.fromkeys(inputs, shape),
                input_names=list(inputs),
                output_names=["logits"],
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(f"a {type(model).__name__} cannot be written as ONNX: {error}") from error
    graph = program.model_proto
    avoid_slow_kernels(graph)
    onnx.save(graph, path)


@contextlib.contextmanager
def _eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Attention as its formula, of which ONNX Runtime multiplies by the transposed keys where they lie. Of torch's own
    op the exporter transposes them first, and searches every probability for NaN."""
    configs: dict[int, Any] = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    for config, _ in before:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter says of packages that are not there and of its own plans."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")}
    for noisy in levels:
        noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for noisy, level in levels.items():
            noisy.setLevel(level)
