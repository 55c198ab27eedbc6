"""The command line: ``fastmux COMMAND ...``."""
