"""The folder that a program writes to: where everything in it lies, and which folder may be taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastmux.files import changes, read_json, remove
from training.arguments import Settings

#: What a folder's content was made with.
SETTINGS = "settings.json"
#: What `fastmux.files.replacing` leaves if its process is killed.
_LEFTOVERS = (".*.writing-*", ".*.former-*")


@dataclass(frozen=True)
class RunFolder:
    """``settings.json``, then for each variant ``retrieval/`` and ``task/`` (checkpoints, TensorBoard events, the model
    and the result of each finished stage); at the end ``metrics.json`` and ``learning_curves.png``."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / SETTINGS

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def curves(self) -> Path:
        return self.path / "learning_curves.png"

    def stage(self, variant: str, stage: str) -> Path:
        """Of a variant's stage: "retrieval" or "task"."""
        return self.path / variant / stage

    def model(self, variant: str, stage: str = "task") -> Path:
        """The model that a stage ended with, and its tokenizer."""
        return self.stage(variant, stage) / "model"

    def remove_leftovers(self) -> None:
        """Removes what writes that a kill interrupted have left; nothing else may be writing to the folder."""
        for pattern in _LEFTOVERS:
            for path in list(self.path.rglob(pattern)):
                remove(path)


def check_folder(folder: Path, identity: dict, before: dict | None = None) -> None:
    """Raise ValueError for a folder that holds anything but work of the same settings.

    Args:
        identity: What must be the same for the work to go on, or to be kept.
        before: What it was; by default what ``settings.json`` says.
    """
    if (folder / SETTINGS).is_file():
        before = read_json(folder / SETTINGS) if before is None else before
        if changed := changes(before, identity, {**before, **identity}):
            raise ValueError(f"--output_dir {folder} holds work of other settings: {changed}. Give another folder")
    elif not is_free(folder):
        raise ValueError(f"--output_dir {folder} holds something else (it has no {SETTINGS}); give another folder")


def is_free(path: Path) -> bool:
    """Whether there is nothing in the way of a new folder."""
    return not path.exists() or (path.is_dir() and all(any(map(p.match, _LEFTOVERS)) for p in path.iterdir()))


def choose_folder(settings: Settings) -> RunFolder:
    """The run's folder: as given, or the latest (to resume) or the first free one below ``runs/``.

    Raises:
        ValueError: There is nothing to resume, or the folder holds another run or is in use.
    """
    options = settings.options
    if settings.output_dir is not None:
        path = Path(settings.output_dir)
    else:
        base = Path("runs") / options.task
        path, number, latest = base, 1, None
        while path.exists():
            latest, number = path, number + 1
            path = base.with_name(f"{base.name}-{number}")
        if options.resume:
            path = latest or base
    folder = RunFolder(path)
    if options.resume:
        if not folder.settings.is_file():
            raise ValueError(f"--resume: {path} holds no run (no {SETTINGS}); leave --resume out to start one")
        check_folder(path, _flat(settings.identity()), _flat(read_json(folder.settings)))
    elif not is_free(path):
        raise ValueError(f"--output_dir {path} exists and is not empty; give --resume to go on, or another folder")
    return folder


def _flat(settings: dict) -> dict:
    """With the values of inner dicts in place of these."""
    flat = {}
    for key, value in settings.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat
