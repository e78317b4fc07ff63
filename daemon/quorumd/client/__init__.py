"""The client library: `Client` blocks, `AsyncClient` awaits; both speak the same protocol (protocol.py) over UDP."""

from quorumd.client.aio import AsyncClient
from quorumd.client.pipeline import Pipeline
from quorumd.client.states import State, StateListener
from quorumd.client.sync import Client
from quorumd.commands import (
    ALL,
    Compact,
    CompactResult,
    Compare,
    DeleteRange,
    DeleteResult,
    KeyValue,
    Put,
    PutResult,
    Range,
    RangeResult,
    Txn,
    TxnResult,
)

__all__ = [
    "ALL",
    "AsyncClient",
    "Client",
    "Compact",
    "CompactResult",
    "Compare",
    "DeleteRange",
    "DeleteResult",
    "KeyValue",
    "Pipeline",
    "Put",
    "PutResult",
    "Range",
    "RangeResult",
    "State",
    "StateListener",
    "Txn",
    "TxnResult",
]
