"""The published DataMUX and MUX-PLM models in plain PyTorch on a state dict, with nothing of fastmux or transformers.

Written from a description of what the authors' code computes, not from fastmux; it reproduces the golden fixtures, and
stands in for the authors' code where there is none: every published class with every multiplexer and demultiplexer,
rows padded to any length, with segment ids. In float64, so that what it is compared with has rounding of its own alone.
G groups, N instances, L positions, width d, vocabulary V. Everything is in eval mode.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, gelu, layer_norm, linear

ROBERTA_CLS, ROBERTA_PAD, BERT_CLS, BERT_PAD = 49923, 50000, 101, 680
CLASSES = {
    "RobertaSequenceClassificationMuxed": ("roberta", "seq"),
    "RobertaTokenClassificationMuxed": ("roberta", "tok"),
    "MuxedBertForSequenceClassification": ("bert", "seq"),
    "MuxedBertForTokenClassification": ("bert", "tok"),
    "MuxedBertForMaskedLM": ("bert", "mlm"),
    "MuxedElectraForSequenceClassification": ("electra", "seq"),
    "MuxedElectraForTokenClassification": ("electra", "tok"),
}
PRODUCTS, MATRICES = ("gaussian_hadamard", "binary_hadamard"), ("random_ortho", "random_ortho_low_rank")


@dataclass
class Published:
    """A checkpoint: its config and its tensors, by their published names."""

    config: dict
    tensors: dict[str, Tensor]

    def __post_init__(self):
        self.encoder, self.task = CLASSES[self.config["architectures"][0]]
        self.num_instances, self.demuxing = self.config["num_instances"], self.config["demuxing_variant"]
        self.prefix = self.num_instances + 1 if self.demuxing == "index" else 0

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name].double()

    def linear(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self[f"{name}.weight"], self[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], self[f"{name}.weight"], self[f"{name}.bias"], self.config["layer_norm_eps"])

    def layer(self, name: str, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """One encoder layer on x (rows, positions, d), which attend where mask (rows, positions) is not 0."""
        heads, width = self.config["num_attention_heads"], x.shape[-1]
        q, k, v = (
            self.linear(f"{name}.attention.self.{part}", x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.mT / (width // heads) ** 0.5
        if mask is not None:
            # What transformers 4.4.2 adds, the version that the authors pinned: where all is padding, nothing is.
            scores = scores - 10000.0 * (mask[:, None, None] == 0)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        output = f"{name}.attention.output"
        x = self.norm(f"{output}.LayerNorm", self.linear(f"{output}.dense", attended) + x)
        wide = gelu(self.linear(f"{name}.intermediate.dense", x))
        return self.norm(f"{name}.output.LayerNorm", self.linear(f"{name}.output.dense", wide) + x)

    def embed(self, words: Tensor, positions: Tensor, types: Tensor | int = 0) -> Tensor:
        name = f"{self.encoder}.embeddings"
        x = words + self[f"{name}.position_embeddings.weight"][positions]
        return self.norm(f"{name}.LayerNorm", x + self[f"{name}.token_type_embeddings.weight"][types])

    def with_special_tokens(self, ids: Tensor) -> Tensor:
        """(G, N, L) -> (G, N, N + 1 + L) with a prefix, (G, N, L) without."""
        cls, pad = (ROBERTA_CLS, ROBERTA_PAD) if self.encoder == "roberta" else (BERT_CLS, BERT_PAD)
        if not self.prefix and self.encoder == "electra":
            return ids  # whose first one is the tokenizer's
        if not self.prefix:
            return torch.cat([torch.full_like(ids[..., :1], cls), ids[..., 1:]], -1)
        own = self.config["vocab_size"] - 2 if self.encoder == "roberta" else BERT_PAD - 2
        n = self.num_instances
        prefix = torch.full((n, n + 1), pad)
        prefix[:, n] = cls
        for i in range(n):
            prefix[i, i] = own - i
        return torch.cat([prefix.expand(len(ids), -1, -1), ids], -1)

    def multiplex(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (G, N, L, d), mask (G, N, L) -> (G, L, d)."""
        transforms, n = self["instance_embedding"], self.num_instances
        if self.config["muxing_variant"] in MATRICES:
            return torch.einsum("nde,gnle->gld", transforms, x) / n**0.5
        contextual = self.config["muxing_variant"] == "gaussian_attention_v2"
        if contextual:
            x = x + self.layer("muxing_attention", x.flatten(0, 1), mask.flatten(0, 1)).view(x.shape)
        x = x * transforms[:, None]
        if contextual:
            columns = x.transpose(1, 2).flatten(0, 1)  # (G L, N, d)
            instances = mask.transpose(1, 2).flatten(0, 1) if self.task == "seq" else None
            mixed = self.layer("muxing_attention_2", columns, instances)
            x = x + mixed.view(x.shape[0], x.shape[2], n, -1).transpose(1, 2)
        return x.mean(1)

    def encode(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """Input ids with special tokens, (G, N, L), their mask and segments -> the encoder's last states (G, L, d)."""
        second = torch.arange(ids.shape[-1])
        first = second.expand(ids.shape)
        if self.encoder == "roberta":
            pad = self.config["pad_token_id"]
            real = (ids != pad).long()
            first, second = real.cumsum(-1) * real + pad, second + pad + 1
        words = self[f"{self.encoder}.embeddings.word_embeddings.weight"][ids]
        x = self.embed(self.multiplex(self.embed(words, first, types), mask), second)
        for m in range(self.config["num_hidden_layers"]):
            x = self.layer(f"{self.encoder}.encoder.layer.{m}", x)
        return x

    def pairs(self, keys: Tensor, h: Tensor) -> Tensor:
        """[k_i ; h_j]: keys (G, N, d), h (G, L, d) -> (G, N, L, 2 d)."""
        shape = (-1, self.num_instances, h.shape[1], -1)
        return torch.cat([keys[:, :, None].expand(shape), h[:, None].expand(shape)], -1)

    def demultiplexed(self, head: str, x: Tensor) -> Tensor:
        """The states of a ``head`` with demultiplexing of its own, by "index" or "mlp", from the encoder's."""
        if self.demuxing == "index":
            pairs = self.pairs(x[:, : self.num_instances], x)
            return self.norm(f"{head}.layer_norm", gelu(self.linear(f"{head}.dense", pairs)))
        own = [
            self.norm(f"{head}.demux_module.layer_norm_{i}", gelu(self.linear(f"{head}.demux_module.dense_{i}", x)))
            for i in range(self.num_instances)
        ]
        return torch.stack(own, 1)

    def keyed(self, x: Tensor) -> Tensor:
        keys = self["demux_module.demux_instance_embedding"]
        return self.pairs(keys.expand(len(x), -1, -1), x)

    def task_states(self, x: Tensor) -> Tensor:
        """(G, L, d) -> (G, N, L, d)."""
        if self.demuxing != "index_pos":
            return self.demultiplexed("demultiplexer", x)
        x = self.keyed(x)
        for m in range(1, self.config.get("num_hidden_demux_layers", 2)):
            y = gelu(self.linear(f"demux_module.dense_{m}", x))
            x = y if m == 1 else x + y
        last = gelu(self.linear("demultiplexer.pre_decoder", x))
        return x + self.norm("demultiplexer.pre_decoder_layer_norm", last)

    def retrieval_logits(self, x: Tensor) -> Tensor:
        """(G, L, d) -> (G, N, L, V)."""
        if self.demuxing == "index_pos":
            skip = self.encoder == "electra"
            x = self.keyed(x)
            for m in range(1, self.config.get("num_hidden_demux_layers", 2) + 1):
                y = gelu(self.linear(f"demux_module.dense_{m}", x))
                y = self.norm(f"demux_module.layer_norm_{m}", y)
                x = x + y if skip and m > 1 else y
            y = gelu(self.linear("retrieval_head.pre_decoder", x))
            y = self.norm("retrieval_head.pre_decoder_layer_norm", y)
            x = x + y if skip else y
        else:
            x = self.demultiplexed("retrieval_head", x)
            if self.demuxing == "mlp":
                x = gelu(self.linear("retrieval_head.dense_pre_vocab", x))
                x = self.norm("retrieval_head.layer_norm_pre_vocab", x)
        return linear(x, self["retrieval_head.decoder.weight"], self["retrieval_head.bias"])

    def classify(self, z: Tensor) -> Tensor:
        if self.encoder == "roberta":
            if self.demuxing == "index" and self.task == "tok":
                return self.linear("demultiplexer.decoder", z)
            z = gelu(self.linear("demultiplexer.dense_before_out_proj", z))
            if self.demuxing == "mlp":
                z = self.norm("demultiplexer.layernorm_presoftmax", z)
            return self.linear("demultiplexer.out_proj", z)
        if self.encoder == "electra" and self.task == "seq":
            return self.linear("classifier.out_proj", gelu(self.linear("classifier.dense", z)))
        return self.linear("classifier", z)

    @property
    def retrieval_skips(self) -> int:
        """Special positions, for which retrieval does not ask."""
        if self.prefix:
            return self.prefix
        return int(self.task == "seq" and self.encoder in ("roberta", "electra"))

    @torch.no_grad()
    def __call__(
        self, input_ids, attention_mask, labels, retrieval_instance, padding_rows=None, token_type_ids=None
    ) -> dict[str, Tensor]:
        """What the fixtures hold: ``logits``, ``task_loss``, ``retrieval_loss`` and ``loss`` of a batch whose last
        group is filled with ``padding_rows`` of it."""
        rows, n = len(input_ids), self.num_instances
        filling = [] if padding_rows is None else padding_rows.tolist()
        order = [*range(rows), *filling]
        ids, mask = (t[order].unflatten(0, (-1, n)) for t in (input_ids, attention_mask))
        ids = self.with_special_tokens(ids)
        # The tokens of the prefix are real ones.
        mask = torch.cat([mask.new_ones(*mask.shape[:2], self.prefix), mask], -1)
        types = torch.zeros_like(ids)
        if token_type_ids is not None and self.task == "mlm":  # the classifiers hand None on
            types[..., self.prefix :] = token_type_ids[order].unflatten(0, (-1, n))
        x = self.encode(ids, mask, types)

        special = self.retrieval_skips
        decoded = self.retrieval_logits(x)
        drawn = retrieval_instance[:, None]
        targets = ids[..., special:].gather(1, drawn).squeeze(1)
        asked = decoded[:, :, special:].gather(1, drawn[..., None].expand(-1, -1, -1, decoded.shape[-1])).squeeze(1)
        if self.task != "mlm":  # the masked LM's fixture asks for pads, too
            targets = targets.masked_fill(targets == self.config["pad_token_id"], -100)
        retrieval_loss = cross_entropy(asked.flatten(0, 1), targets.flatten())

        if self.task == "mlm":
            chosen = labels != -100
            logits = decoded[:, :, self.prefix :].flatten(0, 1)[:rows][chosen]
            task_loss = cross_entropy(logits, labels[chosen])
        else:
            z = self.task_states(x)
            if self.task == "seq":
                first = self.num_instances if self.prefix else 0
                logits = self.classify(z[:, :, first]).flatten(0, 1)[:rows]
                task_loss = cross_entropy(logits, labels)
            else:
                logits = self.classify(z[:, :, self.prefix :]).flatten(0, 1)[:rows]
                if self.encoder == "roberta":
                    labels = labels.masked_fill(attention_mask == 0, -100)
                task_loss = cross_entropy(logits.flatten(0, 1), labels.flatten())
        task, retrieval = self.config["task_loss_coeff"], self.config["retrieval_loss_coeff"]
        loss = task * task_loss + retrieval * retrieval_loss
        return {"logits": logits, "task_loss": task_loss, "retrieval_loss": retrieval_loss, "loss": loss}
