"""The original's outputs for every row, computed once: hidden states and, if it has a head, logits.

The student learns from both. States are on disk in half precision, end to end, and are memory-mapped, so that a
training step reads only the rows of its batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from fastmux.files import read_json, replacing, write_json
from fastmux.passes.plan import plan_passes

_STATES, _LOGITS, _STARTS, _RECORD = "states.npy", "logits.npy", "starts.npy", "teacher.json"
#: The most positions of a pass of the original.
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class TeacherOutputs:
    """The original's outputs, row after row.

    Attributes:
        starts: Where each row's states begin, (rows + 1).
        states: The states, (states, d), float16: one for each token, or one for each row's first token.
        logits: The logits, (rows, C), or (states, C) of a model that labels tokens; None without a head.
        per_token: Whether the logits are of tokens.
    """

    starts: np.ndarray
    states: np.ndarray
    logits: np.ndarray | None
    per_token: bool

    def batch(self, rows: list[int]) -> dict[str, Tensor]:
        """The ``teacher_states`` (B, L, d) of rows, 0 at padding, and ``teacher_logits`` (B, C) or (B, L, C)."""
        out = {"teacher_states": self._padded(self.states, rows)}
        if self.logits is not None:
            own = self._padded(self.logits, rows) if self.per_token else torch.from_numpy(self.logits[rows])
            out["teacher_logits"] = own
        return out

    def _padded(self, values: np.ndarray, rows: list[int]) -> Tensor:
        parts = (np.asarray(values[self.starts[row] : self.starts[row + 1]], dtype=np.float32) for row in rows)
        return pad_sequence([torch.from_numpy(part) for part in parts], batch_first=True)

    @classmethod
    def load(cls, folder: Path) -> TeacherOutputs:
        """Load what `compute_teacher_outputs` wrote to ``folder``."""
        states = np.load(folder / _STATES, mmap_mode="r")
        logits = np.load(folder / _LOGITS) if (folder / _LOGITS).is_file() else None
        return cls(np.load(folder / _STARTS), states, logits, read_json(folder / _RECORD)["per_token"])


@contextlib.contextmanager
def captured_states(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """A list that gets the last hidden states of every pass within the block, before any head."""
    encoder = model
    while encoder.base_model is not encoder:
        encoder = encoder.base_model
    states: list[Tensor] = []
    hook = encoder.register_forward_hook(lambda _module, _inputs, output: states.append(output[0]))
    try:
        yield states
    finally:
        hook.remove()


def logits_of(output: Any) -> Tensor | None:
    """What a model says beside its states: logits, or the vectors of one that embeds; None of an encoder."""
    return output if isinstance(output, Tensor) else getattr(output, "logits", None)


def teacher_bytes(lengths: np.ndarray, hidden_size: int, first_only: bool) -> int:
    """How many bytes the states of rows of these lengths take on disk."""
    return 2 * hidden_size * (len(lengths) if first_only else int(lengths.sum()))


@torch.no_grad()
def compute_teacher_outputs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    folder: Path,
    *,
    fingerprint: str,
    first_only: bool,
) -> TeacherOutputs:
    """Run the original over all rows; if the folder already has the outputs, they are read.

    Args:
        model: An encoder, or one with a sequence or token classification head, in eval mode on its device.
        tokenizer: Pads the rows.
        rows: The model's inputs, and a column ``length``.
        folder: The folder for the outputs; it appears when it is complete.
        fingerprint: A digest of the model and the rows. A folder with another one is replaced.
        first_only: Keep only the state of each row's first token, as a sequence head reads no other.

    Raises:
        ValueError: The model returns NaN or infinity; the message names the first such row.
    """
    record = folder / _RECORD
    if record.is_file() and read_json(record)["fingerprint"] == fingerprint:
        return TeacherOutputs.load(folder)
    lengths = np.asarray(rows["length"])
    kept = np.ones_like(lengths) if first_only else lengths
    starts = np.concatenate([[0], kept.cumsum()])
    logits: np.ndarray | None = None
    bar = tqdm(total=len(rows), desc="original", unit="row")
    with replacing(folder) as temporary, captured_states(model) as captured, bar:
        temporary.mkdir()
        shape = (int(starts[-1]), model.config.hidden_size)
        states = np.lib.format.open_memmap(temporary / _STATES, mode="w+", dtype=np.float16, shape=shape)
        for batch in plan_passes(lengths, BATCH_TOKENS):
            said = logits_of(model(**padded(rows, batch, tokenizer).to(model.device)))
            state = captured.pop()
            if logits is None and said is not None:
                logits = np.empty((len(rows) if said.dim() == 2 else shape[0], said.shape[-1]), np.float32)
            for k, row in enumerate(batch):
                place = slice(int(starts[row]), int(starts[row + 1]))
                own = state[k, : kept[row]]
                states[place] = own.to(torch.float16).cpu().numpy()
                finite = bool(torch.isfinite(own).all())
                if said is not None:
                    answer = said[k] if said.dim() == 2 else said[k, : kept[row]]
                    logits[row if said.dim() == 2 else place] = answer.float().cpu().numpy()
                    finite = finite and bool(torch.isfinite(answer).all())
                if not finite:
                    raise ValueError(f"the original returns NaN or infinity for row {int(row) + 1} of the text")
            bar.update(len(batch))
        states.flush()
        np.save(temporary / _STARTS, starts)
        if logits is not None:
            np.save(temporary / _LOGITS, logits)
        per_token = logits is not None and said.dim() == 3
        write_json(temporary / _RECORD, {"fingerprint": fingerprint, "rows": len(rows), "per_token": per_token})
    return TeacherOutputs.load(folder)


def padded(rows: Dataset, indices: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> BatchEncoding:
    """Rows as a batch of tensors; see `pad_rows`."""
    columns = rows[indices.tolist()]
    return pad_rows({name: values for name, values in columns.items() if name != "length"}, tokenizer)


def pad_rows(rows: dict | list[dict], tokenizer: PreTrainedTokenizerBase) -> BatchEncoding:
    """Tokenised rows as a batch of tensors, padded on the right, with an attention mask.

    The tokenizer's own padding side is ignored: heads read the first position, and encoders number positions from the
    left, so that right padding leaves a row's outputs as they are without padding.
    """
    return tokenizer.pad(rows, padding_side="right", return_attention_mask=True, return_tensors="pt")
