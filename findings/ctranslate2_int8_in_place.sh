#!/usr/bin/env bash
# ctranslate2 4.8.5: a model specification is filled with the caller's weights, as NumPy arrays or PyTorch tensors, and
# `optimize(quantization="int8")` scales them where they lie: every row of a matrix is multiplied by 127 over its largest
# element ("int16": the whole matrix by one factor). The model that the weights belong to goes on running, and answers
# something else; nothing says so. "float16" leaves the caller's weights as they are. Whoever converts a model that is still
# used, or converts one model twice, has to give the specification copies.
# Seen: after int8 each row of the caller's matrix has 127 as its largest magnitude, after int16 it is a multiple of what it
# was, after float16 nothing changed. Fails where that is no longer so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder/packages" ctranslate2==4.8.5 numpy==2.4.6 \
    packaging==26.2 pyyaml==6.0.3

PYTHONPATH=$folder/packages python3 - <<'PYTHON'
import ctranslate2
import numpy as np
from ctranslate2.specs import common_spec, model_spec


class Spec(model_spec.LayerSpec):
    """A single dense layer."""

    def __init__(self):
        self.linear = common_spec.LinearSpec()


print("ctranslate2", ctranslate2.__version__)
seen = {}
for quantization in ("int8", "int16", "float16"):
    weight = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    ours = weight.copy()
    spec = Spec()
    spec.linear.weight, spec.linear.bias = ours, np.zeros(4, np.float32)
    spec.validate()
    spec.optimize(quantization=quantization)
    factors = ours / weight
    if (ours == weight).all():
        seen[quantization] = "unchanged"
    elif np.allclose(factors, factors[0, 0]):
        seen[quantization] = "scaled as a whole"
    else:
        seen[quantization] = "scaled to 127" if np.allclose(np.abs(ours).max(1), 127) else "something else"
    print(f"after {quantization:8} the caller's matrix is {seen[quantization]}")
raise SystemExit(0 if seen == {"int8": "scaled to 127", "int16": "scaled as a whole", "float16": "unchanged"} else 1)
PYTHON
