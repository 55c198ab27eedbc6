"""A Hugging Face model as an ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel

from fastmux.passes.plan import Layout

#: Of the example that the graph is traced with; neither is in the graph.
_GROUPS, _LENGTH = 2, 8
_MOST_GROUPS = 2**16


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
        with _quietly(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (),
                kwargs=inputs,
                dynamic_shapes=dict.fromkeys(inputs, shape),
                input_names=list(inputs),
                output_names=["logits"],
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(f"a {type(model).__name__} cannot be written as ONNX: {error}") from error
    program.save(path)


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
