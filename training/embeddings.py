"""Measure, in one run, what the vectors of faster students of a model that embeds are worth, against their speed

  - the original: a model of sentence-transformers;
  - what one would use in its place: students of fewer layers, of fewer neurons and heads, 8 bits, a static model;
  - students whose neighbouring positions become one, and others that multiplex.

All learn the original's vectors from the same unlabelled text, in as many steps. Scored are the STS benchmark
(Spearman), a search of QNLI's sentences by its questions (nDCG@10, MRR@10), duplicates of QQP (average precision) and a
probe on SST-2 (accuracy), each beside the original with a 95 % interval over rows; texts that are scored are not learnt
from. Speed is that of the engine that runs fastmux.embed, without tokenising, all models in turns. What is compared is
a file, one entry a candidate: training/fronts/embedding.yaml, or your own. Started again with the same arguments, the
program goes on from its last checkpoint, keeps finished models and measures them anew.

examples:
  python training/embeddings.py --encoder all-MiniLM-L6-v2 --data_dir DIR
  python training/embeddings.py --encoder my-embedder --data_dir DIR --candidates my.yaml --max_train_rows 20000
  python training/embeddings.py --encoder e5 --data_dir DIR --prompt "query: " --document_prompt "passage: "
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

if not __package__:
    # Run as a file: put the repository root, and not this folder, on the path, as train.py does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from fastmux.settings import integer, number
from fastmux.training.fronts.candidates import read_candidates
from fastmux.training.fronts.embedding_models import EmbeddingModels
from fastmux.training.fronts.embedding_scores import SCORINGS
from fastmux.training.fronts.embedding_verdict import embedding_table, plot_embeddings, section, sentences
from fastmux.training.fronts.program import FrontFolder, FrontSettings, parse
from fastmux.training.programs import run_program
from fastmux.training.settings import documented


@documented()
@dataclass
class EmbeddingOptions(FrontSettings):
    """The program's arguments; --encoder is the original, a model of sentence-transformers.

    Attributes:
        data_dir: Folder with the files of stsb, qnli, qqp and sst2.
        text: Further files of unlabelled text, as for fastmux.convert; texts that are scored are left out.
        column, pair_column: The columns of their text, and of the second text of a pair, which is a text of its own.
        candidates: Name of a file in training/fronts, or a YAML file.
        static: A folder of model2vec, distilled from the same original, to be measured beside.
        prompt: Stands before queries and before texts that are compared; the model's default prompt if not given.
        document_prompt: Stands before documents; --prompt if not given.
        state_weight: The weight of the hidden states' error beside that of the vectors.
        max_rate_rows: Measure speed on so many of the scored texts.
    """

    data_dir: str
    text: list[str] = field(default_factory=list)
    column: str | None = None
    pair_column: str | None = None
    candidates: str = "embedding"
    static: str | None = None
    prompt: str | None = None
    document_prompt: str | None = None
    state_weight: float = number(0.0, 0)
    max_rate_rows: int = integer(1000, 1)


def main(argv: list[str] | None = None) -> dict:
    """Runs the program; returns what it writes to ``embeddings.json``.

    Raises:
        ValueError: bad input, found before anything is trained.
    """
    options = parse(EmbeddingOptions, __doc__, argv)
    folder = FrontFolder(options, f"embeddings-{Path(options.encoder).name}", ["static"])
    scorings = [kind(options.data_dir) for kind in SCORINGS]
    models = EmbeddingModels(options, folder.path, scorings)
    candidates = read_candidates(options.candidates, models.original.config.num_hidden_layers)
    models.check(candidates)
    folder.begin()
    points, figures = models.measure(models.contestants(candidates))
    found = {
        "rows": {"train": len(models.rows), "timed": len(models.rate_texts)},
        "metrics": [[scoring.name, *scoring.metrics] for scoring in scorings],
        "embedding_points": [asdict(point) for point in points],
        "table": embedding_table(points, scorings),
        "sentences": sentences(points, figures, scorings),
    }
    plot_embeddings(folder.path, points, scorings, Path(options.encoder).name)
    return folder.write("embeddings", found, section)


if __name__ == "__main__":
    run_program(main)
