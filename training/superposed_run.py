"""A run of ``superposed.py``: ways take turns through the same processor time, and are compared seed by seed."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from tqdm.auto import tqdm
from transformers import BertConfig, BertForMaskedLM, set_seed

from fastmux.distillation.texts import read_texts
from fastmux.files import changes, read_json, write_json
from fastmux.modules.multiplexer import draw_signs
from fastmux.training import formatting
from fastmux.training.drawing import Line, Panel, draw
from fastmux.training.features import pack_rows
from fastmux.training.formatting import interval, table
from fastmux.training.fronts.law import Estimate
from fastmux.training.fronts.verdict import given
from fastmux.training.learner import Learner
from fastmux.training.masked_recipe import PLAIN, MaskedRecipe
from fastmux.training.run_result import Score
from fastmux.training.superposing import MaskedRows, Way, masked_loss, score
from fastmux.training.tasks.readers import find_files
from fastmux.training.tokenization import train_tokenizer

_FILES = {"train": ("wikitext-2.train.txt",), "validation": ("wikitext-2.valid.txt",)}
#: Steps of each kind whose time is measured, the first of which warms up.
_TIMED = 6
_PLANS, _WAYS = "plans.json", "ways.json"


@dataclass(frozen=True)
class Plan:
    """How a way spends its time.

    Attributes:
        step_seconds: The processor time of a step that is superposed, and of one that is not.
        shared: The steps that are superposed; none of the plain way.
        alone: The steps behind them that are not.
        bf16: They are under bfloat16 autocast.
    """

    step_seconds: list[float]
    shared: int
    alone: int
    bf16: bool = False

    @property
    def steps(self) -> int:
        """All of them."""
        return self.shared + self.alone

    def done(self, step: int) -> float:
        """The share of the time that is over before a step."""
        shared, alone = self.step_seconds
        whole = self.shared * shared + self.alone * alone
        return (min(step, self.shared) * shared + max(0, step - self.shared) * alone) / whole

    def step_at(self, share: float) -> int:
        """The step before which this share of the time is over, or the nearest."""
        return min(range(self.steps + 1), key=lambda step: abs(self.done(step) - share))

    @classmethod
    def of(cls, way: Way, step_seconds: list[float], seconds: float, recovery: float, bf16: bool = False) -> Plan:
        """The plan that fits into so many seconds."""
        shared = round((1 - recovery) * seconds / step_seconds[0]) if way.num_instances > 1 else 0
        left = seconds - shared * step_seconds[0]
        return cls(step_seconds, shared, max(1, round(left / step_seconds[1])), bf16)


def _rows_of(way: Way) -> int:
    """How many rows share a pass."""
    return way.num_instances if way.join == "rows" else 1


class SuperposedRun:
    """All ways, at all seeds.

    Args:
        options: See `fastmux.training.superposed.SuperposedOptions`.
        recipe: The sizes and the ways.
        folder: It gets a folder for each way and seed.

    Raises:
        ValueError: Bad data, or too little text.
    """

    def __init__(self, options, recipe: MaskedRecipe, folder: Path):
        self.options, self.recipe, self.folder = options, recipe, folder
        self.ways = {name: way for name, way in recipe.ways.items() if name in (PLAIN, *(options.ways or recipe.ways))}
        files = find_files("wikitext", options.data_dir, _FILES, "a passage a line")
        texts = {split: read_texts([path], input_format="text") for split, path in files.items()}
        self.tokenizer = train_tokenizer(texts["train"], recipe.vocab_size, recipe.max_length)
        most = {"train": options.max_train_rows, "validation": options.max_evaluation_rows}
        rows = {name: pack_rows(self.tokenizer, own, recipe.max_length)["input_ids"] for name, own in texts.items()}
        self.rows = {name: np.array(own[: most[name]]) for name, own in rows.items()}
        self.digest = hashlib.sha256(b"".join(own.tobytes() for own in self.rows.values())).hexdigest()[:16]
        scored, shared = len(self.rows["validation"]), max(map(_rows_of, self.ways.values()))
        if scored < shared:
            raise ValueError(f"{scored} rows are scored, expected at least the {shared} that share a pass")
        for seed in options.seeds:
            for way in self.ways.values():
                self._rows("train", seed).batch(0, way)  # raises what is wrong

    def check_ways(self) -> None:
        """Raise ValueError for a way of which the folder holds another one of its name; note the others."""
        path = self.folder / _WAYS
        before = read_json(path) if path.is_file() else {}
        now = {name: asdict(way) for name, way in self.ways.items()}
        for name, way in now.items():
            if changed := changes(before.get(name, way), way):
                raise ValueError(f"{self.folder} holds another {name}: {changed}. Give it another name, or a folder")
        write_json(path, before | now)

    def _rows(self, split: str, seed: int) -> MaskedRows:
        return MaskedRows(self.rows[split], self.tokenizer, self.recipe.masked_share, self.recipe.sequences, seed)

    def learner(self, way: Way, plan: Plan | None, seed: int, bf16: bool) -> Learner:
        """A model before its first step; without a plan every step is superposed."""
        recipe = self.recipe
        set_seed(seed)
        config = BertConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=recipe.hidden_size,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=recipe.num_heads,
            intermediate_size=recipe.intermediate_size,
            max_position_embeddings=recipe.max_length,
            pad_token_id=self.tokenizer.pad_token_id,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        model, rows = BertForMaskedLM(config), self._rows("train", seed)
        vectors = self.vectors(way, seed)

        def batch(step: int):
            if plan is None or step < plan.shared:
                return rows.batch(step, way)
            # In an order of its own: that of other rows a step.
            return rows.batch(step - plan.shared, Way())

        return Learner(model, batch, lambda model, own: masked_loss(model, own, vectors), seed, bf16)

    def vectors(self, way: Way, seed: int) -> torch.Tensor:
        """The signs of a way, (N, d)."""
        torch.manual_seed(seed)
        vectors = torch.empty(way.num_instances, self.recipe.hidden_size)
        draw_signs(vectors)
        return vectors

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """How each way spends its time, as was measured before its first step."""
        path, found = self.folder / _PLANS, {}
        if path.is_file():
            found = {name: Plan(**own) for name, own in read_json(path).items()}
        if any(name not in found for name in self.ways):
            known = (
                found[PLAIN].bf16 if PLAIN in found else {"float32": False, "bf16": True}.get(self.options.precision)
            )
            seconds, bf16 = self._step_seconds(known)
            for name, way in self.ways.items():
                both = [seconds[name], seconds[PLAIN]]
                found.setdefault(name, Plan.of(way, both, self.options.seconds, self.recipe.recovery, bf16))
            write_json(path, {name: asdict(own) for name, own in found.items()})
        return found

    def _step_seconds(self, bf16: bool | None) -> tuple[dict[str, float], bool]:
        """The processor time of a step of each way, in turns: the median; and whether they were under bfloat16
        autocast, the quicker for the plain way if that is not known."""
        precisions = [False, True] if bf16 is None else [bf16]
        learners = {
            (name, half): self.learner(way, None, self.options.seeds[0], half)
            for name, way in self.ways.items()
            for half in precisions
        }
        taken: dict[tuple[str, bool], list[float]] = {cell: [] for cell in learners}
        for turn in range(_TIMED):
            for cell, learner in learners.items():
                before = learner.seconds
                learner.advance(0.0)
                if turn:
                    taken[cell].append(learner.seconds - before)
        middle = {cell: statistics.median(own) for cell, own in taken.items()}
        best = min(precisions, key=lambda half: middle[PLAIN, half])
        return {name: middle[name, best] for name in self.ways}, best

    def train(self) -> None:
        """All ways at all seeds, in turns from evaluation to evaluation, but for what an earlier process did."""
        cells = [(name, seed) for seed in self.options.seeds for name in self.ways]
        left = sum(self._seconds_left(name, seed) for name, seed in cells)
        shown = "{n:.0f} " + f"of {left:.0f} s of training, " + "{elapsed}, the rest takes {remaining}{postfix}"
        with tqdm(total=left, bar_format=shown, mininterval=5.0, disable=not left) as bar:
            for k in range(1, self.options.evaluations + 1):
                for name, seed in cells:
                    bar.set_postfix_str(f"{name}, seed {seed}", refresh=False)
                    self._advance(name, seed, k, bar)

    def _place(self, name: str, seed: int) -> Path:
        return self.folder / name / f"seed-{seed}"

    def curve(self, name: str, seed: int) -> list[dict]:
        """The evaluations that are there."""
        path = self._place(name, seed) / "curve.json"
        return read_json(path) if path.is_file() else []

    def _seconds_left(self, name: str, seed: int) -> float:
        return self.options.seconds * (1 - len(self.curve(name, seed)) / self.options.evaluations)

    def _advance(self, name: str, seed: int, k: int, bar: tqdm) -> None:
        """Train a model up to its k-th evaluation, and score it."""
        curve, place = self.curve(name, seed), self._place(name, seed)
        if len(curve) >= k:
            return
        way, plan = self.ways[name], self.plans[name]
        learner, state = self.learner(way, plan, seed, plan.bf16), place / "state.pt"
        learner.resume(state)
        end = plan.step_at(k / self.options.evaluations)

        def on_step() -> None:
            bar.update(plan.step_seconds[learner.step > plan.shared])

        learner.run(end, lambda step: self.recipe.rate(plan.done(step)), state, on_step, self.options.save_seconds)
        learner.save(state)
        held_out = self._rows("validation", 0)
        found = {"share": plan.done(end), "steps": end, "seconds": learner.seconds}
        found["rows"] = self.recipe.sequences * (min(end, plan.shared) * way.num_instances + max(0, end - plan.shared))
        for as_trained, own in (("", Way()), ("superposed_", way if end <= plan.shared else Way())):
            if not as_trained or own.num_instances > 1:
                loss, accuracy = score(learner.model, held_out, self.vectors(own, seed), own)
                found |= {f"{as_trained}loss": loss, f"{as_trained}accuracy": accuracy}
        write_json(place / "curve.json", [*curve, found])

    def found(self) -> dict:
        """What `superposed.json` says."""
        curves = {name: {seed: self.curve(name, seed) for seed in self.options.seeds} for name in self.ways}
        ways = [self._way(name, own) for name, own in curves.items()]
        plain = curves[PLAIN]
        gains = {
            name: {key: gain([own[s][-1][key] - plain[s][-1][key] for s in own]) for key in ("loss", "accuracy")}
            for name, own in curves.items()
            if name != PLAIN
        }
        return {
            "rows": {split: len(own) for split, own in self.rows.items()},
            "superposed": ways,
            "gains": {name: {key: asdict(value) for key, value in own.items()} for name, own in gains.items()},
            "sentences": [sentence(name, own, self.options.seconds, len(plain)) for name, own in gains.items()],
            "curves": {name: {str(seed): points for seed, points in own.items()} for name, own in curves.items()},
        }

    def _way(self, name: str, curves: dict[int, list[dict]]) -> dict:
        last = [own[-1] for own in curves.values()]
        figures = {key: asdict(Score.of([point[key] for point in last])) for key in ("loss", "accuracy", "seconds")}
        return {
            "name": name,
            **asdict(self.ways[name]),
            **figures,
            "plan": asdict(self.plans[name]),
            "rows": last[0]["rows"],
        }


def gain(differences: Sequence[float]) -> Estimate:
    """The mean of the seeds' differences with a 95 % interval, by Student's t; without an interval of one seed."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return Estimate(mean, mean, mean)
    reach = float(stats.t.ppf(0.975, len(differences) - 1)) * statistics.stdev(differences) / len(differences) ** 0.5
    return Estimate(mean, mean - reach, mean + reach)


