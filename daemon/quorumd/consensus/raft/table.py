"""Which function takes which input in which role. Peer messages come here only in the node's own term (`admit`).

                      follower            pre-candidate       candidate            leader
  RequestVote         on_request_vote     on_request_vote     on_request_vote      ..._leading (refuses)
  RequestVoteReply    -                   on_pre_vote_reply   on_vote_reply        -
  AppendEntries       on_append           on_leader_found     on_leader_found      on_other_leader
  AppendEntriesReply  -                   -                   -                    on_append_reply
  Heartbeat           on_heartbeat        on_leader_found     on_leader_found      on_other_leader
  HeartbeatReply      -                   -                   -                    on_heartbeat_reply
  TimeoutNow          on_timeout_now      on_timeout_now      -                    -
  Tick, Stalled       on_tick, on_stalled in every role
  Propose             forbidden           forbidden           forbidden            on_propose
  ReadIndex           ..._elsewhere       ..._elsewhere       ..._elsewhere        on_read_index
  Durable             on_durable          on_durable          ..._candidate        ..._leader
  TransferLeadership  ..._elsewhere       ..._elsewhere       ..._elsewhere        on_transfer

"-" is a late answer to a question of an earlier role: void. "forbidden" is a defect of the core.
"""

from collections.abc import Mapping

from quorumd.consensus import handover
from quorumd.consensus.base import Handler, Table, forbidden, on_read_index, on_read_index_elsewhere, void
from quorumd.consensus.engine import Durable, Propose, ReadIndex, Role, Stalled, Tick, TransferLeadership
from quorumd.consensus.messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from quorumd.consensus.raft import clock, election, following, replication, transfer

PEER_MESSAGES = frozenset(
    (RequestVote, RequestVoteReply, AppendEntries, AppendEntriesReply, Heartbeat, HeartbeatReply, TimeoutNow)
)


def _row(**own: Handler) -> Mapping[type, Handler]:
    common: dict[type, Handler] = {Tick: clock.on_tick, Stalled: clock.on_stalled}
    names = {kind.__name__: kind for kind in (*PEER_MESSAGES, Propose, ReadIndex, Durable, TransferLeadership)}
    return common | {names[name]: handler for name, handler in own.items()}


TABLE: Table = {
    Role.FOLLOWER: _row(
        RequestVote=election.on_request_vote,
        RequestVoteReply=void,
        AppendEntries=following.on_append,
        AppendEntriesReply=void,
        Heartbeat=following.on_heartbeat,
        HeartbeatReply=void,
        TimeoutNow=transfer.on_timeout_now,
        Propose=forbidden,
        ReadIndex=on_read_index_elsewhere,
        Durable=election.on_durable,
        TransferLeadership=handover.on_transfer_elsewhere,
    ),
    Role.PRE_CANDIDATE: _row(
        RequestVote=election.on_request_vote,
        RequestVoteReply=election.on_pre_vote_reply,
        AppendEntries=following.on_leader_found,
        AppendEntriesReply=void,
        Heartbeat=following.on_leader_found,
        HeartbeatReply=void,
        TimeoutNow=transfer.on_timeout_now,
        Propose=forbidden,
        ReadIndex=on_read_index_elsewhere,
        Durable=election.on_durable,
        TransferLeadership=handover.on_transfer_elsewhere,
    ),
    Role.CANDIDATE: _row(
        RequestVote=election.on_request_vote,
        RequestVoteReply=election.on_vote_reply,
        AppendEntries=following.on_leader_found,
        AppendEntriesReply=void,
        Heartbeat=following.on_leader_found,
        HeartbeatReply=void,
        TimeoutNow=void,
        Propose=forbidden,
        ReadIndex=on_read_index_elsewhere,
        Durable=election.on_durable_candidate,
        TransferLeadership=handover.on_transfer_elsewhere,
    ),
    Role.LEADER: _row(
        RequestVote=election.on_request_vote_leading,
        RequestVoteReply=void,
        AppendEntries=replication.on_other_leader,
        AppendEntriesReply=replication.on_append_reply,
        Heartbeat=replication.on_other_leader,
        HeartbeatReply=replication.on_heartbeat_reply,
        TimeoutNow=void,
        Propose=replication.on_propose,
        ReadIndex=on_read_index,
        Durable=replication.on_durable_leader,
        TransferLeadership=handover.on_transfer,
    ),
}
