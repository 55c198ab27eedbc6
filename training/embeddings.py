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

import argparse
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

if not __package__:
    # Run as a file: put the repository root, and not this folder, on the path, as train.py does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import datasets
import transformers
from transformers import HfArgumentParser

from fastmux.distillation.settings import ConversionSettings
from fastmux.files import write_json
from fastmux.passes.timer import CLOCKS
from fastmux.settings import integer, number, one_of
from fastmux.training.folders import SETTINGS, check_folder
from fastmux.training.formatting import for_terminal
from fastmux.training.fronts.candidates import read_candidates
from fastmux.training.fronts.embedding_models import EmbeddingModels
from fastmux.training.fronts.embedding_scores import SCORINGS
from fastmux.training.fronts.embedding_verdict import plot, points_of, sentences, table
from fastmux.training.run_result import environment
from fastmux.training.settings import check, documented, run_program


@documented()
@dataclass
class EmbeddingOptions:
    """The program's arguments.

    Attributes:
        encoder: The original, a model of sentence-transformers: a hub name or a folder. Required.
        data_dir: Folder with the files of stsb, qnli, qqp and sst2. Required.
        text: Further files of unlabelled text, as for fastmux.convert; texts that are scored are left out.
        column, pair_column: The columns of their text, and of the second text of a pair, which is a text of its own.
        candidates: Name of a file in training/fronts, or a YAML file.
        output_dir: Folder to write. Default: runs/embeddings-ENCODER.
        static: A folder of model2vec, distilled from the same original, to be measured beside.
        prompt: Stands before queries and before texts that are compared; the model's default prompt if not given.
        document_prompt: Stands before documents; --prompt if not given.
        num_train_epochs: Passes over the unlabelled texts.
        learning_rate: The peak learning rate.
        per_device_train_batch_size: Texts of a step.
        state_weight: The weight of the hidden states' error beside that of the vectors.
        max_length: Tokens of a text that is learnt from; longer ones are cut.
        max_train_rows: Learn from so many texts, drawn at random. Default: all.
        max_rate_rows: Measure speed on so many of the scored texts.
        clock: Of speed: wall; or cpu, the time that the process had, for a machine with other work to do.
        bf16: Train under bfloat16 autocast, quicker on some processors, too. All is measured in float32.
        seed: Of everything that is drawn.
    """

    encoder: str | None = None
    data_dir: str | None = None
    text: list[str] = field(default_factory=list)
    column: str | None = None
    pair_column: str | None = None
    candidates: str = "embedding"
    output_dir: str | None = None
    static: str | None = None
    prompt: str | None = None
    document_prompt: str | None = None
    num_train_epochs: float = number(1.0, above=True)
    learning_rate: float = number(0.0003, above=True)
    per_device_train_batch_size: int = integer(64, 1)
    state_weight: float = number(0.0, 0)
    max_length: int = integer(128, 1)
    max_train_rows: int | None = integer(None, 1)
    max_rate_rows: int = integer(1000, 1)
    clock: str = one_of("wall", tuple(CLOCKS))
    bf16: bool = False
    seed: int = 0


def parse(argv: list[str] | None = None) -> EmbeddingOptions:
    """Parses and checks a command line; None stands for the program's own.

    Raises:
        ValueError: an argument is missing or out of range.
    """
    usage, shown = "embeddings.py --encoder NAME --data_dir DIR [argument ...]", argparse.RawDescriptionHelpFormatter
    parser = HfArgumentParser(EmbeddingOptions, usage=usage, description=__doc__, formatter_class=shown)
    (options,) = parser.parse_args_into_dataclasses(argv)
    if options.encoder is None:
        raise ValueError("--encoder is missing: a hub name, or the folder of a model of sentence-transformers")
    if options.data_dir is None:
        raise ValueError("--data_dir is missing: the folder with the files of stsb, qnli, qqp and sst2")
    check(options, "--")
    return options


def main(argv: list[str] | None = None) -> dict:
    """Runs the program; returns what it writes to ``embeddings.json``.

    Raises:
        ValueError: bad input, found before anything is trained.
    """
    started = time.perf_counter()
    options = parse(argv)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    folder = Path(options.output_dir or f"runs/embeddings-{Path(options.encoder).name}")
    identity = {k: v for k, v in asdict(options).items() if k not in _MEASURING}
    check_folder(folder, identity)
    scorings = [kind(options.data_dir) for kind in SCORINGS]
    shared = ("max_length", "num_train_epochs", "learning_rate", "per_device_train_batch_size", "state_weight", "seed")
    settings = ConversionSettings(**{name: getattr(options, name) for name in shared})
    models = EmbeddingModels(options, scorings, folder, settings)
    candidates = read_candidates(options.candidates, models.original.config.num_hidden_layers)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, identity)
    measured = models.measure(models.contestants(candidates))
    points = points_of(measured, models.forward)
    result = {
        "environment": environment(),
        "settings": {k: _named(v) if k in _PLACES and v else v for k, v in asdict(options).items()},
        "rows": {"train": len(models.students.rows), "timed": len(models.rate_texts)},
        "metrics": [[scoring.name, *scoring.metrics] for scoring in scorings],
        "embedding_points": [asdict(point) for point in points],
        "table": table(points, scorings),
        "sentences": sentences(points, measured, scorings),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(folder / "embeddings.json", result)
    plot(folder, points, scorings, result["settings"]["encoder"])
    print(f"\n{for_terminal(result['table'])}\n\n" + "\n".join(result["sentences"]))
    print(f"\nwritten: {folder}/embeddings.json, pictures, and a folder for each model")
    return result


def _named(path: str | list[str]) -> str:
    """The names of files, without their folders."""
    return " ".join(Path(one).name for one in ([path] if isinstance(path, str) else path))


#: Where things lie on this machine is nobody else's concern.
_PLACES = ("data_dir", "encoder", "candidates", "output_dir", "static", "text")
#: Arguments that may differ when models are measured anew.
_MEASURING = ("clock", "candidates", "output_dir", "data_dir", "max_rate_rows", "static")


if __name__ == "__main__":
    run_program(main)
