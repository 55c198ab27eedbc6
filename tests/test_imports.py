"""Imports go one way: kernels <- functional <- modules <- passes <- models <- training <- bench; no circle, and no
import inside a function but of what may not be installed."""

from __future__ import annotations

import graphlib

import pytest
from sources import imports, python_files, within

FILES = dict(python_files())

#: From the lowest to the highest; a file may import from its own layer and from those before it. A module belongs to
#: the layer that names it, or else the nearest package around it.
LAYERS = {
    "kernels": ("fastmux.kernels",),
    # Plain helpers, and the specification, which owes nothing to what it judges.
    "base": (
        "fastmux.backends",
        "fastmux.distribution",
        "fastmux.files",
        "fastmux.joins",
        "fastmux.lines",
        "fastmux.reference",
        "fastmux.settings",
    ),
    "tables": ("fastmux.tables",),
    "functional": ("fastmux.functional",),
    "modules": ("fastmux.modules",),
    "passes": ("fastmux.passes",),
    "models": ("fastmux.configuration", "fastmux.conventions", "fastmux.joined_configuration", "fastmux.models"),
    "package": (
        "fastmux.distillation",
        "fastmux.labelling",
        "fastmux.searching",
        "fastmux.serving",
        "fastmux.testing",
        "fastmux.auto",
        "fastmux",
    ),
    "training": ("fastmux.training",),
    "programs": ("fastmux.cli", "fastmux.__main__", "bench"),
    "tests": ("tests",),
}
#: Beyond the order: (those, must not import these).
FORBIDDEN = [
    ("fastmux.kernels", ("fastmux.backends", "fastmux.files", "fastmux.lines", "fastmux.reference")),
    ("fastmux.reference", ("fastmux",)),
    ("fastmux.functional", ("fastmux.reference", "transformers", "huggingface_hub")),
    ("fastmux.modules", ("fastmux.kernels", "fastmux.reference", "transformers", "huggingface_hub")),
    ("fastmux.passes", ("fastmux.kernels", "fastmux.reference", "transformers", "huggingface_hub")),
    ("fastmux.models", ("fastmux.kernels", "fastmux.reference")),
    ("fastmux.training", ("fastmux.kernels", "fastmux.reference", "bench")),
    # A search trains and measures what a conversion does; a conversion is one candidate of it.
    ("fastmux.distillation", ("fastmux.searching", "fastmux.converting")),
    ("fastmux.labelling", ("fastmux.searching", "fastmux.converting")),
    ("fastmux.searching", ("fastmux.converting",)),
]
#: What a function may import when it is called, and why.
LATE = {
    "triton": "not on every platform",
    "fastmux.kernels": "needs triton",
    "accelerate": "offloaded weights alone need it",
    "onnxruntime": "an extra, `onnx`",
    "ctranslate2": "an extra, `ctranslate2`",
    "openvino": "a peer, which is measured where it is installed",
    "model2vec": "a peer, which is measured where it is installed",
    "bench.runtime_peers": "needs what the extra `export` brings",
    "fastmux.exporting.row_int8": "needs onnx, of the extra `export`",
    "datasets": "takes torch's time to import, and files need nothing of it",
    "torch.distributed": "processes that share work alone need it, and have it",
    "torch_geometric": "an extra, `graphs`",
    "torch_pruning": "an extra, `pruning`",
    "liger_kernel": "an extra, `peers`",
    "fast_hadamard_transform": "an extra, `peers`",
    "matplotlib": "its backend is chosen first",
    "bench.audit.launches": "needs triton",
    "bench.runtimes": "needs onnxruntime, an extra",
}
#: Whose imports come late by design.
ALWAYS_LATE = {
    "fastmux.auto": "follows transformers' Auto classes, whenever they are imported",
    "fastmux.cli.convert": "`--help` answers without torch",
    "fastmux.cli.env": "`--help` answers without torch, and the command where packages are missing",
    "fastmux.cli.rows": "`--help` answers without torch",
    "fastmux.cli.search": "`--help` answers without torch",
    "fastmux.labelling.loading": "an exported model is loaded without torch",
    "fastmux.embedding.loading": "an exported model is loaded without torch",
    "fastmux.cli.serve": "`--help` answers without torch, and without the extra `serve`",
    "fastmux.cli.train": "the other commands answer without torch",
}


def layer(name: str) -> int:
    around = {package: position for position, packages in enumerate(LAYERS.values()) for package in packages}
    while name and name not in around:
        name = name.rpartition(".")[0]
    return around.get(name, -1)  # not ours


def of_the_repository(names: set[str]) -> set[str]:
    return {name for name in names if within(name, "fastmux", "bench", "tests")}


@pytest.mark.parametrize("module", FILES)
def test_nothing_imports_upward(module):
    own = layer(module)
    names = list(LAYERS)
    # `import fastmux` alone is asked for the version, and for the public names by those who use them.
    upward = {
        f"{module} ({names[own]}) imports {name} ({names[layer(name)]})"
        for name in of_the_repository(imports(module, FILES[module])) - {"fastmux", "fastmux.__version__"}
        if layer(name) > own
    }
    assert not upward


@pytest.mark.parametrize(("those", "these"), FORBIDDEN, ids=[those for those, _ in FORBIDDEN])
def test_what_is_forbidden_beside(those, these):
    modules = [module for module in FILES if within(module, those)]
    assert modules, f"there is no {those}"
    found = {
        f"{module} imports {name}"
        for module in modules
        for name in imports(module, FILES[module])
        if within(name, *these) and not (within(name, those) and within(those, *these))
    }
    assert not found


def test_there_is_no_circle():
    graph = {}
    for module, file in FILES.items():
        names = imports(module, file) if module not in ALWAYS_LATE else set()
        # "a.b.c" is the module a.b.c, or something in a.b.
        reached = {name if name in FILES else name.rpartition(".")[0] for name in names}
        graph[module] = {name for name in reached if name in FILES} - {module, "fastmux"}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", [module for module in FILES if not within(module, "tests")])
def test_functions_import_only_what_may_be_missing(module):
    if module in ALWAYS_LATE:
        return
    late = imports(module, FILES[module], inside_functions=True)
    assert {name for name in late if not within(name, *LATE)} == set()


def test_nothing_imports_top_level_kernels():
    assert {m for m, file in FILES.items() if any(within(name, "kernels") for name in imports(m, file))} == set()
