"""The folder of a run: where everything in it lies, and which folder a run may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastmux.files import read_json, remove
from training.arguments import Settings

#: What `fastmux.files.replacing` leaves if its process is killed.
_LEFTOVERS = (".*.writing-*", ".*.former-*")


@dataclass(frozen=True)
class RunFolder:
    """``settings.json``, then for each variant ``retrieval/`` and ``task/`` (checkpoints, TensorBoard events, the
    model and the result of each finished stage), ``counts.npz`` and ``scores.json``; at the end ``metrics.json`` and
    ``learning_curves.png``."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "settings.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def curves(self) -> Path:
        return self.path / "learning_curves.png"

    def scores(self, variant: str) -> Path:
        return self.path / variant / "scores.json"

    def counts(self, variant: str) -> Path:
        """What each evaluation row adds to a variant's counts, by split, for comparisons row by row."""
        return self.path / variant / "counts.npz"

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


def choose_folder(settings: Settings) -> RunFolder:
    """The run's folder: as given, or the latest (to resume) or the first free one below ``runs/``.

    Raises:
        ValueError: nothing to resume, another run's folder, or a folder that is in use.
    """
    options = settings.options
    if settings.output_dir is not None:
        path = Path(settings.output_dir)
    else:
        base = Path("runs") / options.task
        path, number = base, 1
        latest = None
        while path.exists():
            latest, number = path, number + 1
            path = base.with_name(f"{base.name}-{number}")
        if options.resume:
            path = latest or base
    folder = RunFolder(path)
    if options.resume:
        if not folder.settings.is_file():
            raise ValueError(f"--resume: {path} holds no run (no settings.json); leave --resume out to start one")
        before, now = _flat(read_json(folder.settings)), _flat(settings.identity())
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if changed:
            pairs = "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in changed)
            raise ValueError(f"--resume: {path} holds a run with other settings: {pairs}")
    elif path.exists() and (not path.is_dir() or any(not _is_leftover(entry) for entry in path.iterdir())):
        raise ValueError(f"--output_dir {path} exists and is not empty; give --resume to go on, or another folder")
    return folder


def _is_leftover(path: Path) -> bool:
    return any(path.match(pattern) for pattern in _LEFTOVERS)


def _flat(settings: dict) -> dict:
    """With the values of inner dicts in place of these."""
    flat = {}
    for key, value in settings.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat
