"""The repository's Python files, and what each imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("kernels", "fastmux", "training", "bench", "tests")
#: Folders that are imported as packages of fastmux, through links.
LINKED = ("kernels", "training")


def python_files() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every Python file in the repository; those of kernels/ and training/ are fastmux's."""
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            if parts[0] == "fastmux" and parts[1] in LINKED:  # the link: seen under its own name already
                continue
            parts = ("fastmux", *parts) if folder in LINKED else parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imported(node: ast.AST, module: str, is_package: bool) -> set[str]:
    """The dotted names that an import statement, or `importlib.import_module` of a literal, asks for."""
    match node:
        case ast.Import():
            return {alias.name for alias in node.names}
        case ast.ImportFrom():
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, *filter(None, [base])])
            return {f"{base}.{alias.name}" for alias in node.names}
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
            return {name}
    return set()


def imports(module: str, file: Path, *, inside_functions: bool = False) -> set[str]:
    """What a file imports anywhere, or what its functions import when they are called."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    if inside_functions:
        functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        nodes = (node for function in functions for node in ast.walk(function))
    return set().union(*(imported(node, module, file.name == "__init__.py") for node in nodes))


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)
