"""PyTorch, on any device."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastmux.functional import fixed_weights
from fastmux.passes.masks import right_padded, unasked_by
from fastmux.passes.packed_model import packed_form
from fastmux.passes.packing import PackedRows
from fastmux.passes.plan import Layout
from fastmux.passes.runtimes import EMBEDDING
from fastmux.passes.runtimes.captured import CapturedPasses, Graphs, later
from fastmux.passes.sequences import has_kernel
from fastmux.passes.tokens import Tokens

#: The rows of a batch of `TorchRuntime.plain_forward`: a usual batch size of pipelines.
_FORWARD_ROWS = 32
#: Arrays that are copied to a GPU as one begin at multiples of so many integers, as kernels read them best.
_ALIGNED = 32


class TorchRuntime:
    """A Hugging Face model, multiplexed or not; see `fastmux.passes.runtimes.Runtime`.

    A model without a head answers with its last hidden states, d of them for each token, in place of logits; one that
    embeds (it has a ``vector_size``) with a vector for each row.

    Args:
        model: On its device. A T-MUX or a joined model says in its config how it lays out rows.
        pad_token_id: The tokenizer's.
        takes_types: It takes ``token_type_ids``.
        least_width: The positions of a row, at least, where the model does not say so itself.
        packed: Whether the groups of a pass lie end to end, where the model's kind allows it. If None, on a GPU that
            attends to sequences of several lengths without a mask.
        graphs: Captures small passes, on a GPU. By default all passes run eagerly.
        room: The most positions of a row, where passes are captured.
    """

    def __init__(
        self,
        model: nn.Module,
        pad_token_id: int,
        *,
        takes_types: bool = True,
        least_width: int = 0,
        packed: bool | None = None,
        graphs: Graphs | None = None,
        room: int = sys.maxsize,
    ):
        self.model, self.pad_token_id, self._takes_types = model, pad_token_id, takes_types
        kind = type(model).__name__
        config: Any = model.config
        embeds = hasattr(model, "vector_size")
        headless = not embeds and not kind.endswith("Classification")
        self.per_token = headless or kind.endswith("ForTokenClassification")
        size: Any = model.vector_size if embeds else config.hidden_size if headless else config.num_labels
        self.num_labels: int = size
        self.problem_type = (
            EMBEDDING if embeds else "single_label_classification" if self.per_token else problem_of(config)
        )
        self._packed = None if packed is False or least_width else packed_form(model)
        if packed is None and self._packed is not None:
            first = next(model.parameters())
            packed = has_kernel(first.device, first.dtype, self._packed.head_width)
        self.layout = replace(layout_of(model, least_width), packed=bool(packed) and self._packed is not None)
        self.num_instances = self.layout.rows
        looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        self.weights = sum(p.numel() for p in model.parameters() if p.dim() > 1 and id(p) not in looked_up)
        self._captured: CapturedPasses | None = None
        if graphs is not None:
            keeps = attends_padding(model) or not _is_known(model)
            self._captured = CapturedPasses(
                graphs, self._logits, self._tensors, self.layout, room, pad_token_id, stretches=not keeps
            )

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def start(self, inputs: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
        """See `Runtime`. On a GPU this only begins the pass and the copy of its logits to the host."""
        device, inputs = self.device, self._taken(inputs)
        with _current(device):
            if self._captured is not None and (size := self._captured.size_of(inputs)) is not None:
                return self._captured.start(size, inputs)
            if device.type != "cpu" and inputs["attention_mask"].all():
                # Without a mask attention has a faster kernel; whether one is needed is known before the copy.
                del inputs["attention_mask"]
            return later(self._logits(self._moved(inputs)))

    @torch.inference_mode()
    def start_packed(self, rows: PackedRows) -> Callable[[], np.ndarray]:
        """See `PackingRuntime`. On a GPU this only begins the pass and the copies, of which there is one each way."""
        assert self._packed is not None, "only a runtime whose layout says packed is given packed rows"
        rows = rows if self._takes_types else rows.without_types()
        with _current(self.device):
            given = _moved_together(self._packed.arrays(rows), self.device)
            return later(_wide(self._packed.answers(given, rows)))

    @torch.inference_mode()
    def plain_forward(self, tokens: Tokens) -> None:
        """Run all rows as Hugging Face users do without this library: in batches of 32, in their order, each padded to
        its longest row."""
        count = len(tokens.lengths)
        for rows in np.array_split(np.arange(count), range(_FORWARD_ROWS, count, _FORWARD_ROWS)):
            batch = tokens.padded(rows, max(1, int(tokens.lengths[rows].max())), self.pad_token_id)
            _answers(self.model(**self._moved(self._taken(batch)))).float().cpu().numpy()

    def _logits(self, given: dict[str, Tensor]) -> Tensor:
        """The logits, float32 or float64, of inputs that lie on the device."""
        if (mask := given.get("attention_mask")) is not None:
            given = given | {"attention_mask": unasked_by(self.model, mask)}
        with right_padded():
            return _wide(_answers(self.model(**given)))

    def _taken(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs that the model takes."""
        return {name: inputs[name] for name in inputs if self._takes_types or name != "token_type_ids"}

    def _moved(self, inputs: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """The inputs on the model's device; on a GPU by one copy, while the host goes on."""
        if self.device.type == "cpu":
            return {name: torch.from_numpy(array) for name, array in inputs.items()}
        together = _moved(np.stack([*inputs.values()]), self.device)
        return dict(zip(inputs, together.unbind(), strict=True))

    def _tensors(self) -> Iterator[Tensor]:
        """All tensors of the model."""
        return itertools.chain(self.model.parameters(), self.model.buffers())

    def captures(self, groups: int, length: int) -> bool:
        """See `PackingRuntime`."""
        return self._captured is not None and self._captured.fits(groups, length)

    @torch.inference_mode()
    def prepare(self, length: int, positions: int) -> None:
        """See `Runtime`: on a GPU passes are captured."""
        if self._captured is not None:
            with _current(self.device):
                self._captured.prepare(length, positions, self._takes_types)

    def ready(self) -> contextlib.AbstractContextManager[None]:
        """See `Runtime`: the model is in eval mode, and what depends only on weights is computed once."""
        if self._captured is not None:
            self._captured.check_weights()
        return predicting(self.model)


def _answers(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return output.logits if "logits" in output else output.last_hidden_state


def _wide(logits: Tensor) -> Tensor:
    """Logits in float32, or in float64 as they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


def layout_of(model: nn.Module, least: int = 0) -> Layout:
    """How a model lays out groups of N rows, each of at least so many positions."""
    config: Any = model.config
    instances, prefix = getattr(config, "num_instances", 1), getattr(config, "prefix_length", 0)
    least = max(1, least, least_width(model))
    join = getattr(config, "join", None)  # only models that join states in their deeper layers have it
    if join is None:
        return Layout(instances, 1, prefix, least)
    return Layout(instances, instances, least=least) if join == "rows" else Layout(least=least)


def least_width(model: nn.Module) -> int:
    """The number of positions that every row is padded to, at least; 0 if the model's answers do not depend on it.

    Example:
        >>> import fastmux
        >>> from fastmux.passes.runtimes.torch import least_width
        >>> from transformers import BertConfig
        >>> tiny = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        >>> conventions = {"attend_padding": True, "padded_length": 128}
        >>> least_width(fastmux.TMux(tiny, 4)), least_width(fastmux.TMux(tiny, 4, conventions=conventions))
        (0, 128)
    """
    conventions: Any = getattr(model.config, "conventions", None)
    padded = None if conventions is None else conventions.padded_length
    encoder: Any = model.base_model
    return 0 if padded is None else min(padded, encoder.max_length)


def attends_padding(model: nn.Module) -> bool:
    """Whether padding that is cut off a row changes the model's answer."""
    conventions: Any = getattr(model.config, "conventions", None)
    return conventions is not None and conventions.attend_padding


def _is_known(model: nn.Module) -> bool:
    """Whether the encoder is one of transformers: a module of somebody's own may look at padding, mask or not."""
    encoder: Any = model.encoder if hasattr(model, "vector_size") else model
    config = getattr(encoder.config, "backbone_config", encoder.config)
    return type(config).__module__.startswith("transformers.models.")


def problem_of(config) -> str:
    """The kind of labels of a model. If its config does not say, the number of labels decides, as in its loss."""
    return config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")


@contextlib.contextmanager
def predicting(model: nn.Module) -> Iterator[None]:
    """Put every module of a model into eval mode, and afterwards back into its own mode.

    Weights must not change meanwhile: what depends only on them is computed once, in this thread and without gradients.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with fixed_weights():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Makes a GPU the current one, whose streams events are of."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _moved(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    # A copy from pinned memory goes on while the next batch is prepared.
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def _moved_together(arrays: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Integers as tensors on a device, in one copy, int32."""
    sizes = [-(-array.size // _ALIGNED) * _ALIGNED for array in arrays.values()]
    joined = np.zeros(sum(sizes), np.int32)
    parts = np.split(joined, np.cumsum(sizes)[:-1])
    for part, array in zip(parts, arrays.values(), strict=True):
        part[: array.size] = array.ravel()
    moved = _moved(joined, device).split(sizes)
    return {name: t[: a.size].view(a.shape) for (name, a), t in zip(arrays.items(), moved, strict=True)}
