"""A multiplexed model beside the plain model of the same encoder: whatever is done to both, they behave alike.

A *thing* is a function of a `Subject`: it does to the subject's model what somebody might do, and returns what he would
see. It runs on the plain Hugging Face class and on the multiplexed one. What they return, whether they raise, and what
they leave behind (modes, `requires_grad`, gradients, random state, configuration, the caller's tensors) must be alike.
"Alike" leaves out what depends on weights: a tensor counts by its shape, dtype and whether it is finite, a float by
being one. Where multiplexing explains a difference, a table says what is seen instead, and why.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from thoroughness import ALL
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
)
from transformers.utils import ModelOutput

import fastmux

VOCAB, PAD, LENGTH, ROWS, LABELS, N = 61, 0, 7, 5, 3, 2
# Weights large enough that a layer that is left out shows in the logits.
PLAIN = BertConfig(
    vocab_size=VOCAB,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=40,
    pad_token_id=PAD,
    initializer_range=0.3,
)

#: (demultiplexer, multiplexer): every demultiplexer, and multiplexers of every kind.
ENDS = (
    ("index", "hadamard"),
    ("key", "attention"),
    ("mlp", "low_rank_orthogonal"),
    ("rsa", "binary"),
    ("unbind", "orthogonal"),
    ("unbind", "hadamard"),
)


@dataclass(frozen=True)
class Task:
    """A kind of model: the plain class, the multiplexed class, and the labels of a batch."""

    plain: type[PreTrainedModel]
    ours: type[PreTrainedModel]
    labels: Callable[[Tensor], Tensor] | None = None


TASKS = {
    "encoder": Task(BertModel, fastmux.TMux),
    "sequence": Task(
        BertForSequenceClassification, fastmux.TMuxForSequenceClassification, lambda ids: ids.sum(1) % LABELS
    ),
    "token": Task(BertForTokenClassification, fastmux.TMuxForTokenClassification, lambda ids: ids % LABELS),
    "masked": Task(BertForMaskedLM, fastmux.TMuxForMaskedLM, lambda ids: ids.masked_fill(ids % 2 == 0, -100)),
}

OF_THE_TASK = ("num_labels", "problem_type", "id2label", "label2id")
#: (demultiplexer, task) -> layers that the task has no use for: "rsa" goes one way for the task, another for retrieval.
UNUSED = {
    ("rsa", "encoder"): ("demultiplexer.layers.1", "demultiplexer.retrieval_norms"),
    ("rsa", "masked"): ("demultiplexer.layer_norm", "demultiplexer.output"),
}
_made: dict[tuple, PreTrainedModel] = {}


def make(task: str, ends: tuple[str, str] | None, **options) -> PreTrainedModel:
    """A model in eval mode, plain if ``ends`` is None; copied from one that is made once."""
    key = (task, ends, tuple(sorted(options.items())))
    if key not in _made:
        random_state = torch.random.get_rng_state()
        torch.manual_seed(zlib.crc32(repr(key).encode()))
        labels = {} if task in ("encoder", "masked") else {"num_labels": LABELS}
        if ends is None:
            config = copy.deepcopy(PLAIN)
            config.update({**labels, **options})
            _made[key] = TASKS[task].plain(config).eval()
        else:
            demultiplexer, multiplexer = ends
            options = {**labels, **options}
            plain = {k: options.pop(k) for k in list(options) if hasattr(PLAIN, k) and k not in OF_THE_TASK}
            config = copy.deepcopy(PLAIN)
            config.update(plain)
            _made[key] = (
                TASKS[task]
                .ours.from_backbone(config, N, multiplexer=multiplexer, demultiplexer=demultiplexer, **options)
                .eval()
            )
        torch.random.set_rng_state(random_state)
    return copy.deepcopy(_made[key])


class Subject:
    """One model, a batch for it, and what things ask of both.

    Attributes:
        model: in eval mode.
        rows: ``input_ids`` and ``attention_mask`` (ROWS, LENGTH); the batch is no multiple of N, and padded.
        labels: ``{"labels": ...}``, or ``{}`` for the bare encoder.
        folder: an empty one.
    """

    def __init__(self, task: str, ends: tuple[str, str] | None, folder: Path):
        self.task, self.ends, self.folder = task, ends, folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = make(task, ends)
        self.rows = self.batch(ROWS)
        self.labels = self.labels_of(self.rows)

    @property
    def cls(self) -> type[PreTrainedModel]:
        return type(self.model)

    def batch(self, rows: int, length: int = LENGTH) -> dict[str, Tensor]:
        ids = torch.randint(5, VOCAB, (rows, length), generator=torch.Generator().manual_seed(rows * 100 + length))
        mask = torch.ones_like(ids)
        for row in range(rows):
            real = length - row % 3
            ids[row, real:], mask[row, real:] = PAD, 0
        return {"input_ids": ids, "attention_mask": mask}

    def labels_of(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        labels = TASKS[self.task].labels
        return {} if labels is None else {"labels": labels(rows["input_ids"])}

    def remade(self, **options) -> PreTrainedModel:
        """The same kind of model with other options of its configuration, in eval mode."""
        return make(self.task, self.ends, **options)

    def values(self, model: nn.Module | None = None, **more) -> Tensor:
        """Logits, or hidden states, without gradients."""
        with torch.no_grad():
            return main((self.model if model is None else model)(**{**self.rows, **more})).clone()

    def loss(self, model: nn.Module | None = None, seed: int = 0, **more) -> Tensor:
        """The scalar that is trained, in whatever mode the model is; the same draws for the same ``seed``."""
        torch.manual_seed(seed)
        out = (self.model if model is None else model)(**{**self.rows, **self.labels, **more})
        if self.task == "encoder":
            return out[0].square().mean() + out[1].square().mean()
        return out["loss"] if isinstance(out, ModelOutput) else out[0]

    def used(self, name: str) -> bool:
        """Whether this layer or parameter has a part in the loss."""
        return self.ends is None or not any(part in name for part in UNUSED.get((self.ends[0], self.task), ()))

    def saved(self, name: str = "saved", model: PreTrainedModel | None = None, **options) -> Path:
        (self.model if model is None else model).save_pretrained(self.folder / name, **options)
        return self.folder / name

    def loaded(self, path: Path, **options) -> PreTrainedModel:
        return self.cls.from_pretrained(path, **options)

    def lacking_gradients(self, model: nn.Module | None = None) -> list[str]:
        """Parameters to be trained that a step gives no gradient, or one that is zero throughout."""
        model = self.model if model is None else model
        model.zero_grad(set_to_none=True)
        self.loss(model).backward()
        trained = [(name, p.grad) for name, p in model.named_parameters() if p.requires_grad and self.used(name)]
        return [name for name, g in trained if g is None or not bool(g.ne(0).any())]


def main(out) -> Tensor:
    """Logits, or the last hidden state."""
    if isinstance(out, ModelOutput):
        return out["logits"] if "logits" in out else out["last_hidden_state"]
    return out[0]


def same(a: Tensor, b: Tensor, rtol: float = 1e-4) -> bool:
    """Equal but for rounding, relative to the size of the whole; two tensors of NaN are not."""
    if a.shape != b.shape:
        return False
    return bool((a.double() - b.double()).norm() <= rtol * b.double().norm())


#: Parts of an output that are ours alone, and why they may be.
OURS_ALONE = {
    "task_loss": "the loss is the task's and retrieval's",
    "retrieval_loss": "the loss is the task's and retrieval's",
}
#: Parts of an output of which only the number of entries is compared, and why.
OF_THE_GROUPS = {
    "hidden_states": "one encoder pass a group, prefix included",
    "attentions": "one encoder pass a group, prefix included",
}


def describe(x: Any) -> Any:
    """What is compared of something that a thing returned."""
    if isinstance(x, Tensor):
        finite = bool(x.isfinite().all()) if x.is_floating_point() else True
        return ("tensor", tuple(x.shape), str(x.dtype), finite, x.requires_grad)
    if isinstance(x, np.ndarray):
        return ("array", x.shape, str(x.dtype), bool(np.isfinite(x).all()))
    if isinstance(x, ModelOutput):
        present = {k: v for k, v in x.items() if v is not None and not (isinstance(v, tuple) and not v)}
        parts = {k: v for k, v in present.items() if k not in OURS_ALONE}
        return {k: len(v) if k in OF_THE_GROUPS else describe(v) for k, v in parts.items()}
    if isinstance(x, Mapping):
        return {k: describe(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return (type(x).__name__, [describe(v) for v in x])
    if isinstance(x, nn.Module):
        kinds = sorted({str(p.dtype) for p in x.parameters()})
        return ("module", kinds, x.training)
    if isinstance(x, float):
        return "float"
    if isinstance(x, Exception):
        return "raises"
    return x


class Before:
    """What a thing may leave changed behind it."""

    def __init__(self, subject: Subject):
        model = subject.model
        self.subject = subject
        self.modes = {name: module.training for name, module in model.named_modules()}
        self.trained = {name: p.requires_grad for name, p in model.named_parameters()}
        self.graded = {name for name, p in model.named_parameters() if p.grad is not None}
        self.kinds = {str(p.dtype) for p in model.parameters()}
        self.tensors = copy.deepcopy({**subject.rows, **subject.labels})
        self.config = copy.deepcopy(model.config.to_dict())
        self.plain_config = PLAIN.to_dict()
        self.random = torch.random.get_rng_state()

    def changed(self) -> set[str]:
        now = Before(self.subject)
        tensors = self.tensors.keys() == now.tensors.keys() and all(
            torch.equal(t, now.tensors[k]) and t.dtype == now.tensors[k].dtype for k, t in self.tensors.items()
        )
        return {
            name
            for name, kept in {
                "modes": self.modes.items() <= now.modes.items() or _wrapped(self.modes, now.modes),
                "requires_grad": self.trained.items() <= now.trained.items(),
                "gradients": bool(self.graded) == bool(now.graded),
                "dtype": self.kinds == now.kinds,
                "tensors": tensors,
                "config": self.config == now.config,
                "the caller's config": self.plain_config == now.plain_config,
                "random state": torch.equal(self.random, now.random),
            }.items()
            if not kept
        }


def _wrapped(before: dict[str, bool], now: dict[str, bool]) -> bool:
    """Modules were put in the place of others, in the same mode."""
    return {before[k] for k in before} == {now[k] for k in now}


Thing = Callable[[Subject], Any]


def behaviour(thing: Thing, subject: Subject) -> dict[str, Any]:
    """What is seen of a thing: what it returned, or that it raised; and what it left changed."""
    before = Before(subject)
    try:
        returned, error = describe(thing(subject)), None
    except Exception as e:
        returned, error = "raises", e
    return {"returned": returned, "changed": before.changed(), "error": error}


def cases(
    things: Mapping[str, Thing], only: Mapping[str, tuple[str, ...]] | None = None, slow: Collection[str] = ()
) -> list:
    """The parameters ("thing", "task", "ends") of a test: every thing meets every task, with pairs of ends in turn.

    With ``FASTMUX_TESTS=all`` in the environment, every task meets every pair of ends with it, six times as many.
    What is slow meets the first and the last pair alone and, unless all is asked for, every other task.
    """
    found = []
    for number, (thing, tasks) in enumerate((t, (only or {}).get(t, tuple(TASKS))) for t in things):
        pairs = (ENDS[0], ENDS[-1]) if thing in slow else ENDS
        tasks = tasks[number % 2 :: 2] if thing in slow and len(tasks) > 1 and not ALL else tasks
        for i, task in enumerate(tasks):
            ends = ENDS if ALL else [pairs[(number + i) % len(pairs)]]
            found += [pytest.param(thing, task, end, id=f"{thing}-{task}-{'+'.join(end)}") for end in ends]
    return found


_plain: dict[tuple, dict[str, Any]] = {}


def assert_alike(
    thing: Thing,
    task: str,
    ends: tuple[str, str],
    folder: Path,
    explained: Mapping[tuple[str, ...], tuple[Any, str]] | None = None,
    name: str = "",
) -> None:
    """Do a thing to the plain and to the multiplexed model, and compare.

    explained: what is seen of the multiplexed model where multiplexing makes it another, or a function that makes it of
    what is seen of the plain one, and the reason; under the thing's name, (name, task), (name, demultiplexer) or (name,
    task, demultiplexer).
    """
    if (thing, task) not in _plain:
        torch.manual_seed(0)
        _plain[thing, task] = behaviour(thing, Subject(task, None, folder / "plain"))
    expected = _plain[thing, task]
    torch.manual_seed(0)
    ours = behaviour(thing, Subject(task, ends, folder / "ours"))
    wanted = expected["returned"]
    for key in ((name, task, ends[0]), (name, ends[0]), (name, task), (name,)):
        if explained and key in explained:
            instead, reason = explained[key]
            wanted = instead(wanted) if callable(instead) else instead
            assert wanted != expected["returned"], f"{key} is explained ({reason}), but there is no difference"
            break
    if ours["returned"] != wanted:
        raised = expected["error"]
        seen = f"\n  multiplexed {ours['returned']}\n  plain       {wanted}" + (f" {raised!r}" if raised else "")
        raise AssertionError(f"{name!r} differs{seen}") from ours["error"]
    more = ours["changed"] - expected["changed"]
    assert not more, f"{name!r} leaves {', '.join(sorted(more))} changed, on the plain model it does not"
