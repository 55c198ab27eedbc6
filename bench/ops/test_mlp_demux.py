from bench.harness import GROUPED, Op

OP = Op(
    "mlp_demux",
    cpu=[{"G": 2, "N": 10, "L": 64, "d": 512}, {"G": 1, "N": 2, "L": 128, "d": 768}],
    gpu=GROUPED,
    products=lambda G, N, L, d: G * N * L * d * d,
)

test_mlp_demux = OP.test()
