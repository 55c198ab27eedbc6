"""What is shipped, and under which names.

The delicate name is `kernels`: the repository has a folder of that name, Hugging Face has a package of that
name, and transformers imports it whenever it accepts the installed version. A stand-in with such a version
and the package's build hook takes its place here, so that the tests need no network.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from sources import FOLDERS, LINKED, ROOT, imports, python_files, within
from thoroughness import on_request
from transformers import BertConfig
from transformers.utils import import_utils

import fastmux
from fastmux import distribution

# transformers calls the two functions while it defines a model; it imports other names and leaves them alone.
HF_KERNELS = """
def use_kernel_forward_from_hub(layer_name):
    return lambda cls: cls

def use_kernelized_func(*functions):
    return lambda cls: cls

def __getattr__(name):
    if name.startswith("_"):
        raise AttributeError(name)
    return type(name, (), {"__init__": lambda self, *args, **kwargs: None})
"""

TUNED = '{"launchers": {}}'

# Hugging Face's package hooks into every setuptools build of the environment in just this way.
HF_BUILD_HOOK = """
import os, pathlib

def write_egg_lockfile(cmd, basename, filename):
    pathlib.Path(os.environ["BUILD_HOOK_RAN"]).touch()
"""


def run(*command: str, cwd: Path, path: tuple[Path, ...] = (), **environment: str) -> str:
    """Standard output of ``command``, run with ``path`` as its PYTHONPATH; it must succeed."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONHOME")}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, path)), "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, f"{' '.join(command)[:200]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def python(code: str, cwd: Path, path: tuple[Path, ...] = ()) -> dict:
    """What ``code`` leaves in ``result``. As at a prompt, the working directory comes first in sys.path."""
    code += "\nimport json; print('RESULT', json.dumps(result))"
    out = run(sys.executable, "-c", code, cwd=cwd, path=path)
    return json.loads(out.rpartition("RESULT ")[2])


# --- fixtures -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hf_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stand-in for Hugging Face's `kernels`, the oldest version that transformers accepts."""
    site = tmp_path_factory.mktemp("hf")
    version = import_utils.KERNELS_MIN_VERSION
    package, info = site / "kernels", site / f"kernels-{version}.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text(HF_KERNELS)
    (package / "lockfile.py").write_text(HF_BUILD_HOOK)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {version}\n")
    hook = "[egg_info.writers]\nkernels.lock = kernels.lockfile:write_egg_lockfile\n"
    (info / "entry_points.txt").write_text(hook)
    return site


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, hf_kernels: Path) -> Path:
    """The wheel of this checkout, built beside Hugging Face's `kernels` and without torch.

    Built from a copy: setuptools would leave build/ in the checkout, and would ship again what is left there.
    """
    work = tmp_path_factory.mktemp("wheel")
    tree = work / "tree"
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "results")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=skip)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / file, tree)
    # The checkout has a table only for architectures that somebody tuned for.
    (tree / "kernels" / "tuned").mkdir(exist_ok=True)
    (tree / "kernels" / "tuned" / "sm_00.json").write_text(TUNED)
    (work / "no_torch").mkdir()
    (work / "no_torch" / "torch.py").write_text("raise ImportError('the build must not import torch')")
    # The tree comes first, as for `python setup.py`: in this order it could hide an installed package.
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index")
    run(
        *pip,
        f"--wheel-dir={work}",
        ".",
        cwd=tree,
        path=(tree, work / "no_torch", hf_kernels),
        BUILD_HOOK_RAN=str(work / "hook"),
    )
    assert (work / "hook").exists(), "the build hook of the stand-in did not run: the test proves nothing"
    (built,) = work.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> importlib.metadata.PackageMetadata:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "installed")
    (info,) = (wheel.parent / "installed").glob("*.dist-info")
    return importlib.metadata.Distribution.at(info).metadata


# --- the wheel ----------------------------------------------------------------------------------------------


def test_wheel_ships_fastmux_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if not name.endswith("/")}
    top_level = {name.split("/")[0] for name in shipped}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"fastmux"}
    library = {f"{module.replace('.', '/')}" for module, _ in python_files() if within(module, "fastmux")}
    assert "fastmux/py.typed" in shipped
    shipped_modules = {re.sub(r"(/__init__)?\.py$", "", name) for name in shipped if name.endswith(".py")}
    assert shipped_modules == library


