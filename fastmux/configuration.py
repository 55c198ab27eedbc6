"""`TMuxConfig`: what a multiplexed model is made of."""

from __future__ import annotations

from transformers import AutoConfig, PreTrainedConfig

SEQUENCE_SUMMARIES = ("first", "mean")


class TMuxConfig(PreTrainedConfig):
    """Configuration of a T-MUX model: an encoder, a multiplexer before it and a demultiplexer behind it.

    Args:
        backbone_config: configuration of the encoder, a Hugging Face config or its dict.
        num_instances: N, rows that share one pass of the encoder. 1 or more.
        multiplexer: name in `fastmux.multiplexers.MULTIPLEXERS`: "hadamard" (default) or "orthogonal".
        demultiplexer: name in `fastmux.demultiplexers.DEMULTIPLEXERS`: "index" (default, the papers' method, adds a
        prefix
            of N + 1 positions), "key" or "unbind" (no prefix).
        learnable_transforms: train the multiplexer's vectors or matrices; fixed by default, as in DataMUX.
        hadamard_norm: root mean square of the entries of each Hadamard vector.
        unbind_linear: False leaves out the linear layer and the GELU of "unbind".
        sequence_summary: what a sequence task reads: "first" (default), one state, of the index prefix's CLS or,
            without a prefix, of the first position, as the papers do; or "mean", the average of a row's demultiplexed
            states. The mean costs demultiplexing at every position, but an encoder trained from scratch learns
            sequence tasks far sooner from it: attention need not first learn to carry N superposed sequences to
            one position, and states are told apart where retrieval has learnt to tell them apart.
        retrieval_loss_weight: lambda of ``loss = (1 - lambda) * task + lambda * retrieval`` (DataMUX, section 3.3), in
            [0, 1]; 0 leaves the retrieval head out.
        classifier_dropout: dropout before a task head; the encoder's ``hidden_dropout_prob`` if None.
        kwargs: any common option of a Hugging Face config, e.g. ``num_labels``, ``problem_type``, ``id2label``.

    Raises:
        ValueError: for a value outside what is listed above.

    Example:
        >>> from transformers import BertConfig
        >>> import fastmux
        >>> config = fastmux.TMuxConfig(backbone_config=BertConfig(num_hidden_layers=2), num_instances=10)
        >>> config.hidden_size, config.prefix_length
        (768, 11)
    """

    model_type = "tmux"
    sub_configs = {"backbone_config": AutoConfig}
    keys_to_ignore_at_inference = ["hidden_states", "attentions", "task_loss", "retrieval_loss"]

    backbone_config: dict | PreTrainedConfig | None = None
    num_instances: int = 2
    multiplexer: str = "hadamard"
    demultiplexer: str = "index"
    learnable_transforms: bool = False
    hadamard_norm: float = 1.0
    unbind_linear: bool = True
    sequence_summary: str = "first"
    retrieval_loss_weight: float = 0.1
    classifier_dropout: float | None = None

    def __post_init__(self, **kwargs):
        if isinstance(self.backbone_config, dict):
            options = dict(self.backbone_config)
            if "model_type" not in options:
                raise ValueError("backbone_config has no model_type, expected the dict of a Hugging Face config")
            self.backbone_config = AutoConfig.for_model(**options)
        elif self.backbone_config is None:
            # transformers builds configs without arguments to find out defaults
            self.backbone_config = AutoConfig.for_model("bert")
        self._validate()
        # A config's attention implementation is its sub-configs' too; what the encoder was built with stands.
        kwargs.setdefault("attn_implementation", self.backbone_config._attn_implementation)
        super().__post_init__(**kwargs)

    def _validate(self) -> None:
        # Imported here: the registries hold torch modules, and a config must load without them.
        from fastmux.demultiplexers import DEMULTIPLEXERS
        from fastmux.multiplexers import MULTIPLEXERS

        if isinstance(self.num_instances, bool) or not isinstance(self.num_instances, int) or self.num_instances < 1:
            raise ValueError(f"num_instances is {self.num_instances!r}, expected an integer of at least 1")
        MULTIPLEXERS.check(self.multiplexer)
        DEMULTIPLEXERS.check(self.demultiplexer)
        if self.sequence_summary not in SEQUENCE_SUMMARIES:
            known = ", ".join(map(repr, SEQUENCE_SUMMARIES))
            raise ValueError(f"sequence_summary is {self.sequence_summary!r}, expected one of {known}")
        if not 0.0 <= self.retrieval_loss_weight <= 1.0:
            raise ValueError(f"retrieval_loss_weight is {self.retrieval_loss_weight}, expected a number from 0 to 1")
        if not self.hadamard_norm > 0.0:
            raise ValueError(f"hadamard_norm is {self.hadamard_norm}, expected a number above 0")

    @property
    def hidden_size(self) -> int:
        return self.backbone_config.hidden_size

    @property
    def embedding_size(self) -> int:
        """Width of the encoder's embeddings, where multiplexing happens; ELECTRA's differs from its hidden size."""
        return getattr(self.backbone_config, "embedding_size", None) or self.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.backbone_config.vocab_size

    @property
    def pad_token_id(self) -> int | None:
        return getattr(self.backbone_config, "pad_token_id", None)

    @property
    def initializer_range(self) -> float:
        return getattr(self.backbone_config, "initializer_range", 0.02)

    @property
    def layer_norm_eps(self) -> float:
        return getattr(self.backbone_config, "layer_norm_eps", 1e-12)

    @property
    def head_dropout(self) -> float:
        """Dropout before a task head."""
        if self.classifier_dropout is not None:
            return self.classifier_dropout
        return getattr(self.backbone_config, "hidden_dropout_prob", 0.0)

    @property
    def prefix_length(self) -> int:
        """Positions that the index prefix adds to every sequence."""
        from fastmux.demultiplexers import DEMULTIPLEXERS

        return self.num_instances + 1 if DEMULTIPLEXERS[self.demultiplexer].has_prefix else 0
