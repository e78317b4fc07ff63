"""Style is a test, and a ratchet: what is small may not grow. Raising a number here is to be defended in review."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = sorted([*(ROOT / "daemon").rglob("*.py"), *(ROOT / "fastpath").rglob("*.py")])
NATIVE = sorted((ROOT / "fastpath" / "quorumd_fastpath").glob("*.pyx"))
MAX_FILE_LINES = 520
MAX_FUNCTION_LINES = 62
# Larger for one reason each, said at the top of the file.
LARGER_FILES = {
    "transport.py": 540,
    "wire.pyx": 1080, "apply.pyx": 800, "ring.pyx": 680, "walframe.pyx": 655, "load.pyx": 900,
}
FORBIDDEN = {
    r"except\s*:": "a bare except",
    r"except( Exception)?:\s*pass": "a swallowed error",
    r"#\s*type:\s*ignore": "an unchecked type",
    r"\b(TODO|FIXME|XXX)\b": "a promise for later",
    r"^\s*assert\b": "assert is stripped by python -O: use invariant()",
    r"\bpickle\b": "pickle",
}


@pytest.mark.parametrize("path", [*PYTHON, *NATIVE], ids=lambda path: path.name)
def test_no_file_outgrows_its_room(path):
    limit = LARGER_FILES.get(path.name, MAX_FILE_LINES)
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.name)
def test_functions_fit_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path.name}:{node.lineno}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", [*PYTHON, *NATIVE], ids=lambda path: path.name)
def test_forbidden_smells(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        for pattern, what in FORBIDDEN.items():
            assert not re.search(pattern, line), f"{path.name}:{number}: {what}"


@pytest.mark.parametrize("path", NATIVE, ids=lambda path: path.stem)
def test_every_stub_tells_the_truth(path):
    module = importlib.import_module(f"quorumd_fastpath.{path.stem}")
    for node in ast.parse(path.with_suffix(".pyi").read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            assert hasattr(module, node.name), f"{path.stem}.{node.name}"
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    assert hasattr(getattr(module, node.name), member.name), f"{path.stem}.{node.name}.{member.name}"


def test_every_public_thing_is_described():
    for path in PYTHON:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path}: no module docstring"
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}:{node.lineno}: {node.name}"
