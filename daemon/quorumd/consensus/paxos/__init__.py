"""Multi-Paxos (Lamport, "Paxos Made Simple"; van Renesse & Altinbuken, "Paxos Made Moderately Complex"), sans-IO.

`engine.py` holds the Engine that `core.py` drives; DIVERGENCE.md says where it leaves the papers, and why.
"""

from quorumd.consensus.paxos.engine import Paxos, PaxosStatus
from quorumd.consensus.paxos.state import PaxosConfig

__all__ = ["Paxos", "PaxosConfig", "PaxosStatus"]
