"""The models of a front of models that embed: the original and its students, some in 8 bits too, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fastmux.distillation.speed import plain_forward
from fastmux.distillation.texts import read_texts, tokenize, with_prompt
from fastmux.embedding.model import EmbeddingModel, load_embedding_model
from fastmux.embedding.neighbours import nearest, same_neighbours
from fastmux.embedding.vectorizer import Vectorizer
from fastmux.passes.tokens import Tokens
from fastmux.training.fronts.candidates import ORIGINAL, Candidate
from fastmux.training.fronts.embedding_scores import Figures, Scoring, cosines, unlabelled
from fastmux.training.fronts.measure import Contestant, Measured, speeds
from fastmux.training.fronts.models import Models
from fastmux.training.fronts.static_model import static_model
from fastmux.training.run_result import Difference

STATIC = "static"
#: By a model's name, the figures of each scoring's metrics.
AllFigures = dict[str, list[list[Figures]]]
#: The texts whose neighbours are compared.
COMPARED = 2000


@dataclass(frozen=True, kw_only=True)
class EmbeddingPoint(Measured):
    """A model of the front.

    Attributes:
        precision: "float32" or "int8".
        scores: The values of each scoring's metrics.
        differences: The same less the original's, with intervals.
        cosine: The mean cosine of its vectors with the original's, over all scored texts; None where sizes differ.
        neighbours: The share of each text's ten nearest neighbours that are those of the original's vectors, among
            2,000 of the scored texts.
    """

    precision: str
    scores: list[list[float]]
    differences: list[list[Difference]]
    cosine: float | None
    neighbours: float


class EmbeddingModels(Models):
    """Trains what is not there yet, and measures.

    Args:
        options: See `fastmux.training.embeddings.EmbeddingOptions`.
        folder: See `Models`.
        scorings: What vectors are scored on; their other texts are learnt from.
    """

    kind = "embedding"

    def __init__(self, options, folder: Path, scorings: Sequence[Scoring]):
        super().__init__(options, folder)
        self.scorings, self.first_only = scorings, options.state_weight == 0
        found = Vectorizer.of(options.encoder, None, "--encoder", prompt=options.prompt)
        self.vectorizer, self.tokenizer, self.original = found, found.tokenizer, found.model
        said = options.document_prompt
        self.prompts = found.prompt, found.prompt if said is None else said
        texts = unlabelled(scorings, self._further())
        order = np.random.default_rng(options.seed).permutation(len(texts))[: options.max_train_rows]
        texts = [texts[k] for k in order]
        half = len(texts) if self.prompts[0] == self.prompts[1] else len(texts) // 2
        texts = with_prompt(texts[:half], self.prompts[0]) + with_prompt(texts[half:], self.prompts[1])
        self.rows = tokenize(texts, self.tokenizer, options.max_length)
        everything = [text for scoring in scorings for text in (*scoring.queries, *scoring.documents)]
        order = np.random.default_rng(options.seed).permutation(len(everything))
        self.compared = np.array([*{everything[k]: k for k in order}.values()][:COMPARED])
        self.rate_texts = [everything[k] for k in np.sort(order[: options.max_rate_rows])]

    def _further(self) -> list[str]:
        """The texts of --text; both of a pair."""
        options = self.options
        rows = read_texts(options.text, options.column, options.pair_column) if options.text else []
        return [text for row in rows for text in ([row] if isinstance(row, str) else row)]

    def load(self, folder: Path) -> EmbeddingModel:
        return load_embedding_model(folder)[0]

    def save(self, student: EmbeddingModel, folder: Path) -> None:
        student.save_pretrained(folder, self.tokenizer)

    def contestants(self, candidates: Sequence[Candidate]) -> dict[str, Contestant]:
        """See `Models`; and the static model, if there is one."""
        found = super().contestants(candidates)
        if self.options.static is not None:
            found[STATIC] = Contestant([], embed=static_model(self.options.static))
        return found

    def measure(
        self, contestants: dict[str, Contestant]
    ) -> tuple[list[EmbeddingPoint], dict[str, list[list[Figures]]]]:
        """The points of all models, and by name the figures of each scoring's metrics."""
        calls: dict[str, Callable[[], object]] = {}
        figures, more, own = {}, {}, []
        timed = self._tokens(self.rate_texts, self.prompts[0])
        for name, contestant in contestants.items():
            print(f"== {name}: scores", flush=True)
            vectors = [
                [
                    self._vectors(contestant, texts, prompt)
                    for texts, prompt in zip((scoring.queries, scoring.documents), self.prompts, strict=True)
                ]
                for scoring in self.scorings
            ]
            figures[name] = [scoring.figures(*both) for scoring, both in zip(self.scorings, vectors, strict=True)]
            flat = [one for both in vectors for one in both if len(one)]
            own = own or flat
            neighbours = [nearest(np.concatenate(one)[self.compared]) for one in (flat, own)]
            more[name] = {"cosine": _mean_cosine(flat, own), "neighbours": float(same_neighbours(*neighbours).mean())}
            alone = partial(contestant.embed, self.rate_texts) if contestant.embed else None
            calls[name] = alone or partial(contestant.engines[0].run, timed)
        forward = partial(plain_forward, self.original, self.tokenizer, timed)
        fast = speeds(calls, forward, len(self.rate_texts), self.options.clock)
        points = []
        for name, contestant in contestants.items():
            pairs = [zip(*both, strict=True) for both in zip(figures[name], figures[ORIGINAL], strict=True)]
            points.append(
                EmbeddingPoint(
                    name=name,
                    precision=contestant.precision,
                    multiplexed=contestant.multiplexed,
                    scores=[[figure.value() for figure in found] for found in figures[name]],
                    differences=[[found.less(first) for found, first in both] for both in pairs],
                    parameters=contestant.parameters,
                    seconds=contestant.seconds,
                    **more[name],
                    **fast[name],
                )
            )
        return points, figures

    def _vectors(self, contestant: Contestant, texts: Sequence[str], prompt: str) -> np.ndarray:
        if not texts:
            return np.zeros((0, self.original.vector_size), np.float32)
        if contestant.embed is not None:
            return contestant.embed(texts)
        return contestant.engines[0].run(self._tokens(texts, prompt)).logits

    def _tokens(self, texts: Sequence[str], prompt: str) -> Tokens:
        most = self.vectorizer.max_length(None)
        encoded = self.tokenizer(with_prompt(texts, prompt), truncation=True, max_length=most)
        return Tokens.of_rows(encoded["input_ids"], encoded.get("token_type_ids"))


def _mean_cosine(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float | None:
    if ours[0].shape[1] != theirs[0].shape[1]:
        return None
    return float(np.concatenate([cosines(a, b) for a, b in zip(ours, theirs, strict=True)]).mean())
