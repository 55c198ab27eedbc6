"""Would early exit pay? Rows leave a classifier behind layer k if a head there is sure of them, the others go on.

    python bench/early_exit.py models/sst2=sst2.tsv:sentence models/qnli=qnli.tsv:sentence1,sentence2 --bf16

Each argument is a folder of a classifier of rows, a table of rows that it was not trained on, and the columns of its
text. Nothing is computed twice: rows that go on do so from layer k, through layers that nothing has changed, so that
they get the original's own label. The head at layer k is the original's last layer, at the first position alone, and
its head. It learns the original's answers; the k layers below it stay as they are.

Beside it, copies with the original behind them (cascades), which learn the same answers in as many steps: fewer layers,
``cut-3`` being as quick as a head behind two layers, and narrower ones. These may change all their weights, but what
they computed of a row that goes on is lost. If the layers below a head learnt along, it could at best be as good as the
cut copy, whose layers have nothing else to serve: ``exit 2, were it as good as cut-3`` says what that would give.

Thresholds are chosen on some rows, and applied to others. Speeds are computed from the share of these that goes on, and
from the measured times of embeddings, a layer, a narrower layer and a layer at the first position: one thread of
processor time, torch float32, in turns.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
from transformers import PreTrainedModel, set_seed

from bench.contests import Contest, contest_options, run_contests
from fastmux.distillation.speed import engine_of
from fastmux.labelling.classifier import Classifier
from fastmux.models.joined import JoinedForSequenceClassification
from fastmux.models.last_layer import first_positions
from fastmux.passes.cascade import choose_min_confidence
from fastmux.searching.levers import candidates_for
from fastmux.searching.measure import Part
from fastmux.searching.rows import SearchRows
from fastmux.training.formatting import table
from fastmux.training.programs import fraction, positive, run_program

#: What is tried where nothing else is asked for, as far as the model has it.
_EXITS, _CASCADES = (1, 2, 3), ("cut-2", "cut-3", "cut-4", "narrow-0.25-3")


class ExitContest(Contest):
    """Early exits and cascades of one original; see `Contest`."""

    def __init__(self, classifier: Classifier, rows: SearchRows, options: argparse.Namespace, folder: Path):
        super().__init__(classifier, rows, options, folder)
        self.parts = []
        for some in (rows.choosing, rows.reporting):
            tokens = rows.tokens.select(some)
            answers = engine_of(self.original, self.tokenizer).run(tokens).logits
            self.parts.append(Part(tokens, answers, classifier.problem_type))

    def exit_behind(self, layers: int) -> PreTrainedModel:
        """The first layers, which learn nothing, the last one at the first position, and the head."""
        structure = {"row_layers": layers, "joined_layers": [], "last_layers": 1}
        model = JoinedForSequenceClassification.from_backbone(self.original, 1, **structure)
        below = model.model.base_model
        for module in (below.embeddings, *below.encoder.layer[:layers]):
            module.requires_grad_(False)
        return model

    def times(self) -> dict[str, float]:
        """How long the parts of a pass take, for the same rows."""
        narrow = self.source.narrowed(1 / 4, 1.0).base_model.encoder.layer[0]
        last = self.original.base_model.encoder.layer[-1]
        return self.seconds(
            {
                "narrow layer": lambda inputs, states, keep: narrow(states, keep[:, None, None]),
                "head": lambda inputs, states, keep: first_positions(last, states, keep),
            }
        )

    @classmethod
    def check(cls, name: str, classifier: Classifier, options: argparse.Namespace) -> None:
        super().check(name, classifier, options)
        layers, known = classifier.model.config.num_hidden_layers, candidates_for(classifier.model.config)
        if deep := [exit for exit in options.exits or () if exit > layers - 2]:
            raise ValueError(f"--exits is {deep[0]}, expected at most {layers - 2}, as {name} has {layers} layers")
        names = [candidate.name for candidate in known]
        if unknown := [one for one in options.cascades or () if one not in names]:
            raise ValueError(f"--cascades is {unknown[0]!r}, expected some of {', '.join(names)}")

    def said(self, model: PreTrainedModel) -> list[tuple]:
        """How sure a model is of each row, and whether it gives it the original's label: of both parts of the rows."""
        return [p.sure_and_same(engine_of(model, self.tokenizer).run(p.tokens).logits) for p in self.parts]

    def figures(self, said: list[tuple], cost: float, behind: float, original: float) -> dict:
        """What a model is worth with the original behind it.

        Args:
            said: As from `said`.
            cost: Seconds of a row.
            behind: Further seconds of one that goes on.
            original: Seconds of a row of the original alone.
        """
        (sure, same), (other, kept) = said
        found: dict = {"agreement": float(kept.mean()), "speed": original / cost, "behind": []}
        for target in self.options.agreements:
            try:
                threshold = choose_min_confidence(sure, same, target).min_confidence
            except ValueError:
                continue
            on = other < threshold
            share = {"target": target, "agreement": float((kept | on).mean()), "going_on": float(on.mean())}
            found["behind"].append(share | {"speed": original / (cost + share["going_on"] * behind)})
        return found

    def __call__(self) -> dict:
        took = self.times()
        original = took["embeddings"] + self.layers * took["layer"]
        entries = []
        for layers in self.options.exits or _EXITS:
            if layers < self.layers - 1:
                model = self.learnt(f"exit-{layers}", self.exit_behind(layers))
                cost = took["embeddings"] + layers * took["layer"] + took["head"]
                rest = (self.layers - layers) * took["layer"]
                entries.append({"name": f"exit {layers}", **self.figures(self.said(model), cost, rest, original)})
                print(entries[-1], flush=True)
        candidates = {candidate.name: candidate for candidate in candidates_for(self.original.config)}
        for name in self.options.cascades or _CASCADES:
            if name in candidates:
                set_seed(0)
                made = candidates[name].make(self.source)
                layers, narrow = made.config.backbone_config.num_hidden_layers - 1, name.startswith("narrow")
                cost = took["embeddings"] + layers * took["narrow layer" if narrow else "layer"] + took["head"]
                said = self.said(self.learnt(name, made))
                entries.append({"name": name, **self.figures(said, cost, original, original)})
                if not narrow:
                    rest = (self.layers - layers) * took["layer"]
                    found = self.figures(said, cost, rest, original)
                    entries.append({"name": f"exit {layers}, were it as good as {name}", **found})
                print(entries[-1], flush=True)
        rows = {"learning": len(self.learning), **{n: len(getattr(self.rows, n)) for n in ("choosing", "reporting")}}
        return {"rows": rows, "tokens": float(np.mean(self.learning["length"])), "seconds": took, "entries": entries}


