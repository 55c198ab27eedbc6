"""Saving a model's card with the model, into its folder and to the hub."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from huggingface_hub import ModelCard
from transformers import PreTrainedModel

from fastmux.files import destination, replacing_files
from fastmux.models.checkpoints import former_weights
from fastmux.models.model_card import for_repository, is_template, read_card

_CARD = "README.md"


class WithCard(PreTrainedModel):
    """A Hugging Face model with its own card in place of Hugging Face's template.

    Saving the model writes the card, unless the folder has one. Pushing the model uploads the card of the pushed
    folder, in `push_to_hub` the card of the folder that the model was loaded from, or else the model's own. A card that
    is on the hub already stays.
    """

    def _own_card(self, repository: str) -> ModelCard:
        """Writes the model's card. ``repository`` is the hub name or the folder from which the model will be loaded."""
        raise NotImplementedError

    def save_pretrained(self, save_directory: str | os.PathLike, is_main_process: bool = True, **kwargs) -> None:
        """As in Hugging Face, with a model card. The files get their names when all of them are written. Former
        weights, in one file or in shards, are then removed; other files stay. A card that is there stays.

        Raises:
            ValueError: ``save_directory`` is a file.
        """
        target = Path(save_directory)
        if target.is_file():
            raise ValueError(f"save_directory is {str(target)!r}, which is a file; expected a folder")
        if not self.should_save_on_this_rank(is_main_process) or kwargs.get("distributed_checkpoint"):
            # Nothing to write, or files that all processes write together.
            return super().save_pretrained(target, is_main_process=is_main_process, **kwargs)
        if kwargs.get("state_dict") is not None:
            kwargs["state_dict"] = dict(kwargs["state_dict"])  # Hugging Face removes what it has written
        pushed = contextlib.nullcontext()
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", target.resolve().name or "model")
            pushed = self._pushing(target if (target / _CARD).exists() else self._source())
        with replacing_files(target, former_weights) as staging, pushed:
            super().save_pretrained(staging, **kwargs)
            self._put_card(staging, target)

    def push_to_hub(self, repo_id: str, *args, **kwargs) -> str:
        """As in Hugging Face, with the model's card."""
        with self._pushing(self._source()):
            return super().push_to_hub(repo_id, *args, **kwargs)

    def _put_card(self, folder: Path, target: Path) -> None:
        """Writes the card into ``folder``, whose files will be moved to ``target``, unless ``target`` has one."""
        card = folder / _CARD
        if (target / _CARD).exists():  # a user may have written it
            card.unlink(missing_ok=True)
        elif not card.exists():
            self._own_card(name_of(target)).save(card)

    @contextlib.contextmanager
    def _pushing(self, source: Path | None) -> Iterator[None]:
        """Within this block, uploads have the card of the folder ``source``, or the model's own, and no template."""
        upload: Callable = self._upload_modified_files  # type: ignore[has-type]

        def with_card(working_dir: str | os.PathLike, repo_id: str, *args, **kwargs):
            path = Path(working_dir) / _CARD
            theirs = read_card(path.parent)
            if theirs is None or is_template(theirs):
                self._card_from(source, repo_id).save(path)
            return upload(working_dir, repo_id, *args, **kwargs)

        # Hugging Face writes its template after the model's files, and uploads all without a hook in between.
        self._upload_modified_files = with_card
        try:
            yield
        finally:
            del self._upload_modified_files

    def _source(self) -> Path | None:
        """The folder that the model was loaded from. None if it was loaded from the hub, or built."""
        name = self.name_or_path
        return Path(name) if name and Path(name).is_dir() else None

    def _card_from(self, source: Path | None, repository: str) -> ModelCard:
        card = None if source is None else read_card(source)
        loads = [] if card is None else re.findall(r"fastmux\.(\w+)\.from_pretrained", card.text)
        if card is None or (
            loads and type(self).__name__ not in loads
        ):  # a card of another task, whose encoder was loaded
            return self._own_card(repository)
        return for_repository(card, name_of(source), repository)


def name_of(folder: Path) -> str:
    """The name of a folder in a card. A folder that is still being written has its final name."""
    folder = folder.resolve()
    final = destination(folder)
    if final != folder and final.name == "model":  # a stage of `train.py`, whose folder's name says more
        return f"{final.parent.name}/{final.name}"
    return final.name or "model"
