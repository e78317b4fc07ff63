"""A fake cluster on real sockets, and a client of it."""

import pytest
from fakes import FakeCluster, Served

from quorumd.client import Client


@pytest.fixture
def served():
    with Served(FakeCluster()) as nodes:
        yield nodes


@pytest.fixture
def client(served):
    with Client.connect(served.endpoints) as connected:
        yield connected
