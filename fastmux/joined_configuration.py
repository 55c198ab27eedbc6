"""`JoinedConfig`: the configuration of a model whose deeper layers run on joined states."""

from __future__ import annotations

from transformers import AutoConfig, PreTrainedConfig

from fastmux.joins import BERT_LIKE, JOINS


class JoinedConfig(PreTrainedConfig):
    """The configuration of a model whose deeper layers run on joined states.

    Args:
        backbone_config: The configuration of the encoder with the layers that it keeps: a Hugging Face config or its
            dict, of a kind in `BERT_LIKE`.
        num_instances: N, the number of states that are joined into one, 1 or more. With 1 nothing is joined.
        join: What is joined. "positions" (default): N neighbouring positions of a row. "rows": N rows of the batch at
            each position. "pooled": N neighbouring positions, which are not separated again; not for heads that read
            every position. "feed_forward": N neighbouring positions in the feed-forward layers alone, while attention
            runs at every position.
        row_layers: The number of layers before the join, 0 or more.
        last_layers: The number of layers after the join, which run on separate states again, 0 or more. Pooled states
            stay joined in them.
        first_layers: The number of last layers that run at the first position only, 1 or more. It counts where the head
            reads no other position. One is exact. Each further one saves most of a layer's work, but sees the other
            positions as they were before it, which the model has to learn.
        attention_heads: The number of heads of each attention layer; None for the encoder's ``num_attention_heads``,
            from which the width of a head follows.
        kwargs: Common options of a Hugging Face config.

    Raises:
        ValueError: A value is outside of what is listed above, or row and last layers leave no layer to run on joined
            states.
    """

    model_type = "fastmux_joined"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    num_instances: int = 2
    join: str = "positions"
    row_layers: int = 1
    last_layers: int = 1
    first_layers: int = 1
    attention_heads: int | None = None

    def __post_init__(self, **kwargs):
        if isinstance(self.backbone_config, dict):
            options = dict(self.backbone_config)
            self.backbone_config = AutoConfig.for_model(options.pop("model_type", None), **options)
        elif self.backbone_config is None:
            self.backbone_config = AutoConfig.for_model("bert")
        backbone = self.backbone_config
        if backbone.model_type not in BERT_LIKE or getattr(backbone, "is_decoder", False):
            raise ValueError(
                f"backbone is a {backbone.model_type!r} model; layers can be run on joined states in encoders of the "
                f"kinds {', '.join(BERT_LIKE)}"
            )
        for name, least in (("num_instances", 1), ("row_layers", 0), ("last_layers", 0), ("first_layers", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}, expected an integer of at least {least}")
        heads, most = self.attention_heads, backbone.num_attention_heads
        if heads is not None and (isinstance(heads, bool) or not isinstance(heads, int) or not 1 <= heads <= most):
            raise ValueError(f"attention_heads is {heads!r}, expected an integer from 1 to {most}, or None")
        if self.join not in JOINS:
            raise ValueError(f"join is {self.join!r}, expected one of {', '.join(map(repr, JOINS))}")
        layers = backbone.num_hidden_layers
        if self.first_layers > max(1, layers if self.num_instances == 1 else self.last_layers):
            raise ValueError(f"first_layers is {self.first_layers}, expected at most last_layers, {self.last_layers}")
        if self.num_instances > 1 and self.row_layers + self.last_layers >= layers:
            raise ValueError(
                f"row_layers is {self.row_layers} and last_layers is {self.last_layers}, expected fewer than "
                f"{layers} in all: the encoder has {layers} layers, of which at least one runs on joined states"
            )
        for name in ("id2label", "label2id", "problem_type"):
            if getattr(backbone, name, None) is not None:
                kwargs.setdefault(name, getattr(backbone, name))
        kwargs.setdefault("attn_implementation", backbone._attn_implementation)
        super().__post_init__(**kwargs)

    @property
    def joins_rows(self) -> bool:
        """Whether rows share a pass, so that a row's result depends on the rows of its group."""
        return self.num_instances > 1 and self.join == "rows"

    @property
    def is_plain(self) -> bool:
        """Whether a plain Hugging Face model computes the same."""
        return self.num_instances == 1 and self.first_layers == 1 and self.attention_heads is None

    @property
    def hidden_size(self) -> int:
        return self.backbone_config.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.backbone_config.vocab_size

    @property
    def pad_token_id(self) -> int | None:
        return self.backbone_config.pad_token_id

    @pad_token_id.setter
    def pad_token_id(self, value: int | None) -> None:
        # The Trainer sets it, where a tokenizer pads with another token than the config says.
        self.backbone_config.pad_token_id = value


AutoConfig.register(JoinedConfig.model_type, JoinedConfig, exist_ok=True)
