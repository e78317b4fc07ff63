"""A World is megabytes of native memory in a reference cycle, which Python's collector weighs as a few objects."""

import gc

import pytest


@pytest.fixture(autouse=True)
def free_worlds():
    """Collects each test's worlds at its end, not when a machine's memory is full of them."""
    yield
    gc.collect()
