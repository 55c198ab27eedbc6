"""What fastmux keeps of a model: its exports, so that only the first start makes them.

It lies in the folder ``.fastmux`` of the model's own folder. Of a model of the hub, and where that folder cannot be
written, it lies in Hugging Face's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import huggingface_hub
from filelock import FileLock
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from fastmux.files import finish_replacing, remove
from fastmux.passes.runtimes.record import VERSION, digest

FOLDER = ".fastmux"
_LOCK = ".lock"
_WEIGHTS = (".safetensors", ".bin")
#: Of files on which a model's answers depend: weights, config, tokenizer, code. A folder has other JSON files, too.
_ENDINGS = (*_WEIGHTS, ".txt", ".model", ".py")
_JSON = ("added_tokens", "bpe", "config", "modules", "sentence_", "special_tokens", "tokenizer", "vocab")


@dataclass(frozen=True)
class Kept:
    """The folders of what is kept of one model.

    Args:
        key: The digest of its weights, config and tokenizer.
        beside: ``.fastmux`` in its own folder, if that is not one of a cache.
    """

    key: str
    beside: Path | None = None

    @classmethod
    def of_files(cls, model: str | PathLike) -> Kept | None:
        """Of a model in a folder, or of one of the hub that was loaded before. None if there are no weights yet."""
        folder = Path(model) if Path(model).is_dir() else _snapshot(str(model))
        if folder is None:
            return None
        finish_replacing(folder)
        # In folders of its own, sentence-transformers keeps what comes behind the encoder.
        below = [path for path in folder.iterdir() if path.is_dir() and path.name[:1].isdigit()]
        entries = sorted(itertools.chain(folder.iterdir(), *(path.iterdir() for path in below)))
        files = [path for path in entries if _counts(path) and path.is_file()]
        if not any(path.suffix in _WEIGHTS for path in files):
            return None
        key = hashlib.sha256(f"{VERSION}".encode())
        for path in files:
            key.update(f" {path.relative_to(folder)} {digest(path)}".encode())
        return cls(key.hexdigest()[:32], folder / FOLDER if Path(model).is_dir() else None)

    @classmethod
    def of_fingerprint(cls, fingerprint: dict[str, str]) -> Kept:
        """Of a model in memory."""
        return cls(hashlib.sha256(f"{VERSION} {fingerprint}".encode()).hexdigest()[:32])

    def find(self, name: str) -> Path | None:
        """The file or folder of that name, if there is one."""
        if self.beside is not None and (self.beside / self._named(name)).exists():
            return self.beside / self._named(name)
        with contextlib.suppress(OSError, ValueError):
            found = self._cache() / self._named(name)
            return found if found.exists() else None
        return None

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """The path of that name, to write to, in the first folder that can be written. Other processes wait meanwhile.

        Raises:
            ValueError: There is no such folder.
        """
        folder = self._writable()
        with FileLock(folder / _LOCK):
            for abandoned in folder.glob(".*.writing-*"):  # of a process that was killed
                remove(abandoned)
            if folder == self.beside:  # of weights that are there no longer
                for former in folder.glob(self._named(name).replace(self.key[:16], "?" * 16)):
                    if former.name != self._named(name):
                        remove(former)
            yield folder / self._named(name)

    def _named(self, name: str) -> str:
        stem, dot, ending = name.partition(".")
        return f"{stem}-{self.key[:16]}{dot}{ending}"

    def _cache(self) -> Path:
        return huggingface_hub.cached_assets_path("fastmux", "models", self.key)

    def _writable(self) -> Path:
        if self.beside is not None and os.access(self.beside.parent, os.W_OK):
            with contextlib.suppress(OSError):
                self.beside.mkdir(exist_ok=True)
                if os.access(self.beside, os.W_OK):
                    return self.beside
        try:
            return self._cache()
        except (OSError, ValueError) as error:
            raise ValueError(f"no folder for the exported model can be written, nor the cache: {error}") from error


def _counts(path: Path) -> bool:
    return path.suffix in _ENDINGS or (path.suffix == ".json" and path.name.startswith(_JSON))


def _snapshot(name: str) -> Path | None:
    """The folder in Hugging Face's cache of what the hub has under that name now, or had when it was asked last."""
    with contextlib.suppress(OSError, ValueError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):
        return Path(huggingface_hub.hf_hub_download(name, "config.json")).parent
    return None
