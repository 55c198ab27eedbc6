"""The front: accuracy against speed of an encoder, of what one would use in its place, and of its T-MUX."""