@pytest.mark.parametrize(("folder", "endings"), [("kernels", {".py"}), ("training", {".py", ".yaml", ".json"})])
def test_wheel_holds_what_is_linked_as_files(folder: str, endings: set[str], wheel: Path) -> None:
    files = [file for file in (ROOT / folder).rglob("*") if file.suffix in endings]
    assert files
    with zipfile.ZipFile(wheel) as archive:
        for file in files:
            assert archive.read(f"fastmux/{file.relative_to(ROOT)}") == file.read_bytes()


@on_request
def test_a_model_is_trained_where_there_is_only_the_wheel(wheel: Path, metadata: object, tmp_path: Path) -> None:
    few = ["train", "--max_steps", "1", "--groupings", "1", "--variants", "plain", "--output_dir", "run"]
    code = f"from fastmux.cli.main import main, train\nmain({few})\nresult = train.__file__"
    file = python(code, cwd=tmp_path, path=(wheel.parent / "installed",))
    assert Path(file).is_relative_to(wheel.parent / "installed")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["variants"]["plain"]


def test_tuned_tables_are_in_wheel_and_source_archive(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("fastmux/kernels/tuned/sm_00.json").decode() == TUNED
    # Wheels are built from it: what it leaves out is in none of them.
    code = f"from setuptools import build_meta\nresult = build_meta.build_sdist({str(wheel.parent)!r})"
    name = python(code, cwd=wheel.parent / "tree")
    with tarfile.open(wheel.parent / name) as archive:
        shipped = {member.partition("/")[2] for member in archive.getnames()}
    assert {"fastmux/kernels/tuned/sm_00.json", "fastmux/kernels/common/launch_table.py"} <= shipped


def test_wheel_metadata(metadata: importlib.metadata.PackageMetadata) -> None:
    source = (ROOT / "fastmux" / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{metadata["Version"]}"' in source.splitlines()
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["Version"])
    assert metadata["Name"] == distribution.NAME
    urls = dict(line.split(", http") for line in metadata.get_all("Project-URL"))
    assert urls["Package"] == f"s://pypi.org/project/{distribution.NAME}/"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"


def test_wheel_imports_outside_the_repository(wheel: Path, metadata: object, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    site = wheel.parent / "installed"
    names = sorted(module for module, _ in python_files() if within(module, "fastmux.kernels"))
    code = f"import importlib\nresult = [importlib.import_module(name).__file__ for name in {names}]"
    for file in python(code, cwd=tmp_path, path=(site,)):
        assert Path(file).is_relative_to(site)


def test_the_links_are_relative_and_kernels_is_no_package() -> None:
    for name in LINKED:
        link = ROOT / "fastmux" / name
        assert link.is_symlink()
        assert os.readlink(link) == f"../{name}"
    # With an __init__.py, the folder in the repository root would hide Hugging Face's package.
    assert not list((ROOT / "kernels").rglob("__init__.py"))


# --- beside Hugging Face's `kernels`, in the repository root ------------------------------------------------

BESIDE_HF = """
import os
import fastmux.kernels.{kernel} as ours
from transformers import BertConfig, BertModel
from transformers.utils.import_utils import is_kernels_available
size = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=11)
parameters = BertModel(BertConfig(**size)).num_parameters()
result = dict(ours=ours.__file__, available=is_kernels_available(), parameters=parameters)
if is_kernels_available():
    import kernels
    result["theirs"] = kernels.__file__
"""


IMPORTED_FIRST = """
from transformers import AutoConfig
import fastmux
assert type(AutoConfig.for_model("tmux")) is fastmux.TMuxConfig
"""


@pytest.mark.parametrize(
    "installed", [True, pytest.param(False, marks=on_request)], ids=["with_hf_kernels", "without_hf_kernels"]
)
def test_transformers_works_in_the_repository_root(hf_kernels: Path, installed: bool) -> None:
    pytest.importorskip("triton")
    kernel = min((ROOT / "kernels").glob("*.py")).stem
    # Whichever is imported first, in one start of Python less.
    code = ("" if installed else IMPORTED_FIRST) + BESIDE_HF.format(kernel=kernel)
    result = python(code, cwd=ROOT, path=(hf_kernels,) if installed else ())
    assert Path(result["ours"]).resolve() == ROOT / "kernels" / f"{kernel}.py"
    assert result["parameters"] > 0
    if installed:
        assert result["available"], "transformers did not take the stand-in for Hugging Face's package"
        assert Path(result["theirs"]) == hf_kernels / "kernels" / "__init__.py"


# --- imports ------------------------------------------------------------------------------------------------


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # importing it fails from here on, as where it is not installed
import torch
import fastmux
y = fastmux.functional.hadamard_mux(torch.ones(1, 2, 3, 4), torch.ones(2, 4))
kernels = sorted(name for name in sys.modules if name.startswith("fastmux.kernels"))
result = dict(shape=list(y.shape), kernels=kernels)
"""


def test_fastmux_works_without_triton(tmp_path: Path) -> None:
    # Whether triton is in sys.modules would say nothing: transformers imports it by way of torch.
    result = python(WITHOUT_TRITON, cwd=tmp_path, path=(ROOT,))
    shared = ["fastmux.kernels", "fastmux.kernels.common"]
    shared += ["fastmux.kernels.common.tensors"]
    assert result == {"shape": [1, 3, 4], "kernels": shared}


#: What is there for an extra, and the extras that bring what it imports.
OPTIONAL = {
    "fastmux.exporting": {"export"},
    "fastmux.exporting.ctranslate2_file": {"ctranslate2"},
    "fastmux.passes.runtimes.ctranslate2": {"ctranslate2"},
    "fastmux.passes.runtimes.onnxruntime": {"onnx", "export"},
    "fastmux.serving": {"serve", "test"},
    "fastmux.training.experiments.molecules": {"graphs"},
    "fastmux.training.fronts.static_model": {"peers"},
    "fastmux.training.experiments.prumux": {"pruning"},
}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (("fastmux",), ()),  # a plain install runs `fastmux train`
        (("fastmux.exporting",), ("export",)),
        (("fastmux.passes",), ("onnx",)),
        (("fastmux.passes.runtimes.ctranslate2", "fastmux.exporting.ctranslate2_file"), ("ctranslate2",)),
        (("fastmux.serving",), ("serve",)),
        (("fastmux.training.experiments.molecules",), ("graphs",)),
        (("fastmux.training.experiments.prumux",), ("pruning",)),
        (("bench",), ("bench", "peers")),
        (("tests",), ("test",)),
        (("bench", "tests"), ("dev", "peers")),
    ],
    ids=["plain", "export", "onnx", "ctranslate2", "serve", "graphs", "pruning", "bench", "test", "dev"],
)
def test_what_is_imported_is_declared(
    metadata: importlib.metadata.PackageMetadata, folders: tuple[str, ...], extras: tuple[str, ...]
) -> None:
    declared = set()
    for requirement in metadata.get_all("Requires-Dist"):
        only_for = re.search(r'extra == "(\w+)"', requirement)
        if only_for is None or only_for[1] in extras:
            declared.add(re.match(r"[\w.-]+", requirement)[0].lower().replace("-", "_"))
    files = [(module, file) for module, file in python_files() if within(module, *folders)]
    elsewhere = [module for module, theirs in OPTIONAL.items() if theirs.isdisjoint(extras)]
    files = [(module, file) for module, file in files if not within(module, *elsewhere)]
    # Scripts and tests import their neighbours by bare names.
    known = {
        *sys.stdlib_module_names,
        *FOLDERS,
        *(file.stem for _, file in files if file.parent.name in folders),
        *(file.parent.name for _, file in files),
    }
    distributions = importlib.metadata.packages_distributions()
    missing = set()
    for module, file in files:
        for top in {name.partition(".")[0] for name in imports(module, file)} - known:
            if declared.isdisjoint(d.lower().replace("-", "_") for d in distributions.get(top, [top])):
                missing.add(f"{module} imports {top}")
    assert not missing


IMPORTED_LATER = """
import sys
finders = list(sys.meta_path)
import fastmux
assert not {"torch", "transformers", "triton"} & sys.modules.keys(), "import fastmux loads more than itself"
assert "TMux" in dir(fastmux)
from transformers import AutoConfig, AutoModel
config = AutoConfig.for_model("tmux", num_instances=3, backbone_config={
    "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16})
assert type(AutoModel.from_config(config)) is fastmux.TMux
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("fastmux")], "the finder stayed"
assert not {"fastmux.kernels.common.launch", "fastmux.kernels.hadamard_mux"} & sys.modules.keys()
"""


LOADED_BY_NAME = """
import sys
import fastmux
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
assert type(model) is fastmux.TMuxForSequenceClassification
"""


def test_import_costs_nothing_and_the_auto_classes_know_the_models(tmp_path: Path) -> None:
    tiny = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30)
    fastmux.TMuxForSequenceClassification.from_backbone(tiny, num_instances=3).save_pretrained(tmp_path)
    for code in (IMPORTED_LATER, LOADED_BY_NAME):
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
