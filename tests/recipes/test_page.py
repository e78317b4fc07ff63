"""Every example of RECIPES.md is run, in the order in which it stands there."""

import re
import threading
from pathlib import Path

import pytest
from recipe_fakes import AsyncFakeClient, FakeClient

import quorumd.client
import quorumd.recipes
from quorumd.recipes import aio

PAGE = Path(__file__).parent.parent.parent / "RECIPES.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


def run_examples(host="127.0.0.1"):
    names = {}
    for number, example in enumerate(EXAMPLES):
        exec(compile(example.replace("127.0.0.1", host), f"RECIPES.md, example {number + 1}", "exec"), names)


@pytest.fixture
def no_thread_left():
    threads = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= threads


def test_the_examples_on_the_model(monkeypatch, no_thread_left):
    monkeypatch.setattr(quorumd.client, "Client", FakeClient)
    monkeypatch.setattr(quorumd.client, "AsyncClient", AsyncFakeClient)
    run_examples()


def test_every_recipe_is_on_the_page():
    text = "".join(EXAMPLES)
    said = {"HeldItem": "hold(", "Leader": "leader", "Member": "members", "Token": "token"}
    for name in {*quorumd.recipes.__all__} - {"NotHeld", "SessionLost"}:  # which examples that work do not meet
        assert said.get(name, name) in text, name
    assert set(aio.__all__) <= set(quorumd.recipes.__all__)


def test_the_examples_on_a_cluster(cluster, no_thread_left):
    run_examples(cluster.host)
