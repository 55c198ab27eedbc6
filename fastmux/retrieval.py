"""The retrieval task of DataMUX, section 3.3: say, of one instance drawn at each position, which token it had there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmux import functional as F
from fastmux.configuration import TMuxConfig

IGNORE_INDEX = -100


class RetrievalHead(nn.Module):
    """Decodes demultiplexed states to tokens. The decoder is the encoder's word embedding where the widths agree."""

    def __init__(self, config: TMuxConfig):
        super().__init__()
        self.std = config.initializer_range
        tied = config.embedding_size == config.hidden_size
        self.weight = None if tied else nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.bias = nn.Parameter(torch.empty(config.vocab_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)
        if self.weight is not None:
            nn.init.normal_(self.weight, std=self.std)

    def decoder(self, word_embeddings: Tensor) -> Tensor:
        """The decoder's weight (V, d)."""
        return word_embeddings if self.weight is None else self.weight

    def loss(self, tmux: nn.Module, mux, labels: Tensor, instances: Tensor | None = None) -> Tensor:
        """Mean cross-entropy over the positions whose drawn instance has a label.

        tmux and mux: a `TMux` and what its `encode` returned; labels (G, N, L) token ids, -100 where there is none;
        instances (G, L), drawn uniformly if None.
        """
        groups, num_instances, length = labels.shape
        if instances is None:
            instances = torch.randint(num_instances, (groups, length), device=labels.device)
        targets = labels.gather(1, instances[:, None]).squeeze(1)
        states = tmux.demultiplex_instances(mux, instances)
        weight = self.decoder(tmux.get_input_embeddings().weight)
        return F.linear_cross_entropy(
            states.flatten(0, 1), weight, targets.flatten(), self.bias, ignore_index=IGNORE_INDEX
        )

    @torch.no_grad()
    def predict(self, tmux: nn.Module, mux) -> Tensor:
        """The token recovered for every row and position, (B, L); one instance at a time, never all logits at once."""
        weight = self.decoder(tmux.get_input_embeddings().weight)
        groups, length = mux.content.shape[:2]
        predictions = []
        for i in range(tmux.num_instances):
            instances = torch.full((groups, length), i, device=mux.content.device)
            states = tmux.demultiplex_instances(mux, instances)
            predictions.append(F.linear_argmax(states.flatten(0, 1), weight, self.bias).view(groups, length))
        return torch.stack(predictions, 1).flatten(0, 1)[: mux.rows]


def retrieval_labels(mux) -> Tensor:
    """The tokens themselves, (G, N, L), -100 where a row is padding."""
    if mux.attention_mask is None:
        return mux.input_ids
    return mux.input_ids.masked_fill(mux.attention_mask == 0, IGNORE_INDEX)
