"""The Auto classes of transformers know T-MUX models from ``import fastmux`` on, and that import loads neither.

Importing the Auto classes takes seconds, so they are told when somebody else has imported them: `fastmux.configuration`
registers the config when it is loaded, and a config loads the models, which register themselves.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys

_AUTO = "transformers.models.auto.configuration_auto"


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds one module as everybody else would, and loads `fastmux.configuration` behind it."""

    def find_spec(self, name, path=None, target=None):
        if name != _AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                importlib.import_module("fastmux.configuration")

            spec.loader.exec_module = exec_module
        return spec


def register() -> None:
    """Make `fastmux.configuration` follow the Auto classes, now or when they are imported."""
    if _AUTO in sys.modules:
        importlib.import_module("fastmux.configuration")
    else:
        sys.meta_path.insert(0, _AfterImport())
