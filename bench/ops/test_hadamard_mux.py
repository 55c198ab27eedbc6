from bench.harness import GROUPED, Op

OP = Op(
    "hadamard_mux",
    cpu=[
        {"G": 4, "N": 10, "L": 128, "d": 768},
        {"G": 16, "N": 2, "L": 128, "d": 768},
        {"G": 1, "N": 10, "L": 128, "d": 768},
    ],
    gpu=GROUPED,
)

test_hadamard_mux = OP.test()
