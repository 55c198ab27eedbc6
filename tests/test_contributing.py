"""Whoever follows CONTRIBUTING.md to the letter, in a copy of the repository, adds a multiplexer that passes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str, language: str) -> list[str]:
    return [textwrap.dedent(block) for block in re.findall(rf"```{language}\n(.*?)^ *```", page, re.DOTALL | re.M)]


def insert(file: Path, text: str, before: str) -> None:
    source = file.read_text(encoding="utf-8")
    assert source.count(before) == 1, f"{file} has {before!r} {source.count(before)} times"
    file.write_text(source.replace(before, text + before), encoding="utf-8")


def copy(folder: Path) -> Path:
    """The files of the repository that the recipe and its tests need."""
    root = folder / "copy"
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info", "results", ".*cache")
    for name in ("fastmux", "kernels", "tests", "training", "bench"):
        shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def test_a_multiplexer_by_the_recipe(tmp_path):
    recipe = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Add a multiplexer")[1].split("\n## ")[0]
    (module, _), (imported, formula, held) = blocks(recipe, "python"), blocks(recipe, "pycon")
    root = copy(tmp_path)
    modules, reference = root / "fastmux" / "modules", root / "fastmux" / "reference"
    (modules / "shift_multiplexer.py").write_text('"""Rotated features."""\n\n' + module, encoding="utf-8")
    insert(modules / "__init__.py", imported, "\n__all__ = [")
    insert(modules / "__init__.py", '    "ShiftMultiplexer",\n', '    "UnbindDemultiplexer",\n    "Walsh')
    with open(reference / "mux.py", "a", encoding="utf-8") as file:
        file.write("\n\n" + formula)
    insert(reference / "__init__.py", "from fastmux.reference.mux import shift_mux\n", "\n__all__ = [")
    insert(reference / "__init__.py", '    "shift_mux",\n', '    "unbind_demux",\n')
    insert(
        root / "tests" / "test_modeling.py",
        textwrap.indent(held, "    "),
        '    pytest.fail(f"there is no formula here that multiplexer',
    )
    run = {"cwd": root, "env": os.environ | {"PYTHONPATH": str(root)}, "text": True, "capture_output": True}
    tests = ["tests/test_sources.py", "tests/test_imports.py", "tests/test_checkpoints.py", "tests/test_modeling.py"]
    chosen = ["-v", "-p", "no:cacheprovider", "-k", "shift and not triton or test_sources or test_imports"]
    done = subprocess.run([sys.executable, "-m", "pytest", *tests, *chosen], **run)
    assert done.returncode == 0, done.stdout[-3000:]
    for part in ("test_computes_what_the_papers_write[torch-shift", "test_sources.py", "test_imports.py"):
        assert part in done.stdout
