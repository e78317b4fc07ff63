"""Each test of a *_paper.py names a sentence of a paper, each of a *_rules.py the place where the engine's rule is."""

import ast
import re
from pathlib import Path

import pytest

from quorumd.types import ENGINES

HERE = Path(__file__).parent
CONSENSUS = HERE.parents[1] / "daemon" / "quorumd" / "consensus"
SENTENCE = {
    "raft": r"Thesis (figure )?\d+(\.\d+)+[:,] \S",
    "paxos": r"(PMS|PMMC) \d(\.\d)?[:,] \S|FPaxos, \S",
}
RULE = r'DIVERGENCE\.md, "(?P<paragraph>[^"]+)": \S|(?P<module>\w+\.py), `(?P<what>\w+)`: \S'


def docstrings_of(name):
    """(test, docstring) of a file of this directory."""
    body = ast.parse((HERE / name).read_text()).body
    found = [node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return [(node.name, ast.get_docstring(node) or "") for node in found]


def is_written(engine, rule):
    """Whether DIVERGENCE.md has a paragraph that begins so, or the module defines such a thing."""
    if rule["paragraph"]:
        text = " ".join((CONSENSUS / engine / "DIVERGENCE.md").read_text().split())
        return f"**{rule['paragraph']}" in text or f"## {rule['paragraph']} " in text
    files = [path for path in (CONSENSUS / engine / rule["module"], CONSENSUS / rule["module"]) if path.is_file()]
    defined = rf"^ *(def|class) {rule['what']}\b|^{rule['what']}\b"
    return any(re.search(defined, path.read_text(), re.MULTILINE) for path in files)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_test_of_a_paper_names_its_sentence(engine):
    tests = docstrings_of(f"test_{engine}_paper.py")
    assert tests
    assert [test for test, said in tests if not re.match(SENTENCE[engine], said)] == []


@pytest.mark.parametrize("engine", ENGINES)
def test_each_test_of_a_rule_names_where_it_is_written(engine):
    tests = docstrings_of(f"test_{engine}_rules.py")
    assert tests
    rules = [(test, re.match(RULE, said)) for test, said in tests]
    assert [test for test, rule in rules if rule is None or not is_written(engine, rule)] == []
