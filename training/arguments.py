"""Train multiplexed transformers beside the same encoder without multiplexing, and print what multiplexing bought.

With no arguments it runs the embedded default: no download, no GPU, some minutes on two CPU cores. The text is the
Python standard library's own source; the task is to say what kind of statement each character of a piece of it is part
of. Beside the plain encoder and the multiplexed ones it trains smaller plain ones, which are about as fast as the
latter, and says what multiplexing bought over them.

The plain encoder is trained on the task first. Each multiplexed variant starts from that encoder (--start_from) and
goes through two stages: a retrieval warm-up, in which it learns to recover the tokens of N rows from one sequence, and
the task, with a share of retrieval in the loss (--retrieval_loss_weight) and with the plain encoder's predictions
beside the labels (--distillation_weight). All variants see the same rows in the task, as many a step. The learning
rate and the number of epochs are each one's own: N multiplexed epochs cost one plain epoch's encoder passes. A row's
prediction depends on the rows in its group, so multiplexed models are scored on several random groupings; the mean
and the standard deviation are reported.

Below are this program's own arguments; then the values of a recipe, of which each task has one,
training/recipes/TASK.yaml; then the arguments of the Hugging Face Trainer, which hold for every stage if they are
given: --bf16, --gradient_accumulation_steps 4, --max_steps 20.

`python training/train.py` in a clone and `fastmux train` where the package is installed are the same program.

examples:
  python training/train.py
  python training/train.py --task sst2 --data-dir DIR --variants plain unbind
  python training/train.py --task conll2003 --encoder bert-base-uncased --bf16
  python training/train.py --num_instances 8 --variants plain unbind
  python training/train.py --task stdlib
  python training/train.py --recipe my.yaml
  python training/train.py --train_file train.csv --validation_file dev.csv --text_column review --label_column stars
  python training/train.py --train_file train.conll --validation_file dev.conll --recipe conll2003
  python training/train.py --output_dir runs/statements --resume
  torchrun --nproc_per_node 2 training/train.py
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from transformers import AutoConfig, HfArgumentParser, TrainingArguments

import fastmux
from fastmux.models.loading import read_pretrained
from fastmux.settings import integer, number, one_of
from fastmux.training.entities import SCHEMES
from fastmux.training.models import ALONE, RIVALS, config_path
from fastmux.training.recipe import Recipe, pretrained_values, read_recipe
from fastmux.training.settings import DECIDED, check, documented
from fastmux.training.tasks import TASKS, OwnFiles, OwnTokens, StatementsTask, labels_tokens, make_task
from fastmux.training.tasks.conll import CONLL_FORMATS
from fastmux.training.tasks.own_files import PROBLEMS

#: Trainer arguments that this program decides, or that would leave the multiplexed models' own loss out.
REFUSED = {
    **DECIDED,
    "resume_from_checkpoint": "use --resume: a run has several stages",
    "label_names": "the program prepares the columns",
    "do_train": "every stage is trained",
    "do_predict": "every stage is evaluated",
}


@documented(
    files=(
        f"{task.name}: {', '.join(names[0] for names in task.files.values())}" for task in TASKS.values() if task.files
    ),
    library=(task.name for task in TASKS.values() if not task.files),
    conll=CONLL_FORMATS,
    demultiplexers=fastmux.DEMULTIPLEXERS,
)
@dataclass
class RunOptions:
    """The program's own arguments.

    Attributes:
        task: The task to train on.
        data_dir: The folder with the task's files, or with a subfolder of the task's name that holds them:
            {files}. Without it, they come from the Hugging Face hub; {library} read the running Python's library.
        train_file: Files of your own, in place of --task: rows in .tsv, .csv, .jsonl or .parquet files, or tokens with
            tags in CoNLL columns. The labels are those that they hold.
        validation_file: With --train_file, the rows that are scored during and after training.
        test_file: With --train_file, further rows that are scored after training.
        text_column: With --train_file, the column of the text.
        text_pair_column: With --train_file, the column of the second text, if rows are pairs.
        label_column: With --train_file, the column of the label. Or several columns, each of which is a label that a
            row has (1) or has not (0).
        problem_type: With --train_file, what one column of labels holds: single_label_classification (a class,
            whatever its values), multi_label_classification (lists of labels) or regression (numbers, learnt by
            squared error and scored by R² and correlations). By default, classes; numbers that look like
            measurements are then refused.
        tokens_column: With --tags_column, the column of lists of tokens.
        tags_column: With --train_file, the column of lists of tags, one for each token, of .jsonl or .parquet files.
            CoNLL columns ({conll}) need no names: the token comes first, its tag last.
        tag_scheme: What tags say: entities (O, B-PER, I-PER; also IOE, IOBES, BILOU), types (PER alone: words side
            by side that have it are one entity), or words (each by itself, as parts of speech; scored by accuracy).
        variants: The models to train: plain (no multiplexing); multiplexed ones by the name of the demultiplexer,
            {demultiplexers}; and, from scratch as plain, shallow and narrow (plain encoders with fewer layers, with
            less width) and joined (all but the first layers run on averages of N neighbouring positions). By
            default, plain, index and unbind; for the task statements, all of these but index.
        recipe: The recipe of sizes, steps and rates: the name of a file in training/recipes, or a YAML file like them.
            By default, the task's, with the values of pretrained.yaml if --encoder is given.
        encoder: A pretrained encoder to start from, with its tokenizer: a hub name or a folder. By default, a BERT of
            the recipe's size with random weights, and a tokenizer that is trained on the task's text.
        config_name: The config of an encoder to make anew in place of that BERT: a name in training/custom_encoders
            (of a .json file), a hub name, a folder or a file. The recipe's sizes then mean nothing.
        start_from: What the multiplexed models start from: plain, the trained encoder of the variant plain, if that is
            among --variants; or encoder, what plain started from.
        groupings: The number of random groupings over which multiplexed models are scored.
        throughput_seconds: The time to spend on measuring instances per second, all variants together.
        resume: Go on with the run in --output_dir, by default the latest runs/TASK*. Finished stages are kept, and an
            interrupted one goes on from its last checkpoint.
    """

    _argument_group_name = "program"

    task: str = one_of(StatementsTask.name, tuple(TASKS))
    data_dir: str | None = None
    train_file: list[str] | None = field(default=None, metadata={"metavar": "FILE"})
    validation_file: str | None = None
    test_file: str | None = None
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: list[str] = field(default_factory=lambda: ["label"], metadata={"metavar": "COLUMN"})
    problem_type: str | None = one_of(None, tuple(PROBLEMS))
    tokens_column: str = "tokens"
    tags_column: str | None = None
    tag_scheme: str = one_of("entities", tuple(SCHEMES))
    variants: list[str] | None = field(default=None, metadata={"metavar": "NAME"})
    recipe: str | None = None
    encoder: str | None = None
    config_name: str | None = None
    start_from: str = one_of("plain", ("plain", "encoder"))
    groupings: int = integer(5, 1)
    throughput_seconds: float = number(12.0, above=True)
    resume: bool = False


@dataclass
class TrainerArguments(TrainingArguments):
    """The arguments of the Trainer, under a heading of their own."""

    _argument_group_name = "Hugging Face Trainer (given ones hold for every stage)"


@dataclass(frozen=True)
class Settings:
    """A parsed command line.

    Attributes:
        options: The program's own arguments.
        recipe: The task's recipe with what was given on the command line.
        output_dir: The folder that was given, or None.
        trainer: The Trainer's arguments that were given, and no others.
    """

    options: RunOptions
    recipe: Recipe
    output_dir: str | None
    trainer: dict[str, object]

    def identity(self) -> dict[str, object]:
        """The settings that must be the same for a run to be resumed."""
        options = asdict(self.options)
        for name in ("resume", "variants", "groupings", "data_dir", "throughput_seconds", "recipe"):
            options.pop(name)
        return {**options, "recipe": asdict(self.recipe), "trainer": self.trainer}


def make_parser() -> HfArgumentParser:
    """The parser, whose ``--help`` explains the program first."""
    parser = HfArgumentParser(
        (RunOptions, Recipe, TrainerArguments),
        usage=f"{Path(sys.argv[0]).name} [--task TASK] [--output_dir DIR] [--resume] [argument ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for action in parser._actions:
        action.default = argparse.SUPPRESS  # what was not given is not there: the Trainer's defaults are not ours
        if action.dest == "output_dir":
            action.help = "Folder to write. Default: the first of runs/TASK, runs/TASK-2, ... that is free."
        elif action.dest in REFUSED:
            action.help = argparse.SUPPRESS
    return parser


def parse(argv: list[str] | None = None) -> Settings:
    """Parses and checks a command line; None stands for the program's own.

    Raises:
        ValueError: A value is out of range, or an argument of the Trainer has no place here.
    """
    given = vars(make_parser().parse_args(argv))
    own, values = (
        {f.name: given.pop(f.name) for f in fields(kind) if f.name in given} for kind in (RunOptions, Recipe)
    )
    options = RunOptions(**own)
    _check_files(options, own)
    task = make_task(vars(options))
    options.variants = options.variants or list(task.variants)
    _check(options)
    recipe = read_recipe(options.recipe or task.recipe)
    if options.encoder is not None and options.recipe is None:
        recipe = recipe.override(pretrained_values())
    recipe = recipe.override(Recipe(**values))
    output_dir = given.pop("output_dir", None)
    for name in REFUSED.keys() & given.keys():
        raise ValueError(f"--{name} is not supported here: {REFUSED[name]}")
    _check_rivals(options.variants, recipe)
    return Settings(options, recipe, output_dir, given)


def _check_rivals(variants: list[str], recipe: Recipe) -> None:
    for variant, name, most, why in (
        ("shallow", "shallow_layers", recipe.num_layers - 1, "num_layers"),
        ("narrow", "narrow_size", recipe.hidden_size - 1, "hidden_size"),
        ("narrow", "narrow_layers", recipe.num_layers, "num_layers"),
        ("joined", "joined_row_layers", recipe.num_layers - 1, "num_layers"),
    ):
        if variant in variants and (value := getattr(recipe, name)) > most:
            raise ValueError(
                f"--{name} is {value}, expected at most {most} for the variant {variant}, with {why}="
                f"{getattr(recipe, why)}"
            )
    if "narrow" in variants and recipe.narrow_size % recipe.num_heads:
        raise ValueError(f"--narrow_size is {recipe.narrow_size}, expected a multiple of num_heads={recipe.num_heads}")


#: Arguments of files of one's own, by whether they hold tokens.
_OWN = {False: tuple(OwnFiles.__dataclass_fields__), True: tuple(OwnTokens.__dataclass_fields__)}


def _check_files(options: RunOptions, given: dict[str, object]) -> None:
    if options.train_file:
        if "task" in given:
            raise ValueError("--task and --train_file exclude each other: the files are the task")
        if options.validation_file is None:
            raise ValueError("--train_file needs --validation_file, too: rows to score that were not trained on")
        tokens = labels_tokens(vars(options))
        options.task = (OwnTokens if tokens else OwnFiles).name
        own, other = _OWN[tokens], _OWN[not tokens]
        if idle := [name for name in other if name not in own and given.get(name) is not None]:
            what = "files of tokens and tags" if tokens else "files of texts, unless --tags_column is given"
            raise ValueError(f"--{idle[0]} has no place with {what}")
    elif idle := [name for own in _OWN.values() for name in own if given.get(name) is not None]:
        raise ValueError(f"--{idle[0]} needs --train_file")


def _check(options: RunOptions) -> None:
    known = [*ALONE, *fastmux.DEMULTIPLEXERS]
    wrong = [name for name in options.variants if name not in known]
    if wrong or len(set(options.variants)) < len(options.variants):
        raise ValueError(f"--variants must be different names out of {', '.join(known)}, got {options.variants}")
    rivals = [name for name in options.variants if name in RIVALS]
    if rivals and options.encoder is not None:
        raise ValueError(
            f"--variants {rivals[0]} is trained from scratch, --encoder {options.encoder} is not: training/front.py "
            "compares smaller and joined encoders that start from a pretrained one"
        )
    if options.config_name is not None:
        if options.encoder is not None:
            raise ValueError("--config_name and --encoder exclude each other: an encoder comes with its config")
        if rivals:
            raise ValueError(
                f"--variants {rivals[0]} is a BERT of the recipe's sizes, --config_name makes another encoder"
            )
        read_pretrained(AutoConfig, config_path(options.config_name), "--config_name")
    check(options, "--")
