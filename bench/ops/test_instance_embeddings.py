from bench.harness import Op
from bench.ops.test_embedding_mux import CPU, GPU, with_shared_positions
from bench.ops.test_embedding_mux import inputs as with_vectors
from fastmux import functional, reference


def inputs(**sizes):
    drawn = with_vectors(**sizes)
    del drawn["instance_vectors"]
    return drawn


OP = Op(
    "instance_embeddings",
    cpu=CPU,
    gpu=GPU,
    function=with_shared_positions(functional.instance_embeddings),
    reference=reference.instance_embeddings,
    inputs=inputs,
    gathered=lambda G, N, L, d, V: 2 * G * N * L * d,
    index_bytes=lambda G, N, L, **_: 8 * G * N * L,
)

test_instance_embeddings = OP.test()
