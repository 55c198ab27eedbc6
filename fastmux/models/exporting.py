"""Tracing for `torch.export`: of one group as of many."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch.fx.experimental import _config


def any_groups(forward: Callable) -> Callable:
    """Decorates a model's ``forward``, so that a program exported from several groups takes one as well.

    A size that is traced is taken for another than 1 wherever PyTorch asks whether it is, as when shapes broadcast, and
    the program then refuses 1. With ``backed_size_oblivious``, the setting under which `torch.onnx.export` traces, such
    questions leave the size open.
    """

    @functools.wraps(forward)
    def traced(*args, **kwargs):
        if not torch.compiler.is_exporting() or torch.compiler.is_dynamo_compiling():
            return forward(*args, **kwargs)
        with _config.patch(backed_size_oblivious=True):
            return forward(*args, **kwargs)

    return traced