def sentence(name: str, gains: dict[str, Estimate], seconds: float, seeds: int) -> str:
    """Whether a plain encoder is trained cheaper in that way."""
    loss, accuracy = gains["loss"], gains["accuracy"]
    said = (
        f"After {seconds:g} s of processor time each, {name} less {PLAIN}: loss "
        f"{interval(loss.value, loss.low, loss.high)}, accuracy "
        f"{interval(accuracy.value, accuracy.low, accuracy.high)}, over {seeds} seed{'s' * (seeds > 1)}: "
    )
    if seeds < 2:
        return said + "one seed does not tell whether an encoder is trained cheaper that way."
    if loss.high < 0:
        return said + "an encoder is trained cheaper that way."
    if loss.low > 0:
        return said + "an encoder is not trained cheaper that way, but worse."
    return said + "no difference that these seeds can tell."


def section(result: dict) -> Iterator[str]:
    """``superposed.json`` in Markdown, for the page of results."""
    rows, sizes = result["rows"], result["sizes"]
    yield (
        f"Masked-language modelling from scratch, {sizes['num_layers']} layers x {sizes['hidden_size']}, rows "
        f"of {sizes['max_length']} tokens: {rows['train']:,} to learn from, {rows['validation']:,} scored. All ways "
        f"end as a plain BERT; the superposed ones recover in the last {sizes['recovery']:.0%} of the time. "
        f"`python training/superposed.py {given(result['settings'])}`."
    )
    columns = {
        "": "{name}",
        "N": "{num_instances}",
        "share a pass": "{join}",
        "masked loss": lambda row: formatting.score(row["loss"]),
        "masked accuracy": lambda row: formatting.score(row["accuracy"]),
        "processor, s": lambda row: formatting.score(row["seconds"]),
        "rows learnt from": "{rows:,}",
    }
    yield table(result["superposed"], columns)
    for said in result["sentences"]:
        yield f"**{said}**"


def plot(path: Path, found: dict) -> None:
    """Loss and accuracy at N = 1 over the processor time, the mean of the seeds; dashed, as it is trained."""
    panels = []
    for key in ("loss", "accuracy"):
        lines = []
        for number_, (name, seeds) in enumerate(found["curves"].items()):
            for prefix in ("", "superposed_"):
                points = [
                    (statistics.fmean(p["seconds"] for p in own), statistics.fmean(p[prefix + key] for p in own))
                    for own in zip(*seeds.values(), strict=True)
                    if all(prefix + key in p for p in own)
                ]
                style = {"color": f"C{number_ % 10}", "ls": "--" if prefix else "-"}
                lines.append(Line(points, style=style if prefix else {**style, "label": name}))
        panels.append(Panel(lines, {"xlabel": "processor seconds", "ylabel": f"masked {key}"}))
    draw(path, "held-out text, N = 1; dashed: superposed, as it is trained", panels)
