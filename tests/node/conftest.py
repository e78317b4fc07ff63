"""A World is megabytes of native memory in a reference cycle, which Python's collector weighs as a few objects."""

import gc

import pytest
import world

from quorumd.types import ENGINES


@pytest.fixture(autouse=True)
def free_worlds():
    """Collects each test's worlds at its end, not when a machine's memory is full of them."""
    yield
    gc.collect()


@pytest.fixture(params=ENGINES)
def either_engine(request, monkeypatch):
    """Runs a test once with each engine, if its worlds do not name one."""
    monkeypatch.setattr(world, "ENGINE", request.param)
