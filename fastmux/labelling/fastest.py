"""``runtime="auto"``: find the fastest way to run a model here, on rows like the user's, and keep the answer."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from fastmux.files import read_json, write_json
from fastmux.labelling.exported import RUNTIMES
from fastmux.labelling.kept import Kept
from fastmux.labelling.placement import Placement
from fastmux.passes.cascade import agrees
from fastmux.passes.engine import Engine
from fastmux.passes.processor import multiplies_bfloat16, processor_features, processor_name, threads
from fastmux.passes.runtimes import EMBEDDING, Runtime
from fastmux.passes.runtimes.record import EXPORTED, PRECISIONS
from fastmux.passes.timer import rates
from fastmux.passes.tokens import Tokens

log = logging.getLogger(__name__)

#: How many rows all candidates answer, and for how many seconds a turn of torch's, of so many turns.
TIMED_ROWS = 512
_SECONDS, _REPEATS = 0.5, 3
#: The largest share of the rows whose label a candidate may change. A number counts as changed if it moves by more than
#: a tenth of the answers' standard deviation.
_MOST_CHANGED, _FAR = 0.02, 0.1
#: A vector counts as changed if its cosine with the original's is less.
_LEAST_COSINE = 0.99
#: How far a row's logits may move when others take the places of its companions, in standard deviations: by rounding.
_LEAST_LEAK = 1e-3
_FILE = "fastest.json"
_REFERENCE = "torch float32"


@dataclass(frozen=True)
class Choice:
    """What was found.

    Attributes:
        runtime, precision: The fastest; precision is the dtype of torch.
        rows_per_second: By name, of all that were timed.
        left_out: By name, why others were not.
    """

    runtime: str
    precision: str
    rows_per_second: dict[str, float]
    left_out: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.precision}"

    def placement(self, asked: Placement) -> Placement:
        """Where it runs; ``asked`` is what was asked for."""
        return Placement(dtype=self.precision, asked=asked.asked, runtime=self.runtime)

    def line(self, brief: bool = False) -> str:
        """What won, and by how much; unless ``brief`` is, also how fast others were, or why they were left out."""
        base = self.rows_per_second[_REFERENCE]
        own = self.rows_per_second[self.name]
        beside = [(name, rate) for name, rate in self.rows_per_second.items() if name not in (self.name, _REFERENCE)]
        others = [f"{name} {rate / base:.2f} x" for name, rate in beside]
        said = f"{self.name}, {own / base:.2f} x {_REFERENCE} ({own:,.0f} rows a second)"
        if brief:
            return said
        by_reason: dict[str, list[str]] = {}
        for name, why in self.left_out.items():
            by_reason.setdefault(why, []).append(name)
        return "; ".join([said, *others, *(f"not {' and '.join(names)}: {why}" for why, names in by_reason.items())])


def candidates(precision: str = "any") -> tuple[dict[str, Placement], dict[str, str]]:
    """What may run a model on this processor, by name; and why others may not.

    Args:
        precision: One of `PRECISIONS`, or "any".
    """
    found = {_REFERENCE: Placement()}
    left: dict[str, str] = {}
    if multiplies_bfloat16():
        found["torch bfloat16"] = Placement(dtype="bfloat16")
    for runtime in EXPORTED:
        for one in PRECISIONS:
            try:
                RUNTIMES[runtime].check(one)
            except (ValueError, ImportError) as error:
                left[f"{runtime} {one}"] = f"it cannot run here: {_reason(error)}"
            else:
                found[f"{runtime} {one}"] = Placement(dtype=one, runtime=runtime)
    if precision != "any":
        found = {name: placed for name, placed in found.items() if placed.dtype == precision}
    return found, {name: why for name, why in left.items() if precision in ("any", name.split()[1])}


def race(reference: Engine, tokens: Tokens, precision: str, engine_of: Callable[[Placement], Engine]) -> Choice:
    """Time all candidates on the same rows, in turns.

    Args:
        reference: The model in torch float32.
        tokens: The rows.
        precision: As of `candidates`.
        engine_of: The engine of a candidate; its ValueError or ImportError leaves it out.

    Raises:
        ValueError: The model returns NaN, or nothing here runs the precision.
    """
    start = time.perf_counter()
    expected = reference.run(tokens).logits
    took = max(time.perf_counter() - start, 1e-6)
    found, left = candidates(precision)
    engines = {_REFERENCE: reference}
    for name in found:
        if name == _REFERENCE:
            continue
        try:
            engine = engine_of(found[name])
            why = _wrong(engine, tokens, expected)
        except (ValueError, ImportError) as error:
            why = f"it cannot run the model: {_reason(error)}"
        if why is None:
            engines[name] = engine
        else:
            left[name] = why
    if not set(engines) & set(found):
        raise ValueError(
            f"precision is {precision!r}, but nothing here runs the model in it: {'; '.join(left.values())}"
        )
    count = len(tokens.lengths)
    together = reference.layout.rows
    some = min(count, max(8 * together, int(count * _SECONDS / took) // together * together))
    fewer = tokens.select(np.arange(some))
    plan = reference.plan(fewer.lengths)
    speeds = rates(
        {name: partial(engine.run, fewer, plan) for name, engine in engines.items()},
        some,
        repeats=_REPEATS,
        clock="cpu" if threads() == 1 else "wall",
    )
    by_name = {name: rate.rows_per_second for name, rate in speeds.items()}
    best = max(set(engines) & set(found), key=by_name.__getitem__)
    return Choice(found[best].runtime, found[best].dtype, by_name, left)


def _reason(error: Exception) -> str:
    """The last clause of an error's first part: what was wrong, without what was being done and what is allowed."""
    return str(error).split("; ")[0].rpartition(": ")[2]


