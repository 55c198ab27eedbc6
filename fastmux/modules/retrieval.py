"""The retrieval task of DataMUX, section 3.3: at each position one instance is drawn, and its token is to be
recovered."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmux import functional as F
from fastmux.modules.demultiplexers import DEMULTIPLEXERS, Demultiplexer, norm_gelu_linear
from fastmux.modules.is_plain import is_plain, table_of, tensor_of

IGNORE_INDEX = -100


class AuxiliaryDecoder(nn.Module):
    """The decoder of an auxiliary loss: a bias (V), and a weight (V, d) or None, which stands for the word embeddings.

    It is not an ``nn.Linear``. Tools that change all linear layers of a model, for adapters or quantisation, would
    otherwise change the word embeddings through it.
    """

    def __init__(self, width: int, vocab_size: int, *, tied: bool = True, std: float = 0.02):
        super().__init__()
        self.std = std
        self.weight = None if tied else nn.Parameter(torch.empty(vocab_size, width))
        self.bias = nn.Parameter(torch.empty(vocab_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)
        if self.weight is not None:
            nn.init.normal_(self.weight, std=self.std)

    @torch.no_grad()
    def resize(self, vocab_size: int) -> None:
        """Changes the number of tokens. Weights of new tokens are random."""
        old = {"bias": self.bias, "weight": self.weight}
        kept = min(vocab_size, len(self.bias))
        for name, parameter in old.items():
            if parameter is not None:
                setattr(self, name, nn.Parameter(parameter.new_empty(vocab_size, *parameter.shape[1:])))
        self.reset_parameters()
        for name, parameter in old.items():
            if parameter is not None:
                getattr(self, name)[:kept] = parameter[:kept]

    def tensors(self, words: nn.Module) -> tuple[Tensor, Tensor]:
        """The decoder's weight and bias. ``words`` is the module of the word embeddings."""
        bias = tensor_of(self, "bias")
        return table_of(words, len(bias)) if self.weight is None else tensor_of(self, "weight"), bias


