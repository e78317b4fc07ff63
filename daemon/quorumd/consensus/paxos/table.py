"""Which function takes which input in which role. Peer messages come here in the promised ballot; others that `admit`
(detector.py) lets pass are questions and facts that do not depend on it.

                      follower            pre-candidate       candidate            leader
  Prepare             on_prepare in every role
  Promise             -                   on_pre_promise      on_promise           -
  Accept              on_accept           on_leader_found     on_other_leader      on_other_leader
  Accepted            -                   -                   -                    on_accepted
  Refused             -                   -                   -                    -
  Fetch, Values       on_fetch, on_values in every role
  Heartbeat           on_heartbeat        on_leader_found     on_other_leader      on_other_leader
  HeartbeatReply      -                   -                   -                    on_heartbeat_reply
  TimeoutNow          on_timeout_now      on_timeout_now      -                    -
  Tick, Stalled       on_tick, on_stalled in every role
  Propose             forbidden           forbidden           forbidden            on_propose
  ReadIndex           ..._elsewhere       ..._elsewhere       ..._elsewhere        on_read_index
  Durable             on_durable          on_durable          ..._candidate        ..._leader
  TransferLeadership  ..._elsewhere       ..._elsewhere       ..._elsewhere        on_transfer

"-" is a late answer to a question of an earlier role: void. A Refused, or a refused Promise, of a higher ballot is
`admit`'s. "forbidden" is a defect of the core.
"""

from collections.abc import Mapping

from quorumd.consensus import handover
from quorumd.consensus.base import Handler, Table, forbidden, on_read_index, on_read_index_elsewhere, void
from quorumd.consensus.engine import Durable, Propose, ReadIndex, Role, Stalled, Tick, TransferLeadership
from quorumd.consensus.messages import Heartbeat, HeartbeatReply, TimeoutNow
from quorumd.consensus.paxos import acceptor, clock, detector, learner, phase1, proposer, reads, transfer
from quorumd.consensus.paxos.messages import Accept, Accepted, Fetch, Prepare, Promise, Refused, Values

PEER_MESSAGES = frozenset(
    (Prepare, Promise, Accept, Accepted, Refused, Fetch, Values, Heartbeat, HeartbeatReply, TimeoutNow)
)


def _row(**own: Handler) -> Mapping[type, Handler]:
    row: dict[type, Handler] = {
        Tick: clock.on_tick,
        Stalled: clock.on_stalled,
        Prepare: acceptor.on_prepare,
        Fetch: learner.on_fetch,
        Values: learner.on_values,
        Refused: void,
    }
    names = {kind.__name__: kind for kind in (*PEER_MESSAGES, Propose, ReadIndex, Durable, TransferLeadership)}
    return row | {names[name]: handler for name, handler in own.items()}


TABLE: Table = {
    Role.FOLLOWER: _row(
        Promise=void,
        Accept=acceptor.on_accept,
        Accepted=void,
        Heartbeat=reads.on_heartbeat,
        HeartbeatReply=void,
        TimeoutNow=transfer.on_timeout_now,
        Propose=forbidden,
        ReadIndex=on_read_index_elsewhere,
        Durable=detector.on_durable,
        TransferLeadership=handover.on_transfer_elsewhere,
    ),
    Role.PRE_CANDIDATE: _row(
        Promise=phase1.on_pre_promise,
        Accept=detector.on_leader_found,
        Accepted=void,
        Heartbeat=detector.on_leader_found,
        HeartbeatReply=void,
        TimeoutNow=transfer.on_timeout_now,
        Propose=forbidden,
        ReadIndex=on_read_index_elsewhere,
        Durable=detector.on_durable,
        TransferLeadership=handover.on_transfer_elsewhere,
    ),
    Role.CANDIDATE: _row(
        Promise=phase1.on_promise,
        Accept=detector.on_other_leader,
        Accepted=void,
        Heartbeat=detector.on_other_leader,
        HeartbeatReply=void,
        TimeoutNow=void,
        Propose=forbidden,
        ReadIndex=on_read_index_elsewhere,
        Durable=phase1.on_durable_candidate,
        TransferLeadership=handover.on_transfer_elsewhere,
    ),
    Role.LEADER: _row(
        Promise=void,
        Accept=detector.on_other_leader,
        Accepted=proposer.on_accepted,
        Heartbeat=detector.on_other_leader,
        HeartbeatReply=proposer.on_heartbeat_reply,
        TimeoutNow=void,
        Propose=proposer.on_propose,
        ReadIndex=on_read_index,
        Durable=proposer.on_durable_leader,
        TransferLeadership=handover.on_transfer,
    ),
}
