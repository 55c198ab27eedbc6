"""Tokens of shards that are kept on disk, for further runs over the same rows with the same tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fastmux.files import replacing
from fastmux.passes.tokens import Tokens

#: Grows when what a file holds changes.
VERSION = 1


@dataclass
class Kept:
    """What is kept of a shard: see `fastmux.labelling.preparing.PreparedShard`."""

    tokens: Tokens
    problems: dict[int, str]
    unread: set[int]
    cut: int


@dataclass(frozen=True)
class TokenCache:
    """A folder with a file for each shard. Processes that write the same file write the same bytes.

    Args:
        folder: The folder. It is created when the first shard is kept.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastmux.labelling.token_cache import Kept, TokenCache
        >>> from fastmux.passes.tokens import Tokens
        >>> cache = TokenCache(Path(tempfile.mkdtemp()))
        >>> cache.keep("key", Kept(Tokens.of_rows([[1, 2], [3]]), {2: "is empty"}, set(), 0))
        >>> cache.kept("key").tokens.ids.tolist(), cache.kept("other")
        ([1, 2, 3], None)
    """

    folder: Path

    def kept(self, key: str) -> Kept | None:
        """What is kept by this key; None if there is nothing, or a file that is damaged."""
        try:
            with np.load(self._path(key), allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
            more = json.loads(bytes(arrays["more"]))
            words = _rows(arrays, "words")
            tokens = Tokens(arrays["ids"], arrays["lengths"], arrays.get("types"), words, _rows(arrays, "spans"))
            problems = {int(place): reason for place, reason in more["problems"].items()}
            return Kept(tokens, problems, set(more["unread"]), more["cut"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None

    def keep(self, key: str, shard: Kept) -> None:
        """Keep what was found of a shard.

        Raises:
            OSError: The folder cannot be written to.
        """
        tokens = shard.tokens
        arrays: dict[str, Any] = {"ids": tokens.ids, "lengths": tokens.lengths}
        if tokens.types is not None:
            arrays["types"] = tokens.types
        for name in ("words", "spans"):
            rows = getattr(tokens, name)
            if rows is not None:
                empty = np.zeros((0, 2) if name == "spans" else 0, np.int32)
                arrays[name] = np.concatenate([empty, *rows])
                arrays[f"{name}_lengths"] = np.array(list(map(len, rows)), np.int64)
        more = {"problems": shard.problems, "unread": sorted(shard.unread), "cut": shard.cut}
        arrays["more"] = np.frombuffer(json.dumps(more).encode(), np.uint8)
        with replacing(self._path(key)) as temporary:
            np.savez(temporary, **arrays)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"


def _rows(arrays: dict[str, np.ndarray], name: str) -> list[np.ndarray] | None:
    if name not in arrays:
        return None
    return np.split(arrays[name], np.cumsum(arrays[f"{name}_lengths"])[:-1]) if len(arrays[f"{name}_lengths"]) else []
