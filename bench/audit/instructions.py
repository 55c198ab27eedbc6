"""Count the instructions that a compiled kernel executes: those of its loops as often as the launch has them turn.

Read from the disassembly of NVIDIA's ``cuobjdump``. What a branch may skip counts as executed, but for what leads to no
exit, as a failed assertion does. Where the compiler has split a loop's remainder off, both halves count for the turns
that they take.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


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

_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);")
_FLOAT = ("FFMA", "FADD", "FMUL")
_ACCESSES = ("LDG", "STG", "RED", "ATOM")


class Instruction(NamedTuple):
    """``target``: where it may branch to, or its own address."""

    address: int
    name: str
    operands: str
    target: int


def turns(kernel: str, values: Mapping[str, int]) -> list[int]:
    """Of the loops of a kernel launched with these arguments; those that turn once are none to the compiler."""
    counts = [values[loop] if isinstance(loop, str) else loop(values) for loop in LOOPS[kernel]]
    return [count for count in counts if count != 1]


def executed(sass: str, turns: Sequence[int], passes: int = 1, stride: int = 0) -> Counter[str]:
    """What one thread executes: ``all`` instructions, of them ``float`` operations of 32 bits and ``special``
    functions; and ``matrix``, its share of the multiply-adds of tensor cores.

    Args:
        turns: how often nested loops turn, outermost first.
        passes: loops that the source has one after another, each of which turns as often; more are remainders.
        stride: what a turn adds to the counter of a loop, where the compiler knows how often it turns: it may then have
            unrolled it without a remainder.

    Raises:
        ValueError: if loops are nested deeper than ``turns`` are given for.
    """
    listed = _on_the_way(sass)
    loops = []
    for i in listed:
        first = i.target if i.name.startswith("BRA") else i.address
        # Every loop of a source loads or stores; others wait for a barrier, and pass it once.
        if first < i.address and any(a.name.startswith(_ACCESSES) for a in _within(listed, (first, i.address))):
            loops.append((first, i.address))
    within = {loop: [o for o in loops if o != loop and o[0] <= loop[0] and loop[1] <= o[1]] for loop in loops}
    deepest = max((len(outer) + 1 for outer in within.values()), default=0)
    if deepest > len(turns):
        raise ValueError(f"loops are nested {deepest} deep, expected at most {len(turns)}")

    def accesses(loop: tuple[int, int]) -> int:
        return max(1, sum(i.name.startswith(_ACCESSES) for i in _within(listed, loop)))

    times = {}
    for loop in loops:
        siblings = [o for o in loops if within[o] == within[loop]]
        count = turns[len(within[loop])]
        unrolled = round(max(map(accesses, siblings)) / min(map(accesses, siblings)))
        if len(siblings) > passes and unrolled > 1:
            count = count // unrolled if accesses(loop) == max(map(accesses, siblings)) else count % unrolled
        elif stride:
            count //= max(1, _advance(_within(listed, loop)) // stride)
        times[loop] = count
    counted: Counter[str] = Counter()
    for i in listed:
        weight = 1
        for first, last in loops:
            if first <= i.address <= last:
                weight *= times[first, last]
        counted["all"] += weight
        counted["float"] += weight * i.name.startswith(_FLOAT)
        counted["special"] += weight * i.name.startswith("MUFU")
        counted["matrix"] += weight * _multiply_adds(i.name)
    return counted


def _within(listed: Sequence[Instruction], loop: tuple[int, int]) -> list[Instruction]:
    return [i for i in listed if loop[0] <= i.address <= loop[1]]


def _on_the_way(sass: str) -> list[Instruction]:
    """What stands between the start and an exit: no padding, and nothing that only leads to a trap."""
    found = list(_INSTRUCTION.finditer(sass))
    listed: list[Instruction] = []
    onward: dict[int, set[int]] = {}
    back: dict[int, set[int]] = {}
    for m, following in zip(found, [*found[1:], None], strict=True):
        address, name, operands = int(m[1], 16), m[3], m[4].strip()
        branch = re.search(r"0x([0-9a-f]+)", operands) if name.startswith(("BRA", "CALL.REL")) else None
        listed.append(Instruction(address, name, operands, int(branch[1], 16) if branch else address))
        ends = not m[2] and (name.startswith(("EXIT", "RET")) or (name == "BRA" and operands.startswith("0x")))
        onward[address] = {listed[-1].target} - {address}
        if following and not ends:
            onward[address].add(int(following[1], 16))
        for other in onward[address]:
            back.setdefault(other, set()).add(address)
    exits = [i.address for i in listed if i.name.startswith(("EXIT", "RET"))]
    kept = _reached(onward, [0]) & _reached(back, exits)
    return [i for i in listed if i.address in kept]


def _reached(edges: Mapping[int, set[int]], starts: Sequence[int]) -> set[int]:
    reached: set[int] = set()
    ahead = list(starts)
    while ahead:
        at = ahead.pop()
        if at not in reached:
            reached.add(at)
            ahead.extend(edges.get(at, ()))
    return reached


def _advance(loop: Sequence[Instruction]) -> int:
    """What a turn of a compiled loop adds to its counter, a register that is compared with a constant; 0 where none is
    found."""
    sums: dict[str, tuple[str, int]] = {}  # register -> what it was at the loop's head, and what was added since
    compared = set()
    for i in loop:
        operands = [o.strip().removesuffix(".reuse") for o in i.operands.split(",")]
        registers = [o for o in operands if re.fullmatch(r"U?R\d+", o)]
        numbers = [int(o, 16) for o in operands if o.startswith("0x")]
        if i.name.startswith(("ISETP", "UISETP")) and len(registers) == len(numbers) == 1:
            compared.add(sums.get(registers[0], (registers[0], 0))[0])
        elif i.name.startswith(("IADD3", "VIADD", "UIADD3", "MOV", "UMOV", "IMAD.MOV")) and len(registers) == 2:
            head, added = sums.get(registers[1], (registers[1], 0))
            sums[registers[0]] = head, added + sum(numbers)
        elif registers and registers[0] == operands[0]:
            sums[registers[0]] = "", 0
    return max((added for r, (head, added) in sums.items() if r == head and r in compared), default=0)


def _multiply_adds(name: str) -> int:
    """Of a thread's share in an instruction for a warp, or a quarter of one for four."""
    if shape := re.match(r"HMMA\.(\d\d)(8)(\d+)", name):
        return int(shape[1]) * int(shape[2]) * int(shape[3]) // 32
    if shape := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", name):
        return int(shape[1]) * int(shape[2]) * int(shape[3]) // 128
    return 0
