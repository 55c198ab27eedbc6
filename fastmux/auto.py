"""The Auto classes of transformers know fastmux's models from ``import fastmux`` on, and that import loads neither.

Importing the Auto classes takes seconds, so they are told when somebody else has imported them: behind the one that
makes configs `fastmux`'s configurations are loaded, behind those that make models `fastmux.models`, which register.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys

_BEHIND = {
    "transformers.models.auto.configuration_auto": ("fastmux.configuration", "fastmux.joined_configuration"),
    "transformers.models.auto.modeling_auto": ("fastmux.models",),
}


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds each of these modules as everybody else would, and loads ours behind it."""

    def __init__(self) -> None:
        self.waiting = dict(_BEHIND)

    def find_spec(self, name, path=None, target=None):
        if name not in self.waiting:
            return None
        ours = self.waiting.pop(name)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(theirs):
                execute(theirs)
                for module in ours:
                    importlib.import_module(module)

            spec.loader.exec_module = exec_module
        return spec


def register() -> None:
    """Make our modules follow the Auto classes, now or when they are imported."""
    sys.meta_path.insert(0, _AfterImport())
    for theirs, ours in _BEHIND.items():
        if theirs in sys.modules:
            for module in ours:
                importlib.import_module(module)
