"""Label the rows of files and tables: `fastmux.predict` and ``fastmux predict``."""
