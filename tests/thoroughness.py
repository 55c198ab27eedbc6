"""How much is tested: by default, of combinations that take long, each part in some of them; on request, all."""

from __future__ import annotations

import os

import pytest

#: ``FASTMUX_TESTS=all`` in the environment asks for the whole product wherever the default takes its values in turn.
ALL = os.environ.get("FASTMUX_TESTS") == "all"

#: For a test that takes long, and whose subject others or `.ci/run` also go through.
on_request = pytest.mark.skipif(not ALL, reason="takes long; FASTMUX_TESTS=all asks for it")
