"""Joined and plain models as programs of `torch.export` and in onnxruntime: one group or many, any length, padded or
not."""

from __future__ import annotations

import itertools

import onnxruntime
import pytest
import torch
from joined_models import joined, plain
from thoroughness import ALL

from fastmux.models.narrowing import narrowed
from fastmux.testing import assert_agrees

EXPORTS = [
    ("sequence", 3, {"join": "positions"}),
    ("token", 3, {"join": "rows"}),
    ("sequence", 3, {"join": "pooled"}),
    ("none", 2, {"join": "pooled"}),
    ("token", 3, {"join": "feed_forward"}),
    ("sequence", 1, {"heads": 3}),
    ("token", 2, {"join": "positions"}),
    ("sequence", 2, {"join": "rows", "last_layers": 2, "first_layers": 2}),
    ("none", 1, {}),
    ("none", 4, {"join": "positions"}),
    ("none", 4, {"join": "rows"}),
    ("sequence", 1, {}),
    ("token", 1, {}),
]
WITH_ONNX = EXPORTS if ALL else EXPORTS[1:3]


def rows(count: int, length: int, padded: bool) -> dict[str, torch.Tensor]:
    ids, mask = torch.randint(5, 60, (count, length)), torch.ones(count, length, dtype=torch.long)
    if padded:
        for row in range(count):
            mask[row, max(1, length - row % 4) :] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


def arguments(kind: str, num_instances: int, options: dict, names=("input_ids", "attention_mask")):
    """A model, an example of two groups, and the shapes of docs/hugging-face.md."""
    original, structure = plain("Bert", kind, layers=4), {k: v for k, v in options.items() if k != "heads"}
    if "heads" in options:
        original = narrowed(original, 24, [rows(20, 9, padded=True)], attention_heads=options["heads"])
    model = joined(original, num_instances, **structure)
    groups, length = torch.export.Dim("groups", min=1, max=64), torch.export.Dim("length", min=2, max=128)
    count = groups if num_instances == 1 else num_instances * groups
    example = {name: t for name, t in rows(2 * num_instances, 7, padded=True).items() if name in names}
    return model, example, {name: {0: count, 1: length} for name in example}


def assert_same(model, run, num_instances: int, names=("input_ids", "attention_mask")) -> None:
    for groups, length, padded in itertools.product([1, 2, 5], [2, 3, 8, 13], [False, True]):
        inputs = {name: t for name, t in rows(groups * num_instances, length, padded).items() if name in names}
        with torch.no_grad():
            assert_agrees(run(inputs), model(**inputs)[0], what=f"{groups} groups of {length}, padded: {padded}")


@pytest.mark.parametrize(("kind", "num_instances", "options"), EXPORTS)
def test_torch_export(kind, num_instances, options):
    model, example, shapes = arguments(kind, num_instances, options)
    program = torch.export.export(model, (), example, dynamic_shapes=shapes).module()
    assert_same(model, lambda inputs: program(**inputs)[0], num_instances)


@pytest.mark.parametrize("join", ["positions", "rows"])
def test_without_a_mask(join):
    model, example, shapes = arguments("token", 3, {"join": join}, names=("input_ids",))
    program = torch.export.export(model, (), example, dynamic_shapes=shapes).module()
    assert_same(model, lambda inputs: program(**inputs)[0], 3, names=("input_ids",))


def test_positions_are_joined_in_any_number_of_rows():
    model, example, shapes = arguments("token", 3, {"join": "positions"})
    count = torch.export.Dim("rows", min=1, max=64)
    shapes = {name: {0: count, 1: axes[1]} for name, axes in shapes.items()}
    program = torch.export.export(model, (), example, dynamic_shapes=shapes).module()
    assert_same(model, lambda inputs: program(**inputs)[0], 1)


@pytest.mark.parametrize(("kind", "num_instances", "options"), WITH_ONNX)
def test_onnxruntime(kind, num_instances, options, tmp_path):
    model, example, shapes = arguments(kind, num_instances, options)
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (), str(file), kwargs=example, dynamic_shapes=shapes, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(inputs):
        feeds = {i.name: inputs[i.name].numpy() for i in session.get_inputs()}
        return torch.from_numpy(session.run(None, feeds)[0])

    assert_same(model, run, num_instances)
