"""Figures of the code's structure: ``python -m benchmarks.structure [FOLDER...]``.

Prints one JSON object for each folder. Tests, migrations and benchmarks are left out, but for the
lengths of lines.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

APPS = ("runs", "datasets", "tunixrt")


def main() -> None:
    for folder in sys.argv[1:] or ["."]:
        print(json.dumps({folder: measure(Path(folder))}, indent=1))


def measure(root: Path) -> dict[str, Any]:
    """Count what is in ``root``, the checkout of a commit."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    python = [root / name for name in listed if name.endswith(".py") and "/migrations/" not in name]
    templates = [root / name for name in listed if name.endswith(".html")]
    modules = {_module(path.relative_to(root)): path for path in python if _counts(path, root)}
    trees = {name: ast.parse(path.read_text()) for name, path in modules.items()}
    length, longest = max(_functions(trees))
    arrows = {
        (_package(name), _package(used))
        for name, tree in trees.items()
        for used in _imports(tree, modules)
        if _package(name) != _package(used)
    }
    return {
        "modules at the top of runs/": sum(
            path.parent == root / "runs" and path.name != "__init__.py" for path in modules.values()
        ),
        "packages in runs/": len({_package(name) for name in modules if name.startswith("runs.")}),
        "arrows between packages": len(arrows),
        "pairs of packages that import each other": sum((b, a) in arrows for a, b in arrows) // 2,
        "longest function, lines": [length, longest],
        "modules of more than 400 lines": sum(_lines(path) > 400 for path in modules.values()),
        "lines of Python over 100": _longer(python, 100),
        "lines of templates over 160": _longer(templates, 160),
    }


def _counts(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return parts[0] in APPS and not {"tests", "parity_tests", "migrations"} & set(parts)


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _package(module: str) -> str:
    """Return the first two names of a module, of the training program the first three."""
    parts = module.split(".")
    return ".".join(parts[: 3 if parts[:2] == ["runs", "trainer"] else 2])


def _imports(tree: ast.Module, modules: dict[str, Path]) -> set[str]:
    """Return modules of ours that are imported when this one is, or in one of its functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & modules.keys()


def _functions(trees: dict[str, ast.Module]) -> list[tuple[int, str]]:
    return [
        ((node.end_lineno or node.lineno) - node.lineno + 1, f"{name}.{node.name}")
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def _lines(path: Path) -> int:
    return path.read_text().count("\n")


def _longer(paths: list[Path], most: int) -> int:
    return sum(len(line) > most for path in paths for line in path.read_text().splitlines())


if __name__ == "__main__":
    main()
