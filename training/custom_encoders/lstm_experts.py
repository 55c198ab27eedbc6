"""A bidirectional LSTM with a mixture of experts behind it: a tagger of the time before transformers.

It is a `fastmux.ModuleEncoder` with a config, so that the Auto classes build it and a saved model, multiplexed or not,
loads by its folder alone once `fastmux.training.custom_encoders` is imported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

import fastmux
from fastmux.models.encoders import ModuleEncoderConfig


class LstmExpertsConfig(ModuleEncoderConfig):
    """Attributes:
    embedding_size, hidden_size: The widths of words and of states; equal, for both are added.
    lstm_size: The LSTM's width in each direction.
    num_experts: The linear maps of a position's LSTM states, weighted by a gate; 0 for one map and no gate.
    dropout: Dropout of words and of the LSTM's states.
    """

    model_type = "lstm_experts"

    lstm_size: int = 64
    num_experts: int = 8
    dropout: float = 0.0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.embedding_size != self.hidden_size:
            raise ValueError(
                f"embedding_size is {self.embedding_size}, expected hidden_size={self.hidden_size}: they are added"
            )
        for name, least in (("lstm_size", 1), ("num_experts", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")


class ExpertTagger(nn.Module):
    """``x + sum_e g_e(s) W_e s``, s the LSTM's states at a position: (G, L, d) -> (G, L, d).

    The gate g is a softmax over all experts (Jacobs et al., 1991, "Adaptive mixtures of local experts"). Words are
    added to what the experts say, so that a multiplexed word is still there to be told apart.
    """

    def __init__(self, config: LstmExpertsConfig):
        super().__init__()
        width, states = config.embedding_size, 2 * config.lstm_size
        self.lstm = nn.LSTM(width, config.lstm_size, batch_first=True, bidirectional=True)
        self.gate = nn.Linear(states, config.num_experts) if config.num_experts else None
        self.experts = nn.Linear(states, max(1, config.num_experts) * width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.dropout(inputs_embeds)
        if attention_mask is None:
            states = self.lstm(x)[0]
        else:
            # Packed, so that the way back begins at a row's last word, however much padding stands behind it.
            lengths = attention_mask.sum(1).clamp(min=1).to("cpu", torch.long)
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            states = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])[0]
        states = self.dropout(states)
        said = self.experts(states).unflatten(-1, (-1, x.shape[-1]))
        weights = said.new_ones(said.shape[:-1]) if self.gate is None else self.gate(states).softmax(-1)
        return inputs_embeds + torch.einsum("gle,gled->gld", weights, said)


class LstmExperts(fastmux.ModuleEncoder):
    """Word table and `ExpertTagger`: ``inputs_embeds`` (G, L, d) -> ``last_hidden_state`` (G, L, d)."""

    config_class = LstmExpertsConfig
    base_model_prefix = "encoder"

    def __init__(self, config: LstmExpertsConfig):
        words = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        super().__init__(ExpertTagger(config), words, config.hidden_size)
        self.config = config
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.LSTM, nn.Linear, nn.Embedding)):
            module.reset_parameters()


class LstmExpertsForTokenClassification(PreTrainedModel):
    """`LstmExperts` with a linear head on every position: the plain tagger."""

    config_class = LstmExpertsConfig
    base_model_prefix = "encoder"

    def __init__(self, config: LstmExpertsConfig):
        super().__init__(config)
        self.encoder = LstmExperts(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **kwargs
    ) -> TokenClassifierOutput:
        """input_ids (B, L), labels (B, L), -100 where none is asked for -> logits (B, L, num_labels) and loss."""
        words = self.get_input_embeddings()(input_ids)
        logits = self.classifier(self.encoder(words, attention_mask).last_hidden_state)
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return TokenClassifierOutput(loss=loss, logits=logits)


AutoConfig.register(LstmExpertsConfig.model_type, LstmExpertsConfig, exist_ok=True)
AutoModel.register(LstmExpertsConfig, LstmExperts, exist_ok=True)
AutoModelForTokenClassification.register(LstmExpertsConfig, LstmExpertsForTokenClassification, exist_ok=True)