class RetrievalHead(nn.Module):
    """Decodes demultiplexed states to tokens.

    Args:
        vocab_size: V, the number of tokens.
        width: d, the width of the states.
        tied: Whether it decodes with the encoder's word embeddings. Otherwise it has its own table.
        auxiliary: Whether the decoder is an `AuxiliaryDecoder`. Otherwise it is an ``nn.Linear``, which a model may
            return as its output embeddings. If it is tied, its weight is undefined until the model puts the word
            embeddings there.
        demultiplexer: The head's own demultiplexer. None for the task's.
        transform: Whether one more layer, GELU and LayerNorm precede the decoder.
        residual: Whether there is a skip connection around that layer.
        percentage: The share of positions, drawn at every training step, that `loss` counts.
        std: The standard deviation of initial weights.
        eps: The epsilon of the LayerNorm.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        tied: bool = True,
        auxiliary: bool = False,
        demultiplexer: Demultiplexer | None = None,
        transform: bool = False,
        residual: bool = False,
        percentage: float = 1.0,
        std: float = 0.02,
        eps: float = 1e-12,
    ):
        super().__init__()
        self.residual, self.percentage = residual, percentage
        self.demultiplexer = demultiplexer
        self.dense = nn.Linear(width, width) if transform else None
        self.layer_norm = nn.LayerNorm(width, eps=eps) if transform else None
        if auxiliary:
            self.decoder = AuxiliaryDecoder(width, vocab_size, tied=tied, std=std)
            return
        self.decoder = nn.Linear(width, vocab_size, device="meta")  # on the meta device nothing is drawn
        self.decoder.weight = nn.Parameter(torch.empty(vocab_size, width))
        self.decoder.bias = nn.Parameter(torch.zeros(vocab_size))
        if tied:
            self.decoder.weight._is_hf_initialized = True  # so that transformers does not draw it
        else:
            nn.init.normal_(self.decoder.weight, std=std)

    @classmethod
    def from_config(cls, config, auxiliary: bool = False) -> RetrievalHead:
        """Builds the retrieval head of a `fastmux.TMuxConfig`."""
        own = config.conventions.retrieval_demultiplexer == "own"
        return cls(
            config.vocab_size,
            config.hidden_size,
            tied=config.tie_word_embeddings and config.embedding_size == config.hidden_size,
            auxiliary=auxiliary,
            demultiplexer=DEMULTIPLEXERS[config.demultiplexer].from_config(config) if own else None,
            transform=config.conventions.retrieval_transform,
            residual=config.conventions.retrieval_residual,
            percentage=config.retrieval_percentage,
            std=config.initializer_range,
            eps=config.layer_norm_eps,
        )

    def states(self, tmux: nn.Module, mux, instances: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """The states to decode: (G, N, L, d), or (G, L, d) for one instance at each position, instances (G, L). With
        positions (K), only these K of the L."""
        demultiplexer = tmux.demultiplexer if self.demultiplexer is None else self.demultiplexer
        h = mux.content if positions is None else mux.content[:, positions]
        x = demultiplexer.retrieve(h, mux.prefix_states, mux.transforms, instances)
        if self.dense is None:
            return x
        y = norm_gelu_linear(x, self.dense, self.layer_norm)
        return x + y if self.residual else y

    def loss(self, tmux: nn.Module, mux, labels: Tensor, instances: Tensor | None = None) -> Tensor:
        """The mean cross-entropy over the positions where the drawn instance has a label.

        Args:
            tmux: A `fastmux.TMux`.
            mux: The result of its ``encode``.
            labels: Token ids (G, N, L), -100 where there is no label.
            instances: The instance to recover at each position, (G, L). Drawn uniformly if None.
        """
        groups, num_instances, length = labels.shape
        if instances is None:
            instances = torch.randint(num_instances, (groups, length), device=labels.device)
        targets = labels.gather(1, instances[:, None]).squeeze(1)
        positions = None
        if self.training and self.percentage < 1.0:
            asked = max(1, round(self.percentage * length))
            positions = torch.randperm(length, device=labels.device)[:asked]
            instances, targets = instances[:, positions], targets[:, positions]
        return self.cross_entropy(tmux, self.states(tmux, mux, instances, positions), targets)

    def _decoder_tensors(self, tmux: nn.Module) -> tuple[Tensor, Tensor | None] | None:
        """The decoder's weight (V, d) and bias (V). None where the decoder has to be called."""
        if isinstance(self.decoder, AuxiliaryDecoder):
            return self.decoder.tensors(tmux.get_input_embeddings())
        return (self.decoder.weight, self.decoder.bias) if is_plain(self.decoder, nn.Linear) else None

    def cross_entropy(self, tmux: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of decoded states (..., d) against tokens (...), -100 where there is no token."""
        states, targets, tensors = states.flatten(0, -2), targets.flatten(), self._decoder_tensors(tmux)
        if tensors is not None:
            weight, bias = tensors
            return F.linear_cross_entropy(states, weight, targets, bias, ignore_index=IGNORE_INDEX)
        logits = self.decoder(states)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
        return total / (targets != IGNORE_INDEX).sum().clamp(min=1)

    @torch.no_grad()
    def predict(self, tmux: nn.Module, mux) -> Tensor:
        """The token recovered for every row and position, (B, L). Logits are computed for one instance at a time."""
        tensors = self._decoder_tensors(tmux)
        groups, length = mux.content.shape[:2]
        predictions = []
        for i in range(tmux.num_instances):
            instances = torch.full((groups, length), i, device=mux.content.device)
            states = self.states(tmux, mux, instances).flatten(0, 1)
            tokens = self.decoder(states).argmax(-1) if tensors is None else F.linear_argmax(states, *tensors)
            predictions.append(tokens.view(groups, length))
        return torch.stack(predictions, 1).flatten(0, 1)[: mux.rows]


def retrieval_labels(input_ids: Tensor, padding: Tensor | None = None, skip_first: bool = False) -> Tensor:
    """The labels of retrieval (G, N, L): the tokens, but -100 where padding (G, N, L) is True and, with ``skip_first``,
    at the first position."""
    labels = input_ids if padding is None else input_ids.masked_fill(padding, IGNORE_INDEX)
    if skip_first:
        labels = torch.cat([torch.full_like(labels[..., :1], IGNORE_INDEX), labels[..., 1:]], dim=-1)
    return labels
