"""Small encoders for the tests, one of every family that fastmux multiplexes."""

from __future__ import annotations

import torch
from transformers import (
    AlbertConfig,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

VOCAB, PAD = 61, 1
_SMALL = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_SMALL |= {"intermediate_size": 32, "max_position_embeddings": 40, "pad_token_id": PAD}
# Large weights: with the usual 0.02 a random encoder hardly tells its inputs apart.
_SMALL |= {"initializer_range": 0.3}

FAMILIES: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**_SMALL),
    "roberta": RobertaConfig(**_SMALL, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**_SMALL, type_vocab_size=1),
    "camembert": CamembertConfig(**_SMALL, type_vocab_size=1),
    "electra": ElectraConfig(**_SMALL, embedding_size=16),
    "mpnet": MPNetConfig(**_SMALL),
    "albert": AlbertConfig(**_SMALL, embedding_size=16),
    "deberta-v2": DebertaV2Config(
        **_SMALL, relative_attention=True, position_biased_input=False, type_vocab_size=0, pos_att_type=["p2c", "c2p"]
    ),
    "deberta-v2-positions": DebertaV2Config(**_SMALL, type_vocab_size=2),
    "modernbert": ModernBertConfig(
        **_SMALL, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3, local_attention=8
    ),
    "distilbert": DistilBertConfig(
        vocab_size=VOCAB,
        dim=16,
        n_layers=2,
        n_heads=2,
        hidden_dim=32,
        max_position_embeddings=40,
        pad_token_id=PAD,
        initializer_range=0.3,
    ),
}
BERT = FAMILIES["bert"]


def batch(rows: int, length: int = 7, padded: bool = False) -> dict[str, torch.Tensor]:
    """Random ids and mask; with ``padded``, rows of different lengths."""
    ids = torch.randint(5, VOCAB, (rows, length))
    mask = torch.ones_like(ids)
    if padded:
        for row in range(rows):
            real = 2 + (row * 5) % (length - 1)
            ids[row, real:], mask[row, real:] = PAD, 0
    return {"input_ids": ids, "attention_mask": mask}
