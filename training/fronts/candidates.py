"""What stands on a front beside the original: each candidate is some lines of a YAML file."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path

from torch import nn
from transformers import AutoConfig, PreTrainedModel

from fastmux.distillation.settings import STRUCTURE, WIDTHS, ConversionSettings
from fastmux.models.loading import read_pretrained
from fastmux.modules.demultiplexers import DEMULTIPLEXERS
from fastmux.settings import check_fields, integer, number, one_of
from fastmux.training.models import head_class
from fastmux.training.settings import build, read_yaml, typed

#: The candidates that have a name, written for an encoder of six layers.
CANDIDATES = Path(__file__).resolve().parent
#: Kind of task -> the file of candidates that is compared if none is named.
USUAL = {"sequence": "sequence", "multi_label": "winners", "token": "token"}
ORIGINAL = "original"
#: What joined models join -> the lever, in the words of tables.
_JOINS = {
    "rows": "joined rows",
    "positions": "joined positions",
    "pooled": "pooled positions",
    "feed_forward": "shared feed-forward layers",
}


@dataclass(frozen=True)
class Candidate:
    """A model on the front.

    Attributes:
        name: Its name in table and plot.
        num_instances, join, row_layers, joined_layers, last_layers, first_layers: See `ConversionSettings`; with
            N = 1 a plain encoder that keeps these layers, whose last one runs at the first position alone where the
            head reads no other, as it does in the multiplexed ones.
        demultiplexer: Makes a T-MUX as the papers do: whole rows from the embeddings on, with this demultiplexer, all
            layers and a new linear head. Without it, the layers between the first and the last are joined.
        learn: How it learns: "distilled", from what the original says, without labels; "labels", from the pretrained
            encoder, as the original learnt; "copied", not at all: the original itself, if all its layers are kept.
        vectors: What rows are multiplied with: "signs"; "gaussian", which undo themselves only roughly; or "learned",
            which start as signs and are trained along.
        start: The name of another candidate, of the same layers and another N, from whose weights this one goes on.
        masked_epochs: Passes over the rows as a masked-language model, joined as it is, before it is distilled.
        learning_rate, state_weight: See `ConversionSettings`; None for what the program is told.
        ffn_width, attention_width: The share of each layer's neurons and heads that it keeps.
        hidden_size: The width of a narrower plain encoder, which starts from random weights; None for the original's.
        folder: A model that was made before, e.g. by ``fastmux convert``; nothing is trained then.
        int8: It is measured a second time in 8 bits, as `fastmux.export` writes it.
        cascade: It is measured with the original behind it, too.
    """

    name: str
    num_instances: int = integer(1, 1)
    join: str = "rows"
    row_layers: int = 1
    joined_layers: tuple[int, ...] = ()
    last_layers: int = 1
    first_layers: int = 1
    demultiplexer: str | None = one_of(None, tuple(DEMULTIPLEXERS))
    learn: str = one_of("distilled", ("distilled", "labels", "copied"))
    vectors: str = one_of("signs", ("signs", "gaussian", "learned"))
    start: str | None = None
    masked_epochs: float = number(0.0)
    learning_rate: float | None = None
    state_weight: float | None = None
    ffn_width: float = number(1.0, 0, 1, above=True)
    attention_width: float = number(1.0, 0, 1, above=True)
    hidden_size: int | None = integer(None, 1)
    folder: str | None = None
    int8: bool = False
    cascade: bool = False

    def __post_init__(self):
        check_fields(self)
        if self.num_instances > 1 and (self.hidden_size is not None or self.learn != "distilled"):
            raise ValueError("hidden_size and learn are for plain encoders, num_instances: 1")
        if self.masked_epochs and self.learn != "distilled":
            raise ValueError(f"masked_epochs is {self.masked_epochs}, expected 0, as learn is {self.learn!r}")
        if self.demultiplexer is not None:
            if self.num_instances == 1:
                raise ValueError(f"demultiplexer is {self.demultiplexer!r}, expected none, as num_instances is 1")
            if given := [name for name in (*STRUCTURE, "masked_epochs") if getattr(self, name) != _DEFAULTS[name]]:
                raise ValueError(f"{given[0]} is for joined layers, but demultiplexer is {self.demultiplexer!r}")

    @property
    def multiplexed(self) -> bool:
        return self.num_instances > 1

    @property
    def lever(self) -> str:
        """What makes it faster, in the words of tables."""
        if self.multiplexed:
            return _JOINS[self.join]
        if self.hidden_size is not None or min(self.ffn_width, self.attention_width) < 1:
            return "narrower layers"
        return ORIGINAL if self.learn == "copied" else "fewer layers"

    def make(self, source: PreTrainedModel, kind: str) -> PreTrainedModel:
        """The candidate before it learns: layers of ``source``, a trained model or one with a new head; drawn anew in
        another width."""
        if self.hidden_size is not None:
            source = _narrower(source, self.hidden_size)
        if self.demultiplexer is not None:
            vectors = {"vectors": "gaussian" if self.vectors == "gaussian" else "signs"}
            if self.vectors == "learned":
                vectors["learnable"] = True
            return head_class("TMux", kind).from_backbone(
                copy.deepcopy(source),  # whose weights the new model has
                self.num_instances,
                demultiplexer=self.demultiplexer,
                multiplexer_options=vectors,
                retrieval_loss_weight=0.0,
            )
        structure = {name: getattr(self, name) for name in STRUCTURE}
        model = head_class("Joined", kind).from_backbone(source, self.num_instances, **structure)
        encoder = None if self.vectors == "signs" else model.model.base_model.encoder
        if self.vectors == "gaussian":
            encoder.signs.normal_()
        elif self.vectors == "learned":  # under the same name: a trained model loads as any other
            vectors = encoder.signs
            del encoder.signs
            encoder.signs = nn.Parameter(vectors)
        return model


#: What a candidate is unless its entry says something else.
_DEFAULTS = {own.name: own.default for own in fields(Candidate)}


def _narrower(model: PreTrainedModel, hidden_size: int) -> PreTrainedModel:
    config = copy.deepcopy(model.config)
    scale = hidden_size / config.hidden_size
    config.num_attention_heads = max(1, round(config.num_attention_heads * scale))
    config.intermediate_size = round(config.intermediate_size * scale)
    config.hidden_size = hidden_size
    return type(model)(config)


def read_candidates(name: str, layers: int) -> list[Candidate]:
    """The candidates of a file: of that name in ``training/fronts``, or one's own.

    Raises:
        ValueError: there is no such file; a key is unknown (the message has the closest known one); a value is of
            another type, names a layer that the encoder lacks, or a folder without a model.
    """
    path, entries = read_yaml(CANDIDATES, name, "candidates")
    if ORIGINAL in entries:
        raise ValueError(f"{path}: {ORIGINAL!r} is the name of the original itself")
    candidates: dict[str, Candidate] = {}
    for entry, values in entries.items():
        where = f"{path}: {entry}"
        candidate = build(Candidate, typed(str(path), entry, values, dict), where, "candidate", name=str(entry))
        first, last = candidate.row_layers, candidate.last_layers
        beyond = [k for k in candidate.joined_layers if not first <= k < layers - last]
        if candidate.folder is None and (beyond or first + last > layers):
            raise ValueError(
                f"{where}: the encoder has {layers} layers, of which joined_layers "
                f"{list(candidate.joined_layers)} must lie between row_layers {first} and last_layers {last}"
            )
        if candidate.folder is not None:
            read_pretrained(AutoConfig, candidate.folder, f"{where}: folder")
        if candidate.start is not None and candidate.start not in candidates:
            raise ValueError(f"{where}: start is {candidate.start!r}, expected a candidate that comes before")
        candidates[candidate.name] = candidate
    return list(candidates.values())


def settings_of(candidate: Candidate, base: ConversionSettings, seed: int) -> ConversionSettings:
    """What the candidate is distilled with."""
    own = {
        name: getattr(candidate, name)
        for name in ("num_instances", "learning_rate", "state_weight", *STRUCTURE, *WIDTHS)
    }
    return replace(base, **{name: value for name, value in own.items() if value is not None}, seed=seed)
