"""Hugging Face's own common model tests (`tests/test_modeling_common.py`) over our classes; on request only.

The tests come with the source distribution of transformers, not with what is installed. Fetch that of the installed
version, and name its folder::

    version=$(python -c "import transformers; print(transformers.__version__)")
    pip download --no-binary :all: --no-deps transformers==$version
    tar xzf transformers-$version.tar.gz && pip install parameterized
    FASTMUX_HF_TESTS=$PWD/transformers-$version pytest tests/test_hugging_face_common.py

What fails by its nature is listed in `KNOWN`, with the reason; it must fail, or the entry is to be deleted.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import types
import unittest
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from models import FAMILIES, VOCAB

import fastmux

FOLDER = os.environ.get("FASTMUX_HF_TESTS")
if FOLDER is None:
    pytest.skip(
        "FASTMUX_HF_TESTS does not name the unpacked source distribution of transformers (see the head of this file)",
        allow_module_level=True,
    )


def common_tests(folder: Path):
    """`ModelTesterMixin` of the source distribution in ``folder``.

    Raises:
        ValueError: if there is none, or it is that of another version than the installed one.
    """
    source = folder / "tests" / "test_modeling_common.py"
    about = (folder / "PKG-INFO").read_text(encoding="utf-8") if (folder / "PKG-INFO").exists() else ""
    if not source.exists() or f"\nVersion: {transformers.__version__}\n" not in about:
        raise ValueError(
            f"FASTMUX_HF_TESTS is {str(folder)!r}, expected the source distribution of transformers "
            f"{transformers.__version__}, with tests/test_modeling_common.py"
        )
    package = types.ModuleType("hugging_face_tests")
    package.__path__ = [str(folder / "tests")]
    sys.modules[package.__name__] = package
    # Two mixins that the source distribution leaves out: of exporters and of generation.
    for name, mixin in (
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ):
        parent, _, _ = name.partition(".")
        for part in (parent, name):
            sys.modules[f"{package.__name__}.{part}"] = types.ModuleType(f"{package.__name__}.{part}")
        setattr(sys.modules[f"{package.__name__}.{name}"], mixin, type(mixin, (), {}))
    return importlib.import_module(f"{package.__name__}.test_modeling_common").ModelTesterMixin


N, ROWS, LENGTH = 2, 4, 7
CLASSES = (
    fastmux.TMux,
    fastmux.TMuxForSequenceClassification,
    fastmux.TMuxForTokenClassification,
    fastmux.TMuxForMaskedLM,
)


class Tester:
    """What the common tests ask for: a configuration and a batch."""

    batch_size, seq_length, num_hidden_layers, hidden_size, num_attention_heads = ROWS, LENGTH, 2, 16, 2
    is_training = True

    def __init__(self, family: str, options: dict):
        self.family, self.options = family, options

    def get_config(self) -> fastmux.TMuxConfig:
        return fastmux.TMuxConfig(
            backbone_config=FAMILIES[self.family].to_dict(), num_instances=N, num_labels=3, **self.options
        )

    def prepare_config_and_inputs_for_common(self):
        ids = torch.randint(5, VOCAB, (ROWS, LENGTH))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


VARIANTS = {
    "unbind": ("bert", {"demultiplexer": "unbind"}),
    "index": ("bert", {"demultiplexer": "index"}),
    "key, attention": ("bert", {"demultiplexer": "key", "multiplexer": "attention"}),
    "mlp": ("bert", {"demultiplexer": "mlp"}),
    "rsa": ("bert", {"demultiplexer": "rsa"}),
    "own retrieval": ("bert", {"demultiplexer": "unbind", "retrieval_demultiplexer": "own"}),
    "mean": ("bert", {"demultiplexer": "unbind", "sequence_summary": "mean"}),
    **{family: (family, {"demultiplexer": "unbind"}) for family in ("roberta", "electra", "distilbert", "modernbert")},
}
#: Test -> why it fails.
KNOWN = {
    "test_batching_equivalence": "a row depends on the rows of its group",
    "test_init_weights_can_init_buffers": "the random transforms are buffers, drawn anew whenever they are drawn",
    "test_model_weights_reload_no_missing_tied_weights": "a checkpoint that lacks the encoder is refused, not loaded",
}
#: With an index prefix as well.
KNOWN_WITH_PREFIX = dict.fromkeys(
    ("test_attention_outputs", "test_hidden_states_output"), "what the encoder returns has the prefix in it"
)


def own(test: Callable) -> Callable:
    """A function of its own: a mark stays on what it is put on, and the mixin's functions are every variant's."""

    @functools.wraps(test)
    def run(self):
        return test(self)

    return run


def variant(name: str, family: str, options: dict) -> type:
    mixin = common_tests(Path(FOLDER))

    def setUp(self):
        self.model_tester = Tester(family, options)
        if "training" in self._testMethodName or "gradient_checkpointing" in self._testMethodName:
            self.all_model_classes = CLASSES[1:]  # the encoder alone has no loss

    def prepare(self, inputs, model_class, return_labels=False):
        # Hugging Face's own goes by the names of its classes.
        inputs = dict(inputs)
        if return_labels and model_class is not fastmux.TMux:
            inputs["labels"] = inputs["input_ids"] % 3
            if model_class is fastmux.TMuxForSequenceClassification:
                inputs["labels"] = inputs["labels"][:, 0]
        return inputs

    body = {"setUp": setUp, "all_model_classes": CLASSES, "_prepare_for_class": prepare}
    known = KNOWN | (KNOWN_WITH_PREFIX if options["demultiplexer"] == "index" else {})
    for test, reason in known.items():
        body[test] = pytest.mark.xfail(reason=reason, strict=True)(own(getattr(mixin, test)))
    return type(f"Test{name.title().replace(' ', '').replace(',', '')}", (mixin, unittest.TestCase), body)


for _name, (_family, _options) in VARIANTS.items():
    _class = variant(_name, _family, _options)
    globals()[_class.__name__] = _class
del _class  # or its tests would be collected twice
