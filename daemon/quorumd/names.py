"""Names of peers, looked up again while a peer is silent: it may have come back under another address, or its name may
have had none when this node started.

A look-up can block for many seconds, so it happens in a thread of its own, which lives as long as that and touches
nothing but what it hands back; the loop takes it up at the start of a turn, and alone speaks to the transport and the
log. While every peer is heard of there are neither look-ups nor threads, and for numeric addresses there never are.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from quorumd import limits
from quorumd.endpoint import Endpoint
from quorumd.transport import NEVER, Transport
from quorumd.types import Address, Nanoseconds, NodeId
from quorumd_fastpath.udp import pack_addr, unpack_addr

UNRESOLVED: Final[Address] = pack_addr("127.0.0.1", 9)  # the discard port: a peer whose name does not resolve yet

LookUp: TypeAlias = Callable[[Endpoint, int], Address | None]
Run: TypeAlias = Callable[[Callable[[], None]], None]


def look_up(endpoint: Endpoint, family: int) -> Address | None:
    """The raw address of an endpoint, or None while its name has none of that family, which is the socket's."""
    try:
        return pack_addr(endpoint.resolve(family), endpoint.port)
    except (OSError, ValueError):  # a link-local address with a zone is no address to us
        return None


def in_background(work: Callable[[], None]) -> None:
    """Raises RuntimeError if there can be no further thread."""
    threading.Thread(target=work, name="quorumd-resolver", daemon=True).start()


def text_of(address: Address) -> str | None:
    """As the event log shows it."""
    return None if address == UNRESOLVED else str(Endpoint(*unpack_addr(address)))


class Names:
    """endpoints: of the other members. own: this node's address. silence: after which a peer's name is asked for."""

    def __init__(
        self,
        endpoints: Mapping[NodeId, Endpoint],
        own: Address,
        family: int,
        silence: Nanoseconds,
        log_event: Callable[..., None],
        *,
        look_up: LookUp = look_up,
        run: Run = in_background,
    ) -> None:
        self._endpoints = {node: endpoint for node, endpoint in endpoints.items() if endpoint.family is None}
        self._own = own
        self._family = family
        self._silence = silence
        self._log_event = log_event
        self._look_up = look_up
        self._run = run
        self._found: list[tuple[NodeId, Address | None]] = []
        self._under_way = False
        self._said: dict[tuple[str, NodeId], Nanoseconds] = {}
        self.due: Nanoseconds = NEVER
        """When turn() has something to do. NEVER while a look-up is under way, whose end sets it to 0."""

    def begin(self, now: Nanoseconds) -> None:
        """The names were looked up just now."""
        if self._endpoints:
            self.due = now + limits.PEER_LOOK_UP_EVERY

    def turn(self, transport: Transport, now: Nanoseconds) -> None:
        """Takes up what was found; or has the names of silent peers looked up. After the peers' datagrams were read."""
        self.due = now + limits.PEER_LOOK_UP_EVERY
        if self._under_way:
            found, self._found, self._under_way = self._found, [], False
            self._take(transport, found, now)
            return
        peers, since = transport.peers, now - self._silence
        silent = [(node, endpoint) for node, endpoint in self._endpoints.items() if peers[node].heard_at < since]
        if not silent:
            return
        again, self.due, self._under_way = self.due, NEVER, True
        try:
            self._run(lambda: self._find(silent))
        except RuntimeError:  # no room for a thread
            self.due, self._under_way = again, False

    def _find(self, wanted: list[tuple[NodeId, Endpoint]]) -> None:
        try:
            self._found = [(node, self._look_up(endpoint, self._family)) for node, endpoint in wanted]
        finally:
            self.due = 0  # the last thing: the loop looks at nothing else

    def _take(self, transport: Transport, found: list[tuple[NodeId, Address | None]], now: Nanoseconds) -> None:
        before = {node: transport.peers[node].address for node, _ in found}
        changed = {node: address for node, address in found if address is not None and address != before[node]}
        for node, address in changed.items():
            transport.readdress(node, address)
        for node, address in changed.items():
            # Taken all the same: frames name their receiver, and two members may have changed places.
            sharing = [peer.node for peer in transport.peers.values() if peer.node != node and peer.address == address]
            if address == self._own:
                sharing.append(transport.identity.node)
            detail: dict[str, Any] = {"from": text_of(before[node]), "to": text_of(address)}
            if sharing:
                detail |= {"level": "warning", "shared_with": sharing}
            self._say("peer_address", node, now, **detail)
        for node, none in found:
            if none is None:
                self._say("peer_unresolved", node, now, level="warning", host=self._endpoints[node].host)

    def _say(self, what: str, node: NodeId, now: Nanoseconds, **detail: object) -> None:
        """Not more often than PEER_NAME_SAID_EVERY: a name may show another address at every look."""
        last = self._said.get((what, node))
        if last is None or now - last >= limits.PEER_NAME_SAID_EVERY:
            self._said[what, node] = now
            self._log_event(what, peer=node, **detail)
