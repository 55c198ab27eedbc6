"""The folder that a program writes to: where its files lie, and which folder may be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastmux.files import changes, read_json, remove
from fastmux.training.arguments import Settings

#: The file with the settings with which a folder's content was made.
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
        """The folder of a variant's stage, "retrieval" or "task"."""
        return self.path / variant / stage

    def model(self, variant: str, stage: str = "task") -> Path:
        """The folder of the model that a stage ended with, and of its tokenizer."""
        return self.stage(variant, stage) / "model"

    def remove_leftovers(self) -> None:
        """Removes what interrupted writes have left. No other process may be writing to the folder."""
        for pattern in _LEFTOVERS:
            for path in list(self.path.rglob(pattern)):
                remove(path)


def check_folder(folder: Path, identity: dict) -> None:
    """Raise ValueError if a folder holds something else than work of the same settings, ``identity``."""
    if (folder / SETTINGS).is_file():
        before, now = _flat(read_json(folder / SETTINGS)), _flat(identity)
        if changed := changes(before, now, {**before, **now}):
            raise ValueError(f"--output_dir {folder} holds work of other settings: {changed}. Give another folder")
    elif not is_free(folder):
        raise ValueError(f"--output_dir {folder} holds something else (it has no {SETTINGS}); give another folder")


def is_free(path: Path) -> bool:
    """Whether a path is free for a new folder."""
    return not path.exists() or (path.is_dir() and all(any(map(p.match, _LEFTOVERS)) for p in path.iterdir()))


def numbered(path: Path, taken: Callable[[Path], bool]) -> list[Path]:
    """The path, and behind it path-2, path-3 and so on, up to the first that is not taken."""
    found = [path]
    while taken(found[-1]):
        found.append(path.with_name(f"{path.name}-{len(found) + 1}"))
    return found


def choose_folder(settings: Settings) -> RunFolder:
    """The run's folder: the given one, or the latest (to resume) or the first free one below ``runs/``.

    Raises:
        ValueError: There is nothing to resume, or the folder holds something else.
    """
    options = settings.options
    if settings.output_dir is not None:
        path = Path(settings.output_dir)
    else:
        *former, path = numbered(Path("runs", options.task), Path.exists)
        path = former[-1] if former and options.resume else path
    folder = RunFolder(path)
    if options.resume:
        if not folder.settings.is_file():
            raise ValueError(f"--resume: {path} holds no run (no {SETTINGS}); leave --resume out to start one")
        check_folder(path, settings.identity())
    elif not is_free(path):
        raise ValueError(f"--output_dir {path} exists and is not empty; give --resume to go on, or another folder")
    return folder


def _flat(settings: dict) -> dict:
    """The settings, with the values of inner dicts in place of these."""
    flat = {}
    for key, value in settings.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat
