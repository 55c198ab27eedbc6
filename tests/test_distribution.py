"""The package of the name `fastmux` on the index is another project's: nothing of ours sends a reader there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from sources import ROOT

from fastmux import distribution

#: What sends a reader to the package that is called fastmux on the index, which is another project's.
ANOTHERS = re.compile(
    r"""fastmux\[                                        # an extra
    | \b(pip3?|pipx|uv|poetry|conda|mamba)\b[^\n|`&;#]*?
        \b(install|add|uninstall|show)[^\n|`&;#]*?['" \t]fastmux(?![\w./-])
    | (pypi\.org/(project|pypi)|pypi\.python\.org/pypi|shields\.io/pypi/\w+|pepy\.tech/project/?)/fastmux(?![\w-])
    | metadata\.\w+\(['"]fastmux['"]\)
    | ['"\s]fastmux\s*(==|>=|~=)\s*[\d.]+            # a requirement
    """,
    re.VERBOSE,
)


def test_no_file_names_the_other_project() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone: git says which files are ours")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = listed.stdout.rstrip("\0").split("\0")
    texts = {name: (ROOT / name).read_bytes() for name in tracked if (ROOT / name).is_file()}
    assert "README.md" in texts and "setup.py" in texts
    del texts[str(Path(__file__).relative_to(ROOT))]
    found = {
        f"{name}: {match[0]}"
        for name, text in texts.items()
        if b"\0" not in text
        for match in ANOTHERS.finditer(text.decode("utf-8", "replace"))
    }
    assert not found


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("pip install fastmux", True),
        ("pip install 'fastmux[serve]'", True),
        ("python -m pip install --quiet torch fastmux", True),
        ("uv add fastmux", True),
        ("[fastmux](https://pypi.org/project/fastmux/)", True),
        ('importlib.metadata.version("fastmux")', True),
        ("dependencies: fastmux>=0.1", True),
        (f"pip install '{distribution.NAME}[serve]'", False),
        (f"https://pypi.org/project/{distribution.NAME}/", False),
        ("pip install '.[serve]' && fastmux serve my-model", False),
        ("pip install . # the library, and the command `fastmux`", False),
    ],
)
def test_what_would_name_the_other_project(line: str, wrong: bool) -> None:
    assert bool(ANOTHERS.search(line)) == wrong
