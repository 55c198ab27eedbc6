"""`TMuxConfig`: the configuration of a multiplexed model."""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Iterable
from dataclasses import fields

from packaging.version import InvalidVersion, Version
from transformers import AutoConfig, PreTrainedConfig

import fastmux
from fastmux.conventions import Conventions, check_choice
from fastmux.modules.demultiplexers import DEMULTIPLEXERS
from fastmux.modules.multiplexer import MULTIPLEXERS

SEQUENCE_SUMMARIES = ("first", "mean")
#: Fields without which a stored config does not say what a model is: defaults would be guesses.
REQUIRED = ("backbone_config", "num_instances", "multiplexer", "demultiplexer")
#: Options that Hugging Face's configs take and that are none of their fields.
_COMMON = ("attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "quantization_config")

#: Fields of the encoder's config that `TMuxConfig` shows as its own, to read and to set: those that Hugging Face's
#: tools, and heads here, look for in a model's config.
_OF_ENCODER = (
    "vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "type_vocab_size", "layer_norm_eps",
    "initializer_range", "pad_token_id", "bos_token_id", "eos_token_id", "is_decoder",
    "add_cross_attention", "use_cache",
    # What DistilBERT and ModernBERT call their dropout.
    "attention_dropout", "dropout", "embedding_dropout", "mlp_dropout",
)  # fmt: skip
#: Options of every Hugging Face config that an encoder's layers read from their own: set here, they are set there.
_SHARED = ("output_hidden_states", "output_attentions", "chunk_size_feed_forward")
#: Fields that say how one model is stored or found. They hold for no other model.
_NOT_SHARED = {"auto_map", "custom_pipelines", "quantization_config", "transformers_weights"}
#: Names that encoders have for the same field. The first that is there and not None counts.
_SYNONYMS = {"embedding_size": ("embedding_size", "hidden_size"), "layer_norm_eps": ("layer_norm_eps", "norm_eps")}
#: The values of fields that an encoder's config lacks.
_DEFAULTS = {"initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": None}


def _of_encoder(name: str) -> property:
    """The property that reads and sets a field of the encoder's config."""
    names = _SYNONYMS.get(name, (name,))

    def read(config):
        backbone = config.__dict__.get("backbone_config")
        values = [getattr(backbone, n) for n in names if hasattr(backbone, n)]
        if values:
            return next((value for value in values if value is not None), None)
        if name in config.__dict__:
            return config.__dict__[name]
        if backbone is None or name not in _DEFAULTS:
            raise AttributeError(f"the config of the encoder has no {name}")
        return _DEFAULTS[name]

    def write(config, value) -> None:
        backbone = config.__dict__.get("backbone_config")
        there = next((n for n in names if hasattr(backbone, n)), None)
        if there is None:
            config.__dict__[name] = value
        else:
            setattr(backbone, there, value)

    return property(read, write)


class TMuxConfig(PreTrainedConfig):
    """The configuration of a T-MUX model: an encoder, a multiplexer before it and a demultiplexer behind it.

    Args:
        backbone_config: The configuration of the encoder: a Hugging Face config or its dict.
        num_instances: N, the number of rows that share one pass of the encoder, 1 or more.
        multiplexer: A name in `fastmux.MULTIPLEXERS`: "hadamard" (default), "binary", "orthogonal",
            "low_rank_orthogonal", "walsh_hadamard", "attention", "identity" or one that you registered.
        multiplexer_options: Keyword arguments for the multiplexer's class, e.g. ``{"learnable": True}``.
        demultiplexer: A name in `fastmux.DEMULTIPLEXERS`: "unbind", "key", "mlp", "rsa", "index" or one that you
            registered. "index", the papers' method, adds a prefix of N + 1 positions; the others need none. If None,
            "unbind", or "index" where the encoder's embeddings and hidden states differ in width, which "unbind" cannot
            serve.
        demultiplexer_options: Keyword arguments for the demultiplexer's class, e.g. ``{"linear": False}`` for "unbind".
        sequence_summary: The state that the head of a sequence task reads. "first" (default), as in the papers: the CLS
            of the index prefix or, without a prefix, the first position. "mean": the average of a row's demultiplexed
            states. The mean needs demultiplexing at every position, but an encoder that is trained from scratch learns
            sequence tasks far sooner with it: attention need not first learn to carry N superposed sequences to one
            position.
        retrieval_loss_weight: lambda in ``loss = (1 - lambda) * task + lambda * retrieval`` (DataMUX, section 3.3),
            from 0 to 1. With 0 there is no retrieval head.
        retrieval_percentage: The share of positions, drawn anew at every step, that the retrieval loss counts; above 0,
            up to 1. A quarter of them is enough for the auxiliary loss to keep what the warm-up learnt, and saves work:
            the vocabulary's logits take a third of a small model's step.
        classifier_dropout: The dropout before a task head. The encoder's ``hidden_dropout_prob`` if None.
        tie_word_embeddings: Whether retrieved and masked tokens are decoded with the encoder's word embeddings, where
            these have the width of the hidden states. True by default.
        conventions: What published checkpoints do differently from fastmux. The reader of such a checkpoint sets it.
        kwargs: Common options of a Hugging Face config, e.g. ``num_labels``, ``problem_type`` or ``id2label``, and
            options of the encoder's config, which are set there.

    Raises:
        ValueError: A value is outside of what is listed above, or a later version wrote the config and it has a field
            that this version does not know.

    Warns:
        UserWarning: Any other field is unknown. It is kept, as in every Hugging Face config.

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
        # Set at the end: until then the fields that are read from it are not there.
        backbone = self.__dict__.pop("backbone_config")
        if isinstance(backbone, dict):
            if "model_type" not in backbone:
                raise ValueError("backbone_config has no model_type, expected the dict of a Hugging Face config")
            backbone = AutoConfig.for_model(**backbone)
        elif backbone is None:
            # transformers builds configs without arguments to learn their defaults
            backbone = AutoConfig.for_model("bert")
        settable = {"max_position_embeddings"} | {name for name in kwargs if self.belongs_to(backbone, name)}
        theirs = {name: kwargs.pop(name) for name in list(kwargs) if name in settable}
        self._check_names(kwargs, kwargs.pop("fastmux_version", None))
        # transformers sets a config's attention implementation in its sub-configs, too. Keep the encoder's.
        kwargs.setdefault("attn_implementation", backbone._attn_implementation)
        super().__post_init__(**kwargs)
        options = {name: getattr(self, name) for name in _SHARED if getattr(self, name)}
        if theirs or options:
            backbone = copy.deepcopy(backbone)  # the caller's stays as it was
        self.backbone_config = backbone
        if self.demultiplexer is None:
            # "unbind" is better than the papers' "index" in accuracy, memory and speed limit wherever both were
            # measured.
            self.demultiplexer = "unbind" if self.embedding_size == self.hidden_size else "index"
        self.conventions = Conventions.of(self.conventions)
        self._attn_implementation = kwargs["attn_implementation"]
        for name, value in theirs.items():
            setattr(self if hasattr(type(self), name) else backbone, name, value)
        self.update(options)
        for name in _SHARED:
            super().__setattr__(name, getattr(backbone, name))
        self._validate()

    @classmethod
    def belongs_to(cls, backbone: PreTrainedConfig, name: str) -> bool:
        """Whether an option is the encoder's: its config has a field of this name, and this class has none."""
        if name.startswith("_") or name in _NOT_SHARED or (hasattr(cls, name) and name not in _OF_ENCODER):
            return False
        return any(hasattr(backbone, known) for known in _SYNONYMS.get(name, (name,)))

    def __setattr__(self, name: str, value) -> None:
        super().__setattr__(name, value)
        if name in _SHARED and (backbone := self.__dict__.get("backbone_config")) is not None:
            setattr(backbone, name, value)

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """Builds the config from the dict of a stored one, as in Hugging Face.

        Raises:
            ValueError: The dict lacks a field that a multiplexed model must have.
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
        """Raises ValueError for a name that is almost that of a field."""
        known = [field.name for field in fields(cls)]
        for name in options:
            closest = [] if hasattr(cls, name) else difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if closest:
                raise ValueError(f"TMuxConfig has no field {name!r}; did you mean {closest[0]!r}?")

    def _check_names(self, options: dict, version: str | None) -> None:
        """Warns of options that nothing reads, so that a misspelt one does not go unnoticed."""
        unknown = sorted(
            name for name in options if not (name in _COMMON + _SHARED or name.startswith("_") or hasattr(self, name))
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
        check_choice("sequence_summary", self.sequence_summary, SEQUENCE_SUMMARIES)
        if not 0.0 <= self.retrieval_loss_weight <= 1.0:
            raise ValueError(f"retrieval_loss_weight is {self.retrieval_loss_weight}, expected a number from 0 to 1")
        if not 0.0 < self.retrieval_percentage <= 1.0:
            raise ValueError(f"retrieval_percentage is {self.retrieval_percentage}, expected a number above 0, up to 1")
        first, vocabulary = self.conventions.first_token_id, self.vocab_size
        if first is not None and not 0 <= first < vocabulary:
            raise ValueError(f"first_token_id is {first}, expected a token of the encoder, 0 to {vocabulary - 1}")

    @property
    def max_position_embeddings(self) -> int:
        """The positions that a row may have: the encoder's, less those of the index prefix."""
        return self.backbone_config.max_position_embeddings - self.prefix_length

    @max_position_embeddings.setter
    def max_position_embeddings(self, value: int) -> None:
        self.backbone_config.max_position_embeddings = value + self.prefix_length

    @property
    def loss_weights(self) -> tuple[float, float]:
        """The weights of the task and of retrieval in the loss."""
        weight, task = self.retrieval_loss_weight, self.conventions.task_loss_weight
        return (1.0 - weight if task is None else task), weight

    @property
    def head_dropout(self) -> float:
        """The dropout before a task head."""
        if self.classifier_dropout is not None:
            return self.classifier_dropout
        return getattr(self, "hidden_dropout_prob", 0.0)

    @property
    def prefix_length(self) -> int:
        """The positions that the index prefix adds to every sequence."""
        return self.num_instances + 1 if DEMULTIPLEXERS[self.demultiplexer].has_prefix else 0


for _name in _OF_ENCODER:
    setattr(TMuxConfig, _name, _of_encoder(_name))


def _is_later(version: str) -> bool:
    try:
        return Version(version) > Version(fastmux.__version__)
    except InvalidVersion:
        return False


AutoConfig.register(TMuxConfig.model_type, TMuxConfig, exist_ok=True)
