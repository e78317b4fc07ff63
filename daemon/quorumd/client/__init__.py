"""The client library: `Client` blocks, `AsyncClient` awaits; both speak the same protocol (protocol.py) over UDP."""

from quorumd.client.aio import AsyncClient
from quorumd.client.pipeline import Pipeline
from quorumd.client.states import State, StateListener
from quorumd.client.sync import Client
from quorumd.client.watcher import WatchBatch
from quorumd.client.watches import AsyncWatch, Watch
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
from quorumd.watchcodec import Event

__all__ = [
    "ALL",
    "AsyncClient",
    "AsyncWatch",
    "Client",
    "Compact",
    "CompactResult",
    "Compare",
    "DeleteRange",
    "DeleteResult",
    "Event",
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
    "Watch",
    "WatchBatch",
]
