"""Count the instructions that a compiled kernel executes: those of its loops as often as the launch has them turn.

Read from the disassembly of NVIDIA's ``cuobjdump``. What a branch may skip counts as executed. Where the compiler has
split a loop's remainder off, both halves count for the turns that they take.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence


def _blocks(values: Mapping[str, int]) -> int:
    return -(-values["width"] // values["BLOCK_D"])


#: Kernel -> how often its nested loops turn, outermost first: arguments of the launch, or what is computed from them.
LOOPS: dict[str, tuple[str | Callable[[Mapping[str, int]], int], ...]] = {
    "hadamard_mux_forward_kernel": ("num_instances",),
    "hadamard_mux_dx_kernel": ("num_instances",),
    "hadamard_mux_dv_kernel": ("num_instances",),
    "walsh_hadamard_mux_forward_kernel": ("num_instances",),
    "walsh_hadamard_mux_dx_kernel": ("num_instances",),
    "embedding_mux_forward_kernel": ("num_instances",),
    "embedding_mux_backward_kernel": ("num_instances", "groups_per_chunk", "num_types"),
    "pair_norm_forward_kernel": ("instances_per_program",),
    "pair_norm_backward_kernel": ("tiles_per_chunk", "num_instances"),
    "pair_norm_head_forward_kernel": (_blocks,),
    "pair_norm_head_backward_kernel": ("groups_per_share", "tiles_per_part", "num_instances"),
}

_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);")
_FLOAT = ("FFMA", "FADD", "FMUL")
_ACCESSES = ("LDG", "STG", "RED", "ATOM")


def turns(kernel: str, values: Mapping[str, int]) -> list[int]:
    """Of the loops of a kernel launched with these arguments; those that turn once are none to the compiler."""
    counts = [values[loop] if isinstance(loop, str) else loop(values) for loop in LOOPS[kernel]]
    return [count for count in counts if count != 1]


def executed(sass: str, turns: Sequence[int]) -> Counter[str]:
    """What one thread executes: ``all`` instructions, of them ``float`` operations of 32 bits and ``special``
    functions; and ``matrix``, its share of the multiply-adds of tensor cores.

    Raises:
        ValueError: if loops are nested deeper than ``turns`` are given for.
    """
    listed = [(int(m[1], 16), m[2], m[3]) for m in _INSTRUCTION.finditer(sass)]
    loops = []
    for address, name, operands in listed:
        target = re.search(r"0x([0-9a-f]+)", operands) if name.startswith("BRA") else None
        first = int(target[1], 16) if target else address
        # Every loop of a source loads or stores; others wait for a barrier, and pass it once.
        if first < address and any(n.startswith(_ACCESSES) for a, n, _ in listed if first <= a <= address):
            loops.append((first, address))
    within = {loop: [o for o in loops if o != loop and o[0] <= loop[0] and loop[1] <= o[1]] for loop in loops}
    deepest = max((len(outer) + 1 for outer in within.values()), default=0)
    if deepest > len(turns):
        raise ValueError(f"loops are nested {deepest} deep, expected at most {len(turns)}")

    def accesses(loop: tuple[int, int]) -> int:
        return max(1, sum(n.startswith(_ACCESSES) for a, n, _ in listed if loop[0] <= a <= loop[1]))

    times = {}
    for loop in loops:
        siblings = [o for o in loops if within[o] == within[loop]]
        count = turns[len(within[loop])]
        unrolled = round(max(map(accesses, siblings)) / min(map(accesses, siblings)))
        if len(siblings) > 1 and unrolled > 1:
            count = count // unrolled if accesses(loop) == max(map(accesses, siblings)) else count % unrolled
        times[loop] = count
    counted: Counter[str] = Counter()
    for address, name, _ in listed:
        weight = 1
        for first, last in loops:
            if first <= address <= last:
                weight *= times[first, last]
        counted["all"] += weight
        counted["float"] += weight * name.startswith(_FLOAT)
        counted["special"] += weight * name.startswith("MUFU")
        counted["matrix"] += weight * _multiply_adds(name)
    return counted


def _multiply_adds(name: str) -> int:
    """Of a thread's share in an instruction for a warp, or a quarter of one for four."""
    if shape := re.match(r"HMMA\.(\d\d)(8)(\d+)", name):
        return int(shape[1]) * int(shape[2]) * int(shape[3]) // 32
    if shape := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", name):
        return int(shape[1]) * int(shape[2]) * int(shape[3]) // 128
    return 0
