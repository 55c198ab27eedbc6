"""A model in a file that other runtimes load, in float32 or with matrices of 8 bits."""
