"""What a user of the contract may rely on, whichever engine is behind it."""

import pytest
from cluster import CONFIG, MS, Chaos, Cluster, Node
from paxoscluster import PaxosNode

from quorumd.consensus.engine import Durable, Propose, ReadIndex, Role, Stalled, Tick, TransferLeadership
from quorumd.invariants import InvariantBroken

T_MS = CONFIG.election_timeout_ns // MS
H_MS = CONFIG.heartbeat_ns // MS


@pytest.fixture(params=[Node, PaxosNode], ids=["raft", "paxos"])
def kind(request):
    return request.param


@pytest.fixture
def trio(kind):
    """Three nodes; node 1 leads, and everybody knows what is committed."""
    cluster = Cluster(3, node=kind)
    cluster.elect(1)
    cluster.advance(H_MS)
    return cluster


def values(node):
    """What a node has applied."""
    log = node.log if isinstance(node.log, dict) else dict(enumerate(node.log, 1))
    return [log[index][1] for index in range(1, node.applied + 1)]


def proposed(node):
    return [value for value in values(node) if not str(value).startswith("noop")]


def events(node):
    return [event for event in node.events if event != "stalled"]


# -- elections --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
def test_a_cluster_of_each_size_elects_one_leader_and_commits_everywhere(kind, size):
    cluster = Cluster(size, node=kind)
    cluster.advance(4 * T_MS)
    leader = cluster.leader
    assert [n.id for n in cluster.nodes.values() if n.engine.role == Role.LEADER] == [leader.id]
    leader.propose("a", "b")
    cluster.advance(2 * H_MS)
    assert all(proposed(node) == ["a", "b"] for node in cluster.nodes.values())
    assert all(node.engine.leader == leader.id for node in cluster.nodes.values())


def test_a_leader_that_dies_is_replaced_and_nothing_committed_is_lost(trio):
    trio.leader.propose("a")
    trio.settle()
    trio.nodes[1].crash()
    trio.advance(4 * T_MS)
    leader = trio.leader
    assert leader.id != 1
    leader.propose("b")
    trio.nodes[1].start()
    trio.advance(4 * H_MS)
    assert all(proposed(node) == ["a", "b"] for node in trio.nodes.values())


def test_without_a_quorum_no_term_is_raised(trio):
    term = trio.leader.engine.term
    trio.isolate(3)
    trio.advance(10 * T_MS)
    assert trio.nodes[3].engine.term == term
    assert trio.nodes[3].engine.role in (Role.PRE_CANDIDATE, Role.FOLLOWER)
    trio.heal()
    trio.advance(2 * T_MS)
    assert trio.leader.id == 1
    assert trio.leader.engine.term == term, "and its return disturbs nobody"


def test_a_leader_cut_off_from_its_quorum_steps_down(trio):
    trio.isolate(1)
    trio.advance(3 * T_MS)
    assert trio.nodes[1].engine.role != Role.LEADER
    assert trio.leader.id in (2, 3)


def test_a_minority_commits_nothing_and_what_it_took_gives_way(trio):
    trio.isolate(1)
    trio.nodes[1].propose("lost")
    trio.advance(4 * T_MS)
    trio.leader.propose("kept")
    trio.settle()
    assert proposed(trio.nodes[1]) == []
    trio.heal()
    trio.advance(2 * T_MS)
    assert all(proposed(node) == ["kept"] for node in trio.nodes.values())


def test_what_a_node_promised_it_keeps_after_a_restart(trio):
    for _ in range(3):
        trio.nodes[2].crash()
        trio.nodes[2].start()
        assert trio.nodes[2].engine.term == trio.nodes[1].engine.term
        trio.advance(H_MS)
    terms = [trio.elect(node).engine.term for node in (2, 3, 1)]
    assert terms == sorted(set(terms))
    for node in trio.nodes.values():
        node.crash()
    for node in trio.nodes.values():
        node.start()
    trio.advance(4 * T_MS)
    assert trio.leader.engine.term > terms[-1], "no term or ballot is used twice"


def test_candidates_who_split_the_votes_do_not_do_so_for_ever(kind):
    for seed in range(10):
        cluster = Cluster(5, seed, node=kind)
        for node in cluster.nodes.values():
            node.engine.step(Tick(2 * T_MS * MS))  # everybody's timer runs out at once
        cluster.now = 2 * T_MS * MS
        cluster.advance(12 * T_MS)
        assert cluster.leader is not None


def test_a_stall_is_no_reason_to_depose_or_to_campaign(trio):
    trio.now += 5 * T_MS * MS
    for node in trio.nodes.values():
        node.engine.step(Stalled(trio.now))
    trio.settle()
    assert trio.leader.id == 1
    trio.advance(2 * T_MS)
    assert trio.leader.id == 1
    assert "lost-leadership" not in events(trio.nodes[1])


# -- the log ----------------------------------------------------------------------------------------------------


def test_nothing_is_committed_before_a_quorum_has_it_on_disk(trio):
    trio.auto_durable = False
    leader = trio.nodes[1]
    leader.propose("a")
    trio.settle()
    before = leader.engine.commit
    assert leader.pending
    for node in (2, 3):
        assert trio.nodes[node].pending, "it arrived there"
    trio.nodes[2].durable(trio.nodes[2].pending[-1][0])
    trio.settle()
    assert leader.engine.commit == before, "one disk of three"
    leader.durable(leader.pending[-1][0])
    trio.settle()
    assert proposed(leader) == ["a"]


def test_a_follower_that_was_away_catches_up(trio):
    trio.isolate(3)
    for batch in range(30):
        trio.nodes[1].propose(*(f"{batch}.{i}" for i in range(10)))
        trio.settle()
    trio.heal()
    trio.advance(20 * H_MS)
    assert len(proposed(trio.nodes[3])) == 300
    assert values(trio.nodes[3]) == values(trio.nodes[1])


def test_reordering_and_duplicates_change_nothing(trio):
    leader = trio.nodes[1]
    for name in "abcdef":
        leader.propose(name)
        leader.turn()
    backwards = [m for m in reversed(trio.wire) for _ in range(2)]
    trio.wire.clear()
    trio.wire.extend(backwards)
    trio.settle()
    trio.advance(2 * H_MS)
    assert all(proposed(node) == list("abcdef") for node in trio.nodes.values())


def test_a_lost_message_is_sent_again_without_an_election(trio):
    leader = trio.nodes[1]
    for name in "abc":
        leader.propose(name)
        leader.turn()
        if name == "b":
            trio.wire.clear()
    trio.settle()
    trio.advance(4 * H_MS)
    assert all(proposed(node) == list("abc") for node in trio.nodes.values())
    assert trio.leader.id == 1


def test_a_new_leader_finds_what_its_predecessor_left_half_done(kind):
    """Whoever leads next: what only some have may or may not survive, but the same on all."""
    for heir in (2, 3):
        for keep in ({2}, {3}, set(), {2, 3}):
            cluster = Cluster(3, node=kind)
            cluster.elect(1)
            cluster.advance(H_MS)
            cluster.nodes[1].propose("a")
            cluster.nodes[1].turn()
            cluster.cut = {(1, node) for node in {2, 3} - keep}
            cluster.settle()
            cluster.nodes[1].crash()
            cluster.heal()
            cluster.advance(3 * T_MS)
            cluster.elect(heir)
            cluster.nodes[heir].propose("b")
            cluster.advance(4 * H_MS)
            cluster.nodes[1].start()
            cluster.advance(8 * H_MS)
            seen = {tuple(proposed(node)) for node in cluster.nodes.values()}
            assert seen == {("a", "b")} if keep else seen <= {("b",), ("a", "b")}
            assert len(seen) == 1


def test_restarts_hand_out_what_was_committed_and_not_applied(trio):
    trio.nodes[1].propose("a", "b")
    trio.advance(2 * H_MS)
    for node in trio.nodes.values():
        node.crash()
        node.start()
    trio.advance(4 * T_MS)
    assert all(proposed(node) == ["a", "b"] for node in trio.nodes.values())


def test_only_a_leader_takes_proposals(trio):
    assert [node.engine.accepts_proposals for node in trio.nodes.values()] == [True, False, False]
    with pytest.raises(InvariantBroken):
        trio.nodes[2].engine.step(Propose(1, 1))
    with pytest.raises(InvariantBroken):
        trio.nodes[2].engine.step(Durable(1 << 40))


# -- reads ------------------------------------------------------------------------------------------------------


def test_a_read_is_answered_after_a_quorum_spoke(trio):
    trio.nodes[1].propose("a")
    trio.settle()
    trio.nodes[1].step(ReadIndex(7))
    trio.nodes[1].turn()
    assert 7 not in trio.nodes[1].reads
    trio.settle()
    assert trio.nodes[1].reads[7] >= trio.nodes[1].engine.commit


def test_reads_of_a_leader_that_was_replaced_fail(trio):
    trio.isolate(1)
    trio.advance(T_MS // 2)
    trio.nodes[1].step(ReadIndex(7))
    trio.advance(4 * T_MS)
    assert trio.nodes[1].reads == {}
    assert trio.nodes[1].reads_failed == [7]


def test_reads_elsewhere_fail_at_once(trio):
    trio.nodes[2].step(ReadIndex(7))
    trio.nodes[2].turn()
    assert trio.nodes[2].reads_failed == [7]


def test_a_new_leader_reads_nothing_stale(trio):
    trio.nodes[1].propose("a")
    trio.settle()
    committed = trio.nodes[1].engine.commit
    trio.nodes[1].crash()
    trio.advance(4 * T_MS)
    trio.leader.step(ReadIndex(7))
    trio.settle()
    assert trio.leader.reads[7] > committed


# -- transfer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [2, 3, 0])
def test_leadership_is_handed_over_at_once(trio, to):
    trio.nodes[1].propose("a")
    trio.settle()
    trio.nodes[1].step(TransferLeadership(to))
    assert not trio.nodes[1].engine.accepts_proposals
    trio.settle()
    assert trio.leader.id == to or (to == 0 and trio.leader.id != 1)
    assert trio.nodes[1].engine.role == Role.FOLLOWER
    trio.advance(2 * H_MS)
    assert all(proposed(node) == ["a"] for node in trio.nodes.values())


def test_a_transfer_to_a_dead_node_is_given_up(trio):
    trio.nodes[2].crash()
    trio.nodes[1].propose("a")
    trio.nodes[1].step(TransferLeadership(2))
    trio.advance(T_MS + H_MS)
    assert "transfer-aborted" in events(trio.nodes[1])
    assert trio.leader.id == 1
    assert trio.leader.engine.accepts_proposals


@pytest.mark.parametrize("to", [1, 9])
def test_a_transfer_to_nobody_sensible_is_refused(trio, to):
    trio.nodes[1].step(TransferLeadership(to))
    trio.settle()
    assert "transfer-refused" in events(trio.nodes[1])
    assert trio.leader.id == 1


# -- the contract -------------------------------------------------------------------------------------------------


def test_nothing_to_do_is_no_ready(trio):
    assert all(node.engine.ready() is None for node in trio.nodes.values())


def test_a_leader_at_rest_need_not_listen_before_the_quorum_is_checked(trio):
    trio.advance(2 * H_MS)
    leader = trio.nodes[1].engine
    assert trio.now < leader.hears_at <= trio.now + T_MS * MS
    trio.nodes[1].propose("a")
    assert leader.hears_at == 0
    assert trio.nodes[2].engine.hears_at == 0


def test_it_does_not_tick_for_nothing(trio):
    trio.advance(2 * H_MS)
    for node in trio.nodes.values():
        assert node.engine.deadline() >= trio.now + MS


def test_term_zero_stands_before_the_log(trio):
    engine = trio.nodes[1].engine
    assert engine.term_at(0) == 0
    assert engine.term_at(engine.last) == engine.term
    assert engine.term_at(engine.last + 1) is None


def test_strangers_and_misdirected_messages_are_ignored(trio):
    trio.nodes[1].propose("a")
    trio.nodes[1].turn()
    message = trio.wire.popleft()
    engine = trio.nodes[message.to].engine
    last = engine.last
    engine.step(message._replace(sender=9))
    engine.step(message._replace(to=message.sender))
    assert engine.ready() is None
    assert engine.last == last


def test_the_same_inputs_give_the_same_outputs(kind):
    def run():
        cluster = Chaos(5, 3, node=kind)
        cluster.run(400)
        return [node.engine.status() for node in cluster.nodes.values()], cluster.checker.committed

    assert run() == run()
