"""`TMuxConfig`: what a multiplexed model is made of."""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields

from packaging.version import InvalidVersion, Version
from transformers import AutoConfig, PreTrainedConfig

import fastmux
from fastmux.modules.classifier import CLASSIFIERS
from fastmux.modules.demultiplexers import DEMULTIPLEXERS
from fastmux.modules.multiplexer import MULTIPLEXERS

SEQUENCE_SUMMARIES = ("first", "mean")
RETRIEVAL_DEMULTIPLEXERS = ("shared", "own")
#: Without these, a stored config says nothing about a model: defaults would be guesses.
REQUIRED = ("backbone_config", "num_instances", "multiplexer", "demultiplexer")
#: What Hugging Face's configs take without having it as a field.
_COMMON = ("attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "quantization_config")

#: Options of every Hugging Face config that an encoder's layers read from theirs: set here, they are set there.
_SHARED = ("output_hidden_states", "output_attentions", "chunk_size_feed_forward")
#: What says how one model is stored or found, and holds for no other.
_NOT_SHARED = {"auto_map", "custom_pipelines", "quantization_config", "transformers_weights"}
#: Names that encoders have for the same thing; where one is None or missing, the next counts.
_SYNONYMS = {"embedding_size": ("embedding_size", "hidden_size"), "layer_norm_eps": ("layer_norm_eps", "norm_eps")}
#: For encoders whose config says nothing.
_DEFAULTS = {"initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": None}


@dataclass(frozen=True)
class Conventions:
    """What the checkpoints that the authors of DataMUX and MUX-PLM published do otherwise than fastmux.

    Args:
        classifier_type: a task head: "linear" (default); "mlp", a layer and a GELU before that; "mlp_norm", a LayerNorm
            between the two as well.
        retrieval_demultiplexer: "shared" (default), the task's; or "own", one more of the same kind. With its own, a
            warm-up and a masked language model train that one alone; the task's stays as it was drawn.
        retrieval_transform: one more layer, GELU and LayerNorm before the retrieval decoder.
        retrieval_residual: skip connections around that layer, and in retrieval's way through "rsa".
        retrieval_skips_first: do not ask retrieval for the first position, the same in all rows.
        retrieval_counts_padding: ask retrieval for padding too, as MUX-BERT's masked language model does.
        task_loss_weight: of the task in the loss; 1 - lambda if None.
        first_token_id: put this token in place of the first one of every row; None (default) leaves it.
        ignore_token_types: leave ``token_type_ids`` out: every token is of the first segment.
        attend_padding: let the encoder attend to padding, which retrieval then knows by its token.
        padded_length: pad every row to so many positions, on which the answers of a model depend that attends to
            padding; fewer where it has room for fewer. Whatever makes batches of rows does it: `fastmux.predict`,
            `fastmux.Labeller`, ``model.predict``. ``forward`` takes rows as they are. None pads to the longest row.
        ignore_padding_labels: count no label of a padded position, as DataMUX's token classification does. By default
            such labels are -100 already where Hugging Face's data collators made them.

    Raises:
        ValueError: for a value outside what is listed above; a padded length for a model that ignores padding.
    """

    classifier_type: str = "linear"
    retrieval_demultiplexer: str = "shared"
    retrieval_transform: bool = False
    retrieval_residual: bool = False
    retrieval_skips_first: bool = False
    retrieval_counts_padding: bool = False
    task_loss_weight: float | None = None
    first_token_id: int | None = None
    ignore_token_types: bool = False
    attend_padding: bool = False
    padded_length: int | None = None
    ignore_padding_labels: bool = False

    def __post_init__(self) -> None:
        _check_choice("classifier_type", self.classifier_type, CLASSIFIERS)
        _check_choice("retrieval_demultiplexer", self.retrieval_demultiplexer, RETRIEVAL_DEMULTIPLEXERS)
        if self.task_loss_weight is not None and self.task_loss_weight < 0.0:
            raise ValueError(f"task_loss_weight is {self.task_loss_weight}, expected a number of at least 0")
        if self.padded_length is not None and not (self.attend_padding and self.padded_length >= 1):
            raise ValueError(
                f"padded_length is {self.padded_length}, expected None, or at least 1 and attend_padding=True"
            )

    @classmethod
    def of(cls, given: dict | Conventions | None) -> Conventions:
        """These, those of a stored config, or fastmux's own."""
        if isinstance(given, cls):
            return given
        unknown = sorted(set(given or {}) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"conventions has {', '.join(unknown)}, which fastmux does not know")
        return cls(**given or {})

    def to_dict(self) -> dict:
        """Those that are not fastmux's own."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, allowed))}")


class TMuxConfig(PreTrainedConfig):
    """Configuration of a T-MUX model: an encoder, a multiplexer before it and a demultiplexer behind it.

    Args:
        backbone_config: configuration of the encoder, a Hugging Face config or its dict.
        num_instances: N, rows that share one pass of the encoder. 1 or more.
        multiplexer: name in `fastmux.MULTIPLEXERS`: "hadamard" (default), "binary", "orthogonal",
            "low_rank_orthogonal", "walsh_hadamard", "attention" or "identity"; or a class of your own.
        multiplexer_options: keyword arguments of the multiplexer's class, e.g. ``{"learnable": True}``.
        demultiplexer: name in `fastmux.DEMULTIPLEXERS`: "unbind", "key", "mlp", "rsa" (no prefix) or "index" (the
            papers' method, adds a prefix of N + 1 positions); or a class of your own. If None, "unbind"; "index" for
            an encoder whose embeddings are of another width than its hidden states, which "unbind" cannot serve.
        demultiplexer_options: keyword arguments of the demultiplexer's class, e.g. ``{"linear": False}`` of "unbind".
        sequence_summary: what a sequence task reads: "first" (default), one state, of the index prefix's CLS or,
            without a prefix, of the first position, as the papers do; or "mean", the average of a row's demultiplexed
            states. The mean costs demultiplexing at every position, but an encoder trained from scratch learns
            sequence tasks far sooner from it: attention need not first learn to carry N superposed sequences to
            one position, and states are told apart where retrieval has learnt to tell them apart.
        retrieval_loss_weight: lambda of ``loss = (1 - lambda) * task + lambda * retrieval`` (DataMUX, section 3.3), in
            [0, 1]; 0 leaves the retrieval head out.
        retrieval_percentage: share of the positions, drawn anew at every step, at which the retrieval loss asks; in
            (0, 1]. As an auxiliary loss it keeps what the warm-up learnt from a quarter of them as well, and the
            vocabulary's logits are a third of the cost of a small model's step.
        classifier_dropout: dropout before a task head; the encoder's ``hidden_dropout_prob`` if None.
        tie_word_embeddings: decode retrieved and masked tokens with the encoder's word embeddings, where their width is
            the hidden states'. Default True.
        conventions: what published checkpoints do otherwise than fastmux. Set by the reader of such a checkpoint.
        kwargs: any common option of a Hugging Face config, e.g. ``num_labels``, ``problem_type``, ``id2label``.

    Raises:
        ValueError: for a value outside what is listed above; for a field that this version does not know, in a config
            that a later version wrote.

    Warns:
        UserWarning: for any other field that is not known. It is kept, as in every Hugging Face config.

    Example:
        >>> from transformers import BertConfig
        >>> import fastmux
        >>> config = fastmux.TMuxConfig(backbone_config=BertConfig(num_hidden_layers=2), num_instances=10)
        >>> config.hidden_size, config.prefix_length
        (768, 0)
    """

    model_type = "tmux"
    sub_configs = {"backbone_config": AutoConfig}
    keys_to_ignore_at_inference = ["hidden_states", "attentions", "task_loss", "retrieval_loss"]

    backbone_config: dict | PreTrainedConfig | None = None
    num_instances: int = 2
    multiplexer: str = "hadamard"
    multiplexer_options: dict | None = None
    demultiplexer: str | None = None
    demultiplexer_options: dict | None = None
    sequence_summary: str = "first"
    retrieval_loss_weight: float = 0.1
    retrieval_percentage: float = 1.0
    classifier_dropout: float | None = None
    tie_word_embeddings: bool = True
    conventions: dict | Conventions | None = None

    def __post_init__(self, **kwargs):
        # Out of the way until it is complete: what is not found in this config is asked of it.
        backbone = self.__dict__.pop("backbone_config")
        if isinstance(backbone, dict):
            if "model_type" not in backbone:
                raise ValueError("backbone_config has no model_type, expected the dict of a Hugging Face config")
            backbone = AutoConfig.for_model(**backbone)
        elif backbone is None:
            # transformers builds configs without arguments to find out defaults
            backbone = AutoConfig.for_model("bert")
        settable = {"max_position_embeddings"} | {name for name in kwargs if self.belongs_to(backbone, name)}
        theirs = {name: kwargs.pop(name) for name in list(kwargs) if name in settable}
        self._check_names(kwargs, kwargs.pop("fastmux_version", None))
        # A config's attention implementation is its sub-configs' too; what the encoder was built with stands.
        kwargs.setdefault("attn_implementation", backbone._attn_implementation)
        super().__post_init__(**kwargs)
        options = {name: getattr(self, name) for name in _SHARED if getattr(self, name)}
        if theirs or options:
            backbone = copy.deepcopy(backbone)  # the caller's stays as it was
        self.backbone_config = backbone
        if self.demultiplexer is None:
            # Ahead of the papers' method in accuracy, memory and limit wherever both were measured.
            self.demultiplexer = "unbind" if self.embedding_size == self.hidden_size else "index"
        self.conventions = Conventions.of(self.conventions)
        self._attn_implementation = kwargs["attn_implementation"]
        self.update(theirs | options)
        for name in _SHARED:
            super().__setattr__(name, getattr(backbone, name))
        self._validate()

    @classmethod
    def belongs_to(cls, backbone: PreTrainedConfig, name: str) -> bool:
        """Whether the encoder's config has this attribute, and this class has none of that name."""
        if name.startswith("_") or name in _NOT_SHARED or hasattr(cls, name):
            return False
        return any(hasattr(backbone, known) for known in _SYNONYMS.get(name, (name,)))

    def __getattr__(self, name: str):
        backbone = self.__dict__.get("backbone_config")
        if backbone is not None and self.belongs_to(backbone, name):
            values = (getattr(backbone, known, None) for known in _SYNONYMS.get(name, (name,)))
            return next((value for value in values if value is not None), None)
        if backbone is not None and name in _DEFAULTS:
            return _DEFAULTS[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value) -> None:
        backbone = self.__dict__.get("backbone_config")
        theirs = backbone is not None and self.belongs_to(backbone, name)
        if theirs:
            known = _SYNONYMS.get(name, (name,))
            setattr(backbone, next(n for n in known if hasattr(backbone, n)), value)
            return
        super().__setattr__(name, value)
        if backbone is not None and name in _SHARED:
            setattr(backbone, name, value)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """As in Hugging Face, of a stored config.

        Raises:
            ValueError: if it lacks what makes it that of a multiplexed model.
        """
        lacking = [name for name in REQUIRED if config_dict.get(name) is None]
        if lacking:
            raise ValueError(f"the config of a T-MUX model lacks {', '.join(lacking)}")
        if not isinstance(config_dict["backbone_config"], (dict, PreTrainedConfig)):
            raise ValueError(
                f"backbone_config is {config_dict['backbone_config']!r}, expected the dict of a Hugging Face config"
            )
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict:
        return super().to_dict() | {"conventions": self.conventions.to_dict(), "fastmux_version": fastmux.__version__}

    @classmethod
    def check_spelling(cls, options: Iterable[str]) -> None:
        """Raises ValueError for a name that is no field's but nearly one's."""
        known = [field.name for field in fields(cls)]
        for name in options:
            closest = [] if hasattr(cls, name) else difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if closest:
                raise ValueError(f"TMuxConfig has no field {name!r}; did you mean {closest[0]!r}?")

    def _check_names(self, options: dict, version: str | None) -> None:
        """Says which of the options beside the fields nothing will read. A typing error must not go unnoticed."""
        unknown = sorted(
            name for name in options if not (name in _COMMON or name.startswith("_") or hasattr(self, name))
        )
        if not unknown:
            return
        if version is not None and _is_later(version):
            raise ValueError(
                f"the config was written by fastmux {version} and has fields that {fastmux.__version__} does not know: "
                f"{', '.join(unknown)}; install fastmux>={version}"
            )
        warnings.warn(f"TMuxConfig has no field {', '.join(unknown)}: kept, but without effect", stacklevel=2)

    def _validate(self) -> None:
        if isinstance(self.num_instances, bool) or not isinstance(self.num_instances, int) or self.num_instances < 1:
            raise ValueError(f"num_instances is {self.num_instances!r}, expected an integer of at least 1")
        MULTIPLEXERS.check(self.multiplexer, self.multiplexer_options or {})
        DEMULTIPLEXERS.check(self.demultiplexer, self.demultiplexer_options or {})
        _check_choice("sequence_summary", self.sequence_summary, SEQUENCE_SUMMARIES)
        if not 0.0 <= self.retrieval_loss_weight <= 1.0:
            raise ValueError(f"retrieval_loss_weight is {self.retrieval_loss_weight}, expected a number from 0 to 1")
        if not 0.0 < self.retrieval_percentage <= 1.0:
            raise ValueError(f"retrieval_percentage is {self.retrieval_percentage}, expected a number above 0, up to 1")
        first, vocabulary = self.conventions.first_token_id, self.vocab_size
        if first is not None and not 0 <= first < vocabulary:
            raise ValueError(f"first_token_id is {first}, expected a token of the encoder, 0 to {vocabulary - 1}")

    @property
    def max_position_embeddings(self) -> int:
        """Positions that the encoder has room for, less those that the index prefix takes."""
        return self.backbone_config.max_position_embeddings - self.prefix_length

    @max_position_embeddings.setter
    def max_position_embeddings(self, value: int) -> None:
        self.backbone_config.max_position_embeddings = value + self.prefix_length

    @property
    def loss_weights(self) -> tuple[float, float]:
        """(task, retrieval) in the loss."""
        weight, task = self.retrieval_loss_weight, self.conventions.task_loss_weight
        return (1.0 - weight if task is None else task), weight

    @property
    def head_dropout(self) -> float:
        """Dropout before a task head."""
        if self.classifier_dropout is not None:
            return self.classifier_dropout
        return getattr(self, "hidden_dropout_prob", 0.0)

    @property
    def prefix_length(self) -> int:
        """Positions that the index prefix adds to every sequence."""
        return self.num_instances + 1 if DEMULTIPLEXERS[self.demultiplexer].has_prefix else 0


def _is_later(version: str) -> bool:
    try:
        return Version(version) > Version(fastmux.__version__)
    except InvalidVersion:
        return False


AutoConfig.register(TMuxConfig.model_type, TMuxConfig, exist_ok=True)
