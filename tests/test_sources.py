"""What every file of the repository keeps to."""

from __future__ import annotations

import ast

from sources import python_files

LONG = 350


def test_a_long_file_says_at_its_top_why_it_is_long():
    unsaid = {}
    for module, file in python_files():
        source = file.read_text(encoding="utf-8")
        lines = source.count("\n")
        if lines > LONG and "Longer than other files: " not in (ast.get_docstring(ast.parse(source)) or ""):
            unsaid[module] = lines
    assert not unsaid
