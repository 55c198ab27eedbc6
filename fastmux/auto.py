"""Makes transformers' Auto classes know fastmux's models after ``import fastmux``, which imports neither library.

`fastmux.models` registers the models when it is imported, as other libraries do. Its import takes seconds, and so does
the import of the Auto classes. A finder on ``sys.meta_path`` therefore waits until the Auto classes are imported,
imports the modules here behind them, and leaves.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys

#: The modules of transformers that hold the Auto classes -> the modules here that register with them.
_REGISTERING = {
    "transformers.models.auto.configuration_auto": ("fastmux.configuration", "fastmux.joined_configuration"),
    "transformers.models.auto.modeling_auto": ("fastmux.models",),
}


class _ImportsBehind(importlib.abc.MetaPathFinder):
    """Imports the modules here behind those that are awaited, and leaves ``sys.meta_path`` when none is left."""

    def __init__(self, awaited: dict[str, tuple[str, ...]]):
        self.awaited = awaited

    def find_spec(self, name, path=None, target=None):
        if name not in self.awaited:
            return None
        ours = self.awaited.pop(name)
        if not self.awaited:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(theirs):
                execute(theirs)
                _import(ours)

            spec.loader.exec_module = exec_module
        return spec


def _import(modules: tuple[str, ...]) -> None:
    for module in modules:
        importlib.import_module(module)


def register() -> None:
    """Registers the models with the Auto classes: now if these are imported, else when they are."""
    awaited = {theirs: ours for theirs, ours in _REGISTERING.items() if theirs not in sys.modules}
    if awaited:
        sys.meta_path.insert(0, _ImportsBehind(awaited))
    for theirs in _REGISTERING.keys() - awaited:
        _import(_REGISTERING[theirs])
