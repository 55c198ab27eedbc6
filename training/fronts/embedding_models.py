"""The models of a front of models that embed: the original and its students, some in 8 bits too, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fastmux.distillation.distil import precision
from fastmux.distillation.settings import ConversionSettings
from fastmux.distillation.speed import engine_of, plain_forward
from fastmux.distillation.texts import read_texts, tokenize, with_prompt
from fastmux.embedding.exported import ExportedVectorizer
from fastmux.embedding.model import EmbeddingModel, load_embedding_model
from fastmux.embedding.neighbours import nearest, same_neighbours
from fastmux.embedding.vectorizer import Vectorizer
from fastmux.exporting.export import export
from fastmux.files import remove
from fastmux.labelling.placement import Placement
from fastmux.passes.engine import Engine
from fastmux.passes.timer import rates
from fastmux.passes.tokens import Tokens
from fastmux.training.fronts.candidates import ORIGINAL, Candidate
from fastmux.training.fronts.embedding_scores import Figures, Scoring, cosines, unlabelled
from fastmux.training.fronts.static_model import static_model
from fastmux.training.fronts.students import Students

STATIC = "static"
#: The texts whose neighbours are compared.
COMPARED = 2000
_FORWARD = "forward"


@dataclass(frozen=True)
class Contestant:
    """A model to be measured.

    Attributes:
        embed: Makes vectors (texts, D) of texts behind a prompt.
        timed: The same for the rows on which speed is measured; the tokens are made before.
        precision: "float32" or "int8".
        multiplexed: Rows or positions share a pass.
        parameters: Of the model; None of one that was not trained here.
        seconds: Of its training, as far as this folder knows.
    """

    embed: Callable[[Sequence[str], str], np.ndarray]
    timed: Callable[[], object]
    precision: str = "float32"
    multiplexed: bool = False
    parameters: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Measured:
    """What was found of a model.

    Attributes:
        contestant: The model.
        figures: Those of each scoring's metrics.
        cosine: The mean cosine of its vectors with the original's, over all scored texts; None where sizes differ.
        neighbours: The share of each text's ten nearest neighbours that are those of the original's vectors, among
            2,000 of the scored texts.
        rows_per_second: In turns with all others.
    """

    contestant: Contestant
    figures: list[list[Figures]]
    cosine: float | None
    neighbours: float
    rows_per_second: float


class EmbeddingModels:
    """Trains what is not there yet, and measures.

    Args:
        options: The program's arguments, see `fastmux.training.embeddings.EmbeddingOptions`.
        scorings: What vectors are scored on; their other texts are learnt from.
        folder: It gets a subfolder for each model.
        settings: How candidates are distilled.
    """

    def __init__(self, options, scorings: Sequence[Scoring], folder: Path, settings: ConversionSettings):
        self.options, self.scorings = options, scorings
        found = Vectorizer.of(options.encoder, None, "--encoder", prompt=options.prompt)
        self.vectorizer, self.tokenizer, self.original = found, found.tokenizer, found.model
        said = options.document_prompt
        self.prompts = found.prompt, found.prompt if said is None else said
        texts = unlabelled(scorings, self._further())
        order = np.random.default_rng(options.seed).permutation(len(texts))[: options.max_train_rows]
        texts = [texts[k] for k in order]
        half = len(texts) if self.prompts[0] == self.prompts[1] else len(texts) // 2
        texts = with_prompt(texts[:half], self.prompts[0]) + with_prompt(texts[half:], self.prompts[1])
        self.students = Students(
            folder=folder,
            kind="embedding",
            original=self.original,
            tokenizer=self.tokenizer,
            rows=tokenize(texts, self.tokenizer, options.max_length),
            first_only=settings.state_weight == 0,
            settings=settings,
            precision=precision(options.bf16),
            load=lambda path: load_embedding_model(path)[0],
            save=lambda student, path: student.save_pretrained(path, self.tokenizer),
        )
        everything = [text for scoring in scorings for text in (*scoring.queries, *scoring.documents)]
        order = np.random.default_rng(options.seed).permutation(len(everything))
        self.compared = np.array([*{everything[k]: k for k in order}.values()][:COMPARED])
        drawn = order[: options.max_rate_rows]
        self.rate_texts = [everything[k] for k in np.sort(drawn)]
        self.rate_tokens = self._tokens(self.rate_texts, self.prompts[0])

    def _further(self) -> list[str]:
        """The texts of --text; both of a pair."""
        options = self.options
        rows = read_texts(options.text, options.column, options.pair_column) if options.text else []
        return [text for row in rows for text in ([row] if isinstance(row, str) else row)]

    def contestants(self, candidates: Sequence[Candidate]) -> dict[str, Contestant]:
        """The original and all candidates, trained, by name; each that is wanted in int8, too, behind its own."""
        found = {
            ORIGINAL: self._contestant(self.original),
            f"{ORIGINAL}, int8": self._in_8_bits(ORIGINAL, self.original),
        }
        for candidate in candidates:
            print(f"== {candidate.name}", flush=True)
            model = self.students.student(candidate, self.options.seed)
            more = {"multiplexed": candidate.multiplexed, "seconds": self.students.seconds(candidate.name)}
            found[candidate.name] = self._contestant(model, **more)
            if candidate.int8:
                found[f"{candidate.name}, int8"] = self._in_8_bits(candidate.name, model, **more)
        if self.options.static is not None:
            embed = static_model(self.options.static)
            found[STATIC] = Contestant(embed, partial(embed, self.rate_texts, ""))
        return found

    def measure(self, contestants: dict[str, Contestant]) -> dict[str, Measured]:
        """The figures and the speed of all; the speed of the original as Hugging Face alone runs it has the name
        "forward"."""
        calls: dict[str, Callable[[], object]] = {name: one.timed for name, one in contestants.items()}
        calls[_FORWARD] = partial(plain_forward, self.original, self.tokenizer, self.rate_tokens)
        figures, near, shares, own = {}, {}, {}, []
        for name, contestant in contestants.items():
            print(f"== {name}: scores", flush=True)
            vectors = [
                [
                    contestant.embed(texts, prompt)
                    for texts, prompt in zip((scoring.queries, scoring.documents), self.prompts, strict=True)
                ]
                for scoring in self.scorings
            ]
            figures[name] = [scoring.figures(*both) for scoring, both in zip(self.scorings, vectors, strict=True)]
            flat = [one for both in vectors for one in both if len(one)]
            own = own or flat
            near[name] = _mean_cosine(flat, own)
            neighbours = [nearest(np.concatenate(one)[self.compared]) for one in (flat, own)]
            shares[name] = float(same_neighbours(*neighbours).mean())
        print(f"== speed of {len(calls)} in turns", flush=True)
        speeds = rates(calls, len(self.rate_texts), clock=self.options.clock)
        self.forward = speeds.pop(_FORWARD).rows_per_second
        return {
            name: Measured(contestants[name], figures[name], near[name], shares[name], speeds[name].rows_per_second)
            for name in contestants
        }

    def _contestant(self, model: EmbeddingModel, **more) -> Contestant:
        parameters = sum(p.numel() for p in model.parameters())
        return self._run_by(engine_of(model, self.tokenizer), parameters=parameters, **more)

    def _run_by(self, engine: Engine, **more) -> Contestant:
        def embed(texts: Sequence[str], prompt: str) -> np.ndarray:
            if not texts:
                return np.zeros((0, self.original.vector_size), np.float32)
            return engine.run(self._tokens(texts, prompt)).logits

        return Contestant(embed, partial(engine.run, self.rate_tokens), **more)

    def _tokens(self, texts: Sequence[str], prompt: str) -> Tokens:
        most = self.vectorizer.max_length(None)
        encoded = self.tokenizer(with_prompt(texts, prompt), truncation=True, max_length=most)
        return Tokens.of_rows(encoded["input_ids"], encoded.get("token_type_ids"))

    def _in_8_bits(self, name: str, model: EmbeddingModel, **more) -> Contestant:
        folder = self.students.folder / "int8" / name
        remove(folder)  # the model may have been trained anew
        export(model, folder, tokenizer=self.tokenizer, precision="int8")
        parameters = sum(p.numel() for p in model.parameters())
        engine = ExportedVectorizer.of(folder).engine(Placement())
        return self._run_by(engine, precision="int8", parameters=parameters, **more)


def _mean_cosine(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float | None:
    if ours[0].shape[1] != theirs[0].shape[1]:
        return None
    return float(np.concatenate([cosines(a, b) for a, b in zip(ours, theirs, strict=True)]).mean())
