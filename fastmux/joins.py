"""The kinds of states that joined layers join into one."""

from __future__ import annotations

#: N neighbouring positions of a row; N rows of a batch; positions that stay joined; or those of feed-forward layers.
JOINS = ("positions", "rows", "pooled", "feed_forward")
