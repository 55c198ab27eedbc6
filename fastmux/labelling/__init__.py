"""Files of text in, the same rows with labels out: `fastmux.predict` and ``fastmux predict``."""
