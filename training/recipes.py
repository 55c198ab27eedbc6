"""What a training run is made of: the encoder's size, lengths, steps and learning rates, one recipe for each
task.

Every field is also an argument of ``train.py`` that overrides the task's value. The same rows, as many a step, and
the same schedule serve every variant; the learning rate, the number of epochs and the warm-up are its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace


def _value(help: str):
    return field(default=None, metadata={"help": help + " Default: the task's recipe."})


@dataclass(frozen=True)
class Recipe:
    """Encoder, batches and optimisation of one task; None, on the command line only: as the task has it."""

    _argument_group_name = "recipe"

    num_instances: int | None = _value("N, rows that share one pass of the encoder.")
    max_length: int | None = _value("L, tokens of a row, [CLS] and [SEP] included; longer rows are cut.")
    vocab_size: int | None = _value("Entries of the tokenizer that is trained on the task's text.")
    hidden_size: int | None = _value("d, width of the encoder.")
    num_layers: int | None = _value("Layers of the encoder.")
    num_heads: int | None = _value("Attention heads of the encoder.")
    intermediate_size: int | None = _value("Width of the encoder's feed-forward layers.")
    dropout: float | None = _value("Dropout of the plain encoder and its head.")
    mux_dropout: float | None = _value(
        "Dropout of the multiplexed models' encoder and head in the task stage (0 in the retrieval warm-up): the rows "
        "that share a pass disturb each other as it is."
    )
    retrieval_rows: int | None = _value("Rows of a warm-up step, on each device; a multiple of N.")
    retrieval_steps: int | None = _value("Steps of the retrieval warm-up; 0 leaves it out.")
    unbind_retrieval_steps: int | None = _value("The same for the demultiplexer `unbind`, which needs fewer.")
    retrieval_learning_rate: float | None = _value("Peak learning rate of the retrieval warm-up.")
    task_retrieval_percentage: float | None = _value(
        "Share of the positions at which the retrieval loss of the task stage asks."
    )
    distillation_weight: float | None = _value(
        "Share of the multiplexed models' task loss that is distillation from the plain encoder, if that is among "
        "--variants; 0 for none."
    )
    distillation_temperature: float | None = _value("Temperature of the distillation.")
    task_rows: int | None = _value("Rows of a task step, on each device; a multiple of N. The same for every variant.")
    task_epochs: float | None = _value("Epochs of the plain encoder's task stage.")
    mux_task_epochs: float | None = _value(
        "Epochs of the multiplexed encoders' task stage, N of which cost as many encoder passes as one plain epoch."
    )
    plain_learning_rate: float | None = _value("Peak learning rate of the plain encoder's task stage.")
    mux_learning_rate: float | None = _value("Peak learning rate of the multiplexed encoders' task stage.")
    group_by_length: bool | None = _value("Draw batches of rows of like length in the task stage.")

    def override(self, given: Recipe) -> Recipe:
        """This recipe with every value that ``given`` has.

        Raises:
            ValueError: a value is out of range, or rows do not fill whole groups.
        """
        values = {f.name: getattr(given, f.name) for f in fields(given) if getattr(given, f.name) is not None}
        recipe = replace(self, **values)
        recipe.check()
        return recipe

    def check(self) -> None:
        """Raises ValueError for a value out of range."""
        least = {
            "num_instances": 1,
            "max_length": 3,
            "vocab_size": 300,
            "hidden_size": 1,
            "num_layers": 1,
            "num_heads": 1,
        }
        least |= {"intermediate_size": 1, "retrieval_steps": 0, "unbind_retrieval_steps": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {getattr(self, name)}")
        for name in (
            "task_epochs",
            "mux_task_epochs",
            "retrieval_learning_rate",
            "plain_learning_rate",
            "mux_learning_rate",
            "distillation_temperature",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("retrieval_rows", "task_rows"):
            if getattr(self, name) < 1 or getattr(self, name) % self.num_instances:
                raise ValueError(
                    f"{name} must be a multiple of num_instances={self.num_instances}, "
                    f"got {getattr(self, name)}: a group that is filled up with repeated rows wastes the pass"
                )
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} must be a multiple of num_heads={self.num_heads}")
        if not 0 < self.task_retrieval_percentage <= 1:
            raise ValueError(f"task_retrieval_percentage must be in (0, 1], got {self.task_retrieval_percentage}")
        if not 0 <= self.distillation_weight <= 1:
            raise ValueError(f"distillation_weight must be in [0, 1], got {self.distillation_weight}")
        for name in ("dropout", "mux_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


STDLIB = Recipe(
    num_instances=4,
    max_length=64,
    vocab_size=4096,
    hidden_size=192,
    num_layers=2,
    num_heads=4,
    intermediate_size=384,
    dropout=0.1,
    mux_dropout=0.05,
    retrieval_rows=48,
    retrieval_steps=1000,
    unbind_retrieval_steps=400,
    retrieval_learning_rate=2e-3,
    task_retrieval_percentage=0.25,
    distillation_weight=0.9,
    distillation_temperature=3.0,
    task_rows=32,
    task_epochs=2.0,
    mux_task_epochs=4.0,
    plain_learning_rate=1e-3,
    mux_learning_rate=1e-3,
    group_by_length=False,
)

SST2 = Recipe(
    num_instances=2,
    max_length=64,
    vocab_size=8192,
    hidden_size=256,
    num_layers=2,
    num_heads=4,
    intermediate_size=512,
    dropout=0.2,
    mux_dropout=0.2,
    retrieval_rows=64,
    retrieval_steps=800,
    unbind_retrieval_steps=400,
    retrieval_learning_rate=2e-3,
    task_retrieval_percentage=1.0,
    distillation_weight=0.9,
    distillation_temperature=3.0,
    task_rows=64,
    task_epochs=2.0,
    mux_task_epochs=3.0,
    plain_learning_rate=1e-3,
    mux_learning_rate=1e-3,
    group_by_length=True,
)

CONLL2003 = replace(
    SST2,
    max_length=96,
    hidden_size=192,
    num_layers=3,
    intermediate_size=768,
    dropout=0.1,
    mux_dropout=0.1,
    retrieval_steps=1000,
    unbind_retrieval_steps=500,
    task_epochs=8.0,
    mux_task_epochs=12.0,
)
