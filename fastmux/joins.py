"""The kinds of states that joined layers join into one."""

from __future__ import annotations

#: N neighbouring positions of a row, or N rows of a batch.
JOINS = ("positions", "rows")
