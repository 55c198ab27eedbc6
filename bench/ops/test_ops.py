import pytest

from bench.ops.listed import OPS

#: The first shape of every op comes before the second shape of any.
CASES = sorted((case for op in OPS.values() for case in op.cases()), key=lambda case: case.rank)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op.name}-{case}")
def test_op(measure, case):
    measure(case)
