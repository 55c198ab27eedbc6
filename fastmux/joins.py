"""What can be joined: kinds of states, in encoders of some families."""

from __future__ import annotations

#: N neighbouring positions of a row; N rows of a batch; positions that stay joined; or those of feed-forward layers.
JOINS = ("positions", "rows", "pooled", "feed_forward")

#: Encoders whose layers are BERT's: attention and feed-forward, each followed by a LayerNorm, without position terms.
BERT_LIKE = ("bert", "camembert", "electra", "roberta", "xlm-roberta")