def section(result: dict) -> Iterator[str]:
    """The page's section on a file that this program wrote."""
    yield (
        "Rows of which a head behind a layer is sure leave there, beside copies with the original behind them; each "
        f"learnt for {result['options']['steps']} steps. `python bench/early_exit.py`."
    )
    lines = []
    for task in result["early_exits"]:
        for entry in task["entries"]:
            for one in entry["behind"]:
                lines.append({"task": task["task"], "name": entry["name"], "alone": entry["agreement"], **one})
    columns = {"task": "{task}", "": "{name}", "same labels alone": "{alone:.3f}", "asked for": "{target:g}"}
    columns |= {"same labels": "{agreement:.3f}", "go on": "{going_on:.1%}", "x original": "{speed:.2f}"}
    yield table(lines, columns)


def main(argv: list[str] | None = None) -> list[dict]:
    parser = contest_options(__doc__, batch=32)
    parser.add_argument("--exits", type=positive, nargs="+", help="Layers behind which rows leave. Default: 1 2 3.")
    default = f"Candidates of search. Default, of those that the model has: {' '.join(_CASCADES)}."
    parser.add_argument("--cascades", nargs="+", help=default)
    parser.add_argument("--agreements", type=fraction, nargs="+", default=[0.98, 0.99], help="Of thresholds.")
    return run_contests(ExitContest, parser, argv, section, key="early_exits", file="early_exit.json")


if __name__ == "__main__":
    run_program(main)