def _wrong(engine: Engine, tokens: Tokens, expected: np.ndarray) -> str | None:
    """Why a candidate that runs is not taken; None if it may be."""
    answered = engine.run(tokens).logits
    runtime = engine.runtime
    spread = max(float(expected.std()), float(np.finfo(np.float32).tiny))
    if runtime.problem_type == EMBEDDING:
        lengths = np.linalg.norm(answered, axis=-1) * np.linalg.norm(expected, axis=-1)
        changed = float(((answered * expected).sum(-1) < _LEAST_COSINE * lengths).mean())
    elif runtime.problem_type == "regression":
        changed = float((np.abs(answered - expected).max(-1) > _FAR * spread).mean())
    else:
        changed = float((~agrees(answered, expected, runtime.problem_type)).mean())
    if changed > _MOST_CHANGED:
        what = "vectors" if runtime.problem_type == EMBEDDING else "labels"
        return f"it changes {changed:.1%} of the {what}"
    moved = leak(runtime, tokens) / spread
    return f"it lets the companions of a row move its answer by {moved:.1g} deviations" if moved > _LEAST_LEAK else None


def leak(runtime: Runtime, tokens: Tokens) -> float:
    """How far the first group's logits move when other groups take the places of its companions."""
    size, count = runtime.layout.rows, len(tokens.lengths)
    own, others = np.arange(size) % count, np.arange(size, 5 * size) % count
    beside = (others, others[::-1] if count <= 5 * size else (others + 4 * size) % count)
    width = max(runtime.layout.least, int(tokens.lengths.max()))
    with runtime.ready():
        one, other = (
            runtime.start(tokens.padded(np.concatenate([own, rows]), width, runtime.pad_token_id))()[:size]
            for rows in beside
        )
    if runtime.per_token:
        inside = np.arange(width) < tokens.lengths[own][:, None]
        one, other = one[inside], other[inside]
    return float(np.abs(one - other).max())


def made_rows(vocabulary: Mapping[str, int], max_length: int) -> Tokens:
    """Rows of drawn tokens, as long as sentences are: half of them have up to 24."""
    draw = np.random.default_rng(0)
    ids = np.array(sorted(vocabulary.values()))
    lengths = np.clip(np.exp(draw.normal(np.log(24), 0.6, TIMED_ROWS)), 3, max_length).astype(int)
    return Tokens.of_rows([draw.choice(ids, max(1, length)).tolist() for length in lengths])


def remember(kept: Kept, precision: str, own: bool, choice: Choice) -> None:
    """Keep a choice beside the model, for this processor, these versions and so many threads."""
    with kept.writing(_FILE) as path:
        try:
            known = dict(read_json(path))
        except (OSError, ValueError, TypeError):
            known = {}
        key, where = _where(precision, own)
        write_json(path, known | {key: {"where": where, **asdict(choice)}})


def remembered(kept: Kept, precision: str, own: bool) -> Choice | None:
    """The choice that was kept. One that was made on the user's own rows also does where any rows would."""
    path = kept.find(_FILE)
    try:
        known = {} if path is None else read_json(path)
        for rows in (True,) if own else (True, False):
            if stored := known.get(_where(precision, rows)[0]):
                return Choice(**{name: stored[name] for name in Choice.__dataclass_fields__})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # damaged: timed again
    return None


def _where(precision: str, own: bool) -> tuple[str, dict]:
    """All that a choice holds for, and its digest."""
    where = {
        "processor": processor_name(),
        "features": processor_features(),
        "threads": threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in ("torch", "onnxruntime", "ctranslate2", "onnx", "onnxscript")},
        "precision": precision,
        "own_rows": own,
    }
    return hashlib.sha256(json.dumps(where, sort_keys=True).encode()).hexdigest()[:16], where


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
