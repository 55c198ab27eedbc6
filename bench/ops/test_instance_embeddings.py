from __future__ import annotations

from bench.harness import Op, on_this_machine
from bench.ops.test_embedding_mux import POSITIONS, with_shared_positions
from bench.ops.test_embedding_mux import inputs as with_vectors
from fastmux import functional, reference


def inputs(**sizes):
    drawn = with_vectors(**sizes)
    del drawn["instance_vectors"]
    return drawn


def elements(direction, G, N, L, d, V):
    # forward gathers rows, writes x; backward reads dx, gathers the rows again and writes the gradients of both tables
    forward = 2 * G * N * L * d
    return forward if direction == "forward" else forward + (V + POSITIONS) * d


OP = Op(
    "instance_embeddings",
    with_shared_positions(functional.instance_embeddings),
    reference.instance_embeddings,
    shapes=on_this_machine(
        cpu=[{"G": 4, "N": 10, "L": 128, "d": 768, "V": 8192}],
        gpu=[
            {"G": 128, "N": 2, "L": 128, "d": 768, "V": 30522},
            {"G": 16, "N": 40, "L": 128, "d": 768, "V": 30522},
            {"G": 8, "N": 10, "L": 512, "d": 1024, "V": 30522},
            {"G": 1, "N": 10, "L": 128, "d": 768, "V": 30522},
        ],
    ),
    inputs=inputs,
    elements=elements,
    index_bytes=lambda G, N, L, **_: 8 * G * N * L,
)


@OP.cases
def test_instance_embeddings(benchmark, case):
    case.run(benchmark)
