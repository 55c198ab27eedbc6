"""Each op beside its specification, eager and compiled, and beside others' code."""
