"""Label rows over HTTP: ``fastmux serve``. Needs the extra ``serve``."""
