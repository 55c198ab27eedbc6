"""Packaging of fastmux."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def constant(file: str, name: str) -> str:
    """A string that a file of the package assigns, read as text: importing fastmux would need torch at build time."""
    source = (ROOT / "fastmux" / file).read_text(encoding="utf-8")
    match = re.search(rf'^{name} = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise ValueError(f'fastmux/{file} has no line of the form {name} = "..."')
    return match[1]


NAME = constant("distribution.py", "NAME")


# Kernels and training programs live in kernels/ and training/ and are imported as fastmux.kernels and fastmux.training,
# through links. They are never top-level packages: `kernels` is Hugging Face's, and transformers imports it when it is
# installed; `training` may be anybody's.
for linked in ("kernels", "training"):
    if not (ROOT / "fastmux" / linked).is_dir():
        raise RuntimeError(
            f"fastmux/{linked} is not a directory, expected a symbolic link to ../{linked}; "
            "clone again with `git clone -c core.symlinks=true`"
        )

LIBRARY = [
    "torch>=2.11",
    "transformers>=5.17",
    "filelock",
    "huggingface_hub",
    "numpy",
    "packaging",
    "safetensors",
    # torch's CUDA wheels bring it, its CPU wheels do not: there the tests run the kernels in the interpreter.
    'triton>=3.6; sys_platform == "linux"',
]
# What training/ imports. Part of the plain install, so that `pip install -e .` is enough for the main job.
TRAIN = [
    "accelerate>=1.1",  # transformers.Trainer does not start without it
    "datasets",
    "matplotlib",
    "orjson>=3.10",
    "pyarrow>=18",
    "pyyaml",
    "scikit-learn",
    "scipy",
    "seqeval",
    "tensorboard",
    "tokenizers",
    "tqdm",
]
# What fastmux.serving imports.
SERVE = [
    "anyio",
    "fastapi",
    "fastapi-offline",  # Swagger UI, as files
    "httptools",
    "prometheus-client",
    "pydantic>=2",
    "python-json-logger>=3.1",
    "starlette",
    "uvicorn>=0.30",
]
# What runs exported models, and what exports them.
ONNX = ["onnxruntime>=1.20"]
CTRANSLATE2 = ["ctranslate2>=4.5"]
EXPORT = [*ONNX, "onnx>=1.17", "onnxscript"]
TEST = [
    *CTRANSLATE2,
    *EXPORT,
    *SERVE,
    "duckdb",
    "httpx2",
    "hypothesis",
    "mkdocs>=1.6",
    "mkdocstrings[python]",
    "openai>=1.60",
    "pandas",
    "peft>=0.18",
    "polars",
    "psutil",
    "pytest>=8",
    "pytest-xdist",
    "sentence-transformers>=5",
    "setuptools>=77",  # the tests build a wheel
]
BENCH = [*SERVE, "psutil", "pytest>=8", "scikit-learn", "sentence-transformers>=5"]
# What examples/ray_*.py import beside the extra serve.
RAY = ["pandas", "ray[data,serve]>=2.55"]
# What training/experiments/molecules.py imports.
GRAPHS = ["rdkit", "torch_geometric>=2.5"]
# What training/experiments/prumux.py imports.
PRUNING = ["torch-pruning>=1.6"]
# Others' code that bench/ times beside fastmux's, where it is there.
PEERS = [*CTRANSLATE2, "fast-hadamard-transform", "liger-kernel", "model2vec", "onnxruntime", "openvino"]

setup(
    name=NAME,
    version=constant("__init__.py", "__version__"),
    description="Data multiplexing for transformers: one forward pass serves N inputs",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The fastmux authors",
    license_expression="MIT",
    license_files=["LICENSE"],
    project_urls={
        "Package": f"https://pypi.org/project/{NAME}/",
        "Paper, DataMUX": "https://arxiv.org/abs/2202.09318",
        "Paper, MUX-PLM": "https://arxiv.org/abs/2302.12441",
    },
    python_requires=">=3.10",
    # find_packages does not see the folders of fastmux.kernels, which have no __init__.py: with one, kernels/ in the
    # repository root would hide Hugging Face's package from everything that runs there. It follows the link to
    # training/.
    packages=[*find_packages(include=["fastmux", "fastmux.*"]), "fastmux.kernels", "fastmux.kernels.common"],
    package_data={
        "fastmux": ["py.typed", "serving/page.html"],
        "fastmux.kernels": ["tuned/*.json"],  # found by bench/tune.py
        "fastmux.training": ["*/*.yaml", "*/*/*.yaml", "*/*.json"],
    },
    install_requires=[*LIBRARY, *TRAIN],
    entry_points={"console_scripts": ["fastmux = fastmux.cli.main:main"]},
    extras_require={
        "serve": SERVE,
        "onnx": ONNX,
        "ctranslate2": CTRANSLATE2,
        "export": EXPORT,
        "test": TEST,
        "bench": BENCH,
        "graphs": GRAPHS,
        "pruning": PRUNING,
        "peers": PEERS,
        "ray": [*SERVE, *RAY],
        "dev": sorted({*TEST, *BENCH, "build", "coverage>=7.10", "mypy>=1.18", "pre-commit", "ruff"}),
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Operating System :: POSIX :: Linux",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
