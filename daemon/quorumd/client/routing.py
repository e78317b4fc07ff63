"""Which node to ask: the addresses known, who is believed to lead, and the search for a leader. Sans-IO.

Beliefs come from hello replies (a node's term and whom it takes for the leader) and from the hints in NOT_LEADER. A
leader that fell silent is doubted: nothing more is sent to it until it claims the leadership itself, or a newer term
is heard of. Wrong beliefs cost time, never correctness: any node may be asked, and says so if it does not lead.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeAlias

from quorumd.limits import (
    CLIENT_LOOK_UP_AGAIN,
    CLIENT_REDIRECTS,
    CLIENT_SEARCH,
    CLIENT_SEARCH_EARLY,
    CLIENT_SEARCH_IDLE,
    CLIENT_SEARCH_MAX,
    CLIENT_SUSPENDED_AFTER,
)
from quorumd.types import NOBODY, Nanoseconds, NodeId, Term

SocketAddress: TypeAlias = Hashable
"""Whatever the IO layer sends to and receives from."""
Resolve: TypeAlias = Callable[[str], SocketAddress | None]
"""Address of "host:port"; None for a name, which is then one of Router.wanted. Raises ValueError for nonsense."""


class Router:
    """Addresses, leader, search. `endpoints` are "host:port", at least one."""

    def __init__(self, endpoints: Sequence[str], resolve: Resolve) -> None:
        self._resolve = resolve
        self._addresses: dict[str, SocketAddress | None] = {}
        self._endpoints = list(dict.fromkeys(endpoints))
        self._members: dict[NodeId, str] = {}
        self._proven: dict[NodeId, SocketAddress] = {}  # where a node answered from
        self.wanted: set[str] = set()
        """Names to be looked up."""
        self._looked_up: set[str] = set()  # taken and not resolved yet: a look-up may take longer than a search
        self.leader: NodeId = NOBODY
        self.term: Term = 0
        self.doubted = True
        """The leader, if there is one, fell silent or stepped down."""
        self.searching_since: Nanoseconds | None = None
        self.probe_at: Nanoseconds = 0
        self._probe_every: Nanoseconds = CLIENT_SEARCH
        self._redirects = 0
        self._looked_up_at: Nanoseconds = 0
        for text in self._endpoints:
            self._add(text)

    # -- addresses ----------------------------------------------------------------------------------------------

    def _add(self, text: str) -> None:
        if text in self._addresses:
            return
        self._addresses[text] = self._resolve(text)
        if self._addresses[text] is None:
            self.wanted.add(text)

    def take_wanted(self) -> set[str]:
        """Names for the IO layer to look up, each of which then ends in resolved(); none is looked up twice at once."""
        taken, self.wanted = self.wanted - self._looked_up, set()
        self._looked_up |= taken
        return taken

    def resolved(self, text: str, address: SocketAddress | None) -> None:
        """The outcome of looking up a name; None: it has no address now."""
        self._looked_up.discard(text)
        if text in self._addresses:
            self._addresses[text] = address or self._addresses[text]

    def address_of(self, target: NodeId | str) -> SocketAddress | None:
        """Where to send for a node id or a "host:port"; None while it is not known."""
        if isinstance(target, str):
            self._add(target)
            return self._addresses[target]
        return self._proven.get(target) or self._addresses.get(self._members.get(target, ""))

    def everyone(self) -> list[SocketAddress]:
        """Every address known, each once."""
        texts = (self._addresses.get(text) for text in (*self._endpoints, *self._members.values()))
        return [address for address in dict.fromkeys((*self._proven.values(), *texts)) if address is not None]

    def any_node(self, turn: int) -> tuple[NodeId, SocketAddress] | None:
        """One of the nodes that have answered, a different one each `turn`."""
        if not self._proven:
            return None
        node = sorted(self._proven)[turn % len(self._proven)]
        return node, self._proven[node]

    def members(self) -> dict[NodeId, str]:
        """Node id -> "host:port" of its client address, as the cluster says."""
        return dict(self._members)

    def answered(self, node: NodeId, address: SocketAddress, members: Mapping[NodeId, str]) -> None:
        """`node` answered a hello from `address`."""
        self._proven[node] = address
        for member, text in members.items():
            try:
                self._add(text)
            except ValueError:
                continue  # an address only the cluster can read; the node may still answer from one that we know
            self._members[member] = text

    # -- the leader ---------------------------------------------------------------------------------------------

    def target(self) -> tuple[NodeId, SocketAddress] | None:
        """The leader and its address, or None while there is none to ask."""
        if self.doubted or not self.leader:
            return None
        address = self.address_of(self.leader)
        return None if address is None else (self.leader, address)

    def claimed(self, claimant: NodeId, leader: NodeId, term: Term) -> bool:
        """`claimant` takes `leader` for the leader of `term`; whether this changed whom to ask."""
        if not leader or term < self.term:
            return False
        if term == self.term and leader != claimant and (self.doubted or self.leader):
            return False  # no news: only the leader itself can clear a doubt
        changed = self.doubted or leader != self.leader
        self.leader, self.term, self.doubted = leader, term, False
        self._found()
        return changed

    def hinted(self, node: NodeId, leader: NodeId, text: str, now: Nanoseconds) -> bool:
        """`node` refused with NOT_LEADER and this hint (0: it knows none); whether this changed whom to ask."""
        if leader and text and leader not in self._proven:
            self.answered_hint(leader, text)
        if node != self.leader and not self.doubted:
            return False  # somebody else was asked meanwhile
        self._redirects += 1
        known = leader not in (NOBODY, node) and not (self.doubted and leader == self.leader)
        if not known or self._redirects > CLIENT_REDIRECTS or self.address_of(leader) is None:
            self.doubt(now, CLIENT_SEARCH)
            return False
        self.leader, self.doubted = leader, False
        self._found()
        return True

    def answered_hint(self, node: NodeId, text: str) -> None:
        """A hint names a node's address."""
        try:
            self._add(text)
        except ValueError:
            return
        self._members[node] = text

    def heard_ok(self) -> None:
        """The leader executed something: whatever happened to the hints before, they led here."""
        self._redirects = 0

    def doubt(self, now: Nanoseconds, pause: Nanoseconds = 0) -> None:
        """The leader fell silent, or says that it is none: ask everyone, first after `pause`."""
        self.doubted = True
        if self.searching_since is None:
            self.searching_since = now
            self._probe_every = CLIENT_SEARCH
            self.probe_at = now + pause
            self._looked_up_at = now

    def _found(self) -> None:
        self.searching_since = None

    def probe(self, now: Nanoseconds, idle: bool) -> list[SocketAddress]:
        """Whom to send a hello now. `idle`: nothing waits for the answer."""
        if self.searching_since is None or now < self.probe_at:
            return []
        self.probe_at = now + self._probe_every
        early = now - self.searching_since < CLIENT_SUSPENDED_AFTER
        limit = CLIENT_SEARCH_IDLE if idle else CLIENT_SEARCH_EARLY if early else CLIENT_SEARCH_MAX
        self._probe_every = min(self._probe_every * 3 // 2, limit)
        if now - self._looked_up_at >= CLIENT_LOOK_UP_AGAIN:
            self._looked_up_at = now
            self.wanted.update(text for text in self._addresses if self._resolve(text) is None)
        return self.everyone()

    def hurry(self, now: Nanoseconds) -> None:
        """Something new waits: do not sit out a pause that grew while nothing did."""
        if self.searching_since is not None and self.probe_at > now + CLIENT_SEARCH_MAX:
            self._probe_every = CLIENT_SEARCH
            self.probe_at = now
