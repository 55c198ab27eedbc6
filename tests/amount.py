"""How much is tested: by default, of combinations that take long, each part in some of them; on request, all."""

from __future__ import annotations

import os

#: ``FASTMUX_TESTS=all`` in the environment asks for the whole product wherever the default takes its values in turn.
ALL = os.environ.get("FASTMUX_TESTS") == "all"
