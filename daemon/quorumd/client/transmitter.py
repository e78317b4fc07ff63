"""Sends admitted operations to one node, packed, and decides when each is to be sent again. Sans-IO."""

from collections.abc import Iterable

from quorumd.client.channel import Channel
from quorumd.client.ledger import Ledger
from quorumd.client.operation import Operation, Plane
from quorumd.client.routing import SocketAddress
from quorumd.commands import encode_record
from quorumd.limits import CLIENT_FIRST_RETRY, CLIENT_FRAGMENTED_RETRY, CLIENT_MAX_RETRY, ENTRY_HEADER_BYTES
from quorumd.types import Nanoseconds, NodeId


class Transmitter:
    """Every operation it is given keeps a timer in the ledger: for its next transmission, or its deadline."""

    def __init__(self, channel: Channel, ledger: Ledger) -> None:
        self._channel = channel
        self._ledger = ledger
        self._round_trip: Nanoseconds = 0  # smoothed, of operations sent once

    def measured(self, operation: Operation, now: Nanoseconds) -> None:
        """An answer came; it tells a round trip only if there was one transmission (Karn)."""
        if operation.transmissions == 1:
            sample = now - operation.sent_at
            self._round_trip = (7 * self._round_trip + sample) // 8 if self._round_trip else sample

    def records(
        self, batch: Iterable[Operation], below: int, node: NodeId, address: SocketAddress, now: Nanoseconds
    ) -> None:
        """Sends these operations' records, large ones in fragments. below: the session's answered_below."""
        channel = self._channel
        first_retry = min(max(CLIENT_FIRST_RETRY, 4 * self._round_trip), CLIENT_MAX_RETRY)
        records: list[bytes] = []
        for operation in batch:
            large = ENTRY_HEADER_BYTES + len(operation.command) > channel.room
            if large and operation.asked == node and channel.under_way(address, operation.message_id):
                self._look_again(operation, now)
                continue
            record = encode_record(
                operation.kind,
                operation.session,
                operation.seq,
                below if operation.plane is Plane.WRITE else 0,
                operation.command,
            )
            if not large:
                records.append(record)
                self._sent(operation, node, now, first_retry)
                continue
            message_id = channel.send_large(address, record, now)
            if message_id is None:
                self._look_again(operation, now)
            else:
                operation.message_id = message_id
                self._sent(operation, node, now, CLIENT_FRAGMENTED_RETRY)
        channel.send_records(address, records)

    def control(self, operation: Operation, node: NodeId, address: SocketAddress, now: Nanoseconds) -> None:
        """Sends a frame of its own; the reply echoes the operation's seq as its index."""
        self._channel.send(address, operation.kind, term=operation.term, index=operation.seq, payload=operation.command)
        self._sent(operation, node, now, CLIENT_FIRST_RETRY)

    def _look_again(self, operation: Operation, now: Nanoseconds) -> None:
        """Its fragments are still under way, or others before it are: nothing is to be sent for now."""
        operation.queued = False
        self._ledger.set_timer(operation, now + CLIENT_FRAGMENTED_RETRY)

    def _sent(self, operation: Operation, node: NodeId, now: Nanoseconds, first_retry: Nanoseconds) -> None:
        operation.queued = False
        if not operation.transmissions or operation.asked != node:
            operation.retry_after = first_retry
        else:
            operation.retry_after = min(2 * operation.retry_after, max(CLIENT_MAX_RETRY, first_retry))
        operation.transmitted(node, now)
        self._ledger.set_timer(operation, now + operation.retry_after)
