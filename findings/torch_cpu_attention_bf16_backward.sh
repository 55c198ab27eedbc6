#!/usr/bin/env bash
# torch 2.13.0, x86: scaled_dot_product_attention in bfloat16 on a CPU takes about as long as in float32 forward, and several
# times as long forward and backward, where rows are short: its fused kernel, which PyTorch chooses by itself, is quick in both
# types forward, in float32 alone backward. The unfused one (SDPBackend.MATH), in bfloat16 as well, has no such gap. A training
# step under torch.autocast("cpu", torch.bfloat16) therefore loses in attention what it gains in linear layers. Cast queries,
# keys and values to float32 for attention, or choose the unfused kernel, until that changes.
# Seen on an Intel Xeon (AMX, AVX-512 BF16), one thread, 12 heads of 32, 4,096 positions a pass, beside other work, in rows of
#                                                          16 positions   64
#     forward, over float32                                       1.32   0.79
#     forward and backward, over float32                          7.40   3.55
#     forward and backward, over the unfused kernel in bfloat16   6.45   1.82
#     the same two kernels in float32                             0.98   0.69
# Fails where rows of 16 positions no longer take three times as long as in float32 and as by the unfused kernel in bfloat16.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && python="$folder/venv/bin/python"
"$python" -m pip install --quiet torch==2.13.0+cpu numpy 2>"$folder/log" || "$python" -m pip install --quiet torch==2.13.0 numpy

"$python" - <<'PYTHON'
import statistics
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

HEADS, WIDTH, POSITIONS, REPEATS = 12, 32, 4096, 15
torch.set_num_threads(1)


def pass_of(kind, length, backend, backward):
    """A call that runs attention, with its gradients if backward is set."""
    draw = torch.Generator().manual_seed(0)
    shape = (POSITIONS // length, HEADS, length, WIDTH)
    query, key, value, gradient = (torch.randn(shape, generator=draw).to(kind) for _ in range(4))
    given = [one.requires_grad_(backward) for one in (query, key, value)]

    def run():
        with sdpa_kernel(backend):
            found = scaled_dot_product_attention(*given)
        return torch.autograd.grad(found, given, gradient) if backward else found

    return run


def ratio(first, second):
    """The median of how many times as long the first call takes, of pairs in turns."""
    times = ([], [])
    for turn in range(REPEATS + 2):
        for call, seconds in zip((first, second), times):
            start = time.process_time()
            call()
            if turn > 1:
                seconds.append(time.process_time() - start)
    return statistics.median(times[0]) / statistics.median(times[1])


bf16, f32, fused, unfused = torch.bfloat16, torch.float32, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH
short = {}
lines = {
    "forward, over float32": ((bf16, fused), (f32, fused), False),
    "forward and backward, over float32": ((bf16, fused), (f32, fused), True),
    "forward and backward, over the unfused kernel in bfloat16": ((bf16, fused), (bf16, unfused), True),
    "the same two kernels in float32": ((f32, fused), (f32, unfused), True),
}
print("torch", torch.__version__)
for name, ((kind, kernel), (other, its), backward) in lines.items():
    found = [ratio(pass_of(kind, n, kernel, backward), pass_of(other, n, its, backward)) for n in (16, 64)]
    short[name] = found[0]
    print(f"{name:<58} {found[0]:6.2f} {found[1]:6.2f}")
seen = all(short[name] > 3 for name in list(lines)[1:3])
print("the fused kernel is several times slower backward in bfloat16:", "yes" if seen else "no")
raise SystemExit(0 if seen else 1)
PYTHON
