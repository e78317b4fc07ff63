"""Raft, sans-IO. `engine.py` holds the Engine that `core.py` drives; DIVERGENCE.md says where it leaves the thesis."""

from quorumd.consensus.raft.engine import Raft, RaftStatus
from quorumd.consensus.raft.state import RaftConfig

__all__ = ["Raft", "RaftConfig", "RaftStatus"]
