"""What the README, the documentation, the docstrings and examples/ show runs as it stands."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import runpy
import textwrap
from pathlib import Path

import pytest

import fastmux
from fastmux.modules import DEMULTIPLEXERS, IMAGE_MULTIPLEXERS, MULTIPLEXERS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(fastmux.__path__, "fastmux.")
    if not module.name.startswith("fastmux.kernels")
]


@pytest.fixture
def registries(monkeypatch):
    """Examples may register classes; nobody else should see them."""
    for registry in (MULTIPLEXERS, DEMULTIPLEXERS, IMAGE_MULTIPLEXERS):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))


def examples(page: Path) -> list[str]:
    found = re.findall(r"^ *```python\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.stem)
def test_pages(page, registries, tmp_path, monkeypatch):
    """The blocks of a page, one after the other, as somebody who follows it would run them."""
    monkeypatch.chdir(tmp_path)  # for those that write
    scope: dict = {"__name__": "__main__"}
    for block in examples(page):
        exec(compile(block, str(page), "exec"), scope)


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda script: script.stem)
def test_scripts(script, registries, capsys, tmp_path, monkeypatch):
    if script.stem.startswith("ray_"):
        pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(script)])  # not what pytest was started with
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_there_are_docstring_examples():
    modules = [importlib.import_module(name) for name in MODULES]
    assert sum(len(test.examples) > 0 for m in modules for test in doctest.DocTestFinder().find(m)) > 15


def test_the_documentation_builds(tmp_path):
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    api = (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("TMuxForSequenceClassification", "index_demux", "num_instances", "walsh_hadamard_mux"):
        assert name in api, name
