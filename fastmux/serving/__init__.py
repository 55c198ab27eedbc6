"""Rows over HTTP in, labels out: ``fastmux serve``. Needs the extra ``serve``."""
