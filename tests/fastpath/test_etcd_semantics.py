"""Each of etcd's rules for range, put, delete, txn, compact and lease, once, in the words of its documentation and code
(api/etcdserverpb/rpc.proto, server/etcdserver/apply, server/storage/mvcc). Where ours differ, the test says so."""

import pytest
from test_apply import Driver

from quorumd import limits
from quorumd.commands import (
    ALL,
    Compact,
    Compare,
    DeleteRange,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseList,
    LeaseRevoke,
    LeaseTimeToLive,
    Put,
    Range,
    Status,
    Txn,
    decode,
    encode,
)

SECOND = limits.SECOND
ABSENT = Compare.version(b"no such key", "=", 0)  # holds


class Etcd(Driver):
    """Keys a, b, c, d. Revision 2: c=9 a=3 (one txn). 3: b=5. 4: a=1. 5: d=5. 6: b deleted. 7: b=7."""

    def __init__(self):
        super().__init__()
        self.run(Txn((), (Put(b"c", b"9"), Put(b"a", b"3"))))
        self.put(b"b", b"5")
        self.put(b"a", b"1")
        self.put(b"d", b"5")
        self.run(DeleteRange(b"b"))
        self.put(b"b", b"7")

    def put(self, key, value=b"", **options):
        return self.run(Put(key, value, **options))

    def get(self, key, **options):
        found = self.run(Range(key, **options)).kvs
        return found[0] if found else None

    def values(self, **options):
        """Of all keys: "key=value ..." as the range brings them."""
        result = self.run(Range(b"a", ALL, **options))
        return " ".join(f"{kv.key.decode()}={kv.value.decode()}" for kv in result.kvs)

    def grant(self, lease, ttl_ms=5000):
        return self.run(LeaseGrant(ttl_ms, lease))

    def ask(self, op, now_ns=0):
        """What is not logged, of a leader."""
        status, revision, body = self.store.query(encode(op), now_ns)
        return decode(op, revision, body) if status == Status.OK else Status(status)

    def branch(self, *ops, compares=()):
        return self.run(Txn(compares, ops))


@pytest.fixture
def etcd():
    return Etcd()


# -- range ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("revision", "expected"), [
    (1, ""), (2, "a=3 c=9"), (3, "a=3 b=5 c=9"), (4, "a=1 b=5 c=9"), (5, "a=1 b=5 c=9 d=5"), (6, "a=1 c=9 d=5"),
    (7, "a=1 b=7 c=9 d=5"), (0, "a=1 b=7 c=9 d=5"),
])
def test_revision_is_the_point_in_time_to_read_at(etcd, revision, expected):
    assert etcd.values(revision=revision) == expected
    assert etcd.run(Range(b"a", ALL, revision=revision)).count == len(expected.split())


def test_the_header_names_the_newest_revision_whatever_was_read(etcd):
    assert etcd.run(Range(b"a", revision=3)).revision == 7


def test_a_range_at_a_future_revision_is_refused_with_an_error_of_its_own(etcd):
    assert etcd.run(Range(b"a", revision=8)) is Status.FUTURE_REVISION


def test_a_range_below_the_compacted_revision_is_refused_and_at_it_is_not(etcd):
    etcd.run(Compact(4))
    assert etcd.run(Range(b"a", revision=3)) is Status.COMPACTED
    assert etcd.values(revision=4) == "a=1 b=5 c=9"


def test_versions_of_a_past_revision_are_whole(etcd):
    kv = etcd.get(b"a", revision=5)
    assert (kv.value, kv.create_revision, kv.mod_revision, kv.version) == (b"1", 2, 4, 2)


def test_a_key_that_was_deleted_begins_anew(etcd):
    kv = etcd.get(b"b")
    assert (kv.create_revision, kv.mod_revision, kv.version) == (7, 7, 1)


@pytest.mark.parametrize(("key", "end", "expected"), [
    (b"b", b"", b"b"), (b"b", b"d", b"bc"), (b"c", ALL, b"cd"), (b"\0", ALL, b"abcd"), (b"c", b"c", b""),
    (b"d", b"a", b""), (b"aa", b"", b""), (b"a\0", b"c\0", b"bc"),
])
def test_range_end_names_the_range(etcd, key, end, expected):
    assert b"".join(kv.key for kv in etcd.run(Range(key, end)).kvs) == expected


def test_limit_cuts_and_more_says_so(etcd):
    for limit, more in ((1, True), (3, True), (4, False), (5, False), (0, False)):
        result = etcd.run(Range(b"a", ALL, limit=limit))
        assert (len(result.kvs), result.more, result.count) == (min(limit or 4, 4), more, 4)


def test_deleted_keys_behind_the_limit_are_not_more(etcd):
    etcd.run(DeleteRange(b"d"))
    assert not etcd.run(Range(b"a", ALL, limit=3)).more
    assert etcd.run(Range(b"a", ALL, limit=3, revision=7)).more


def test_keys_only_leaves_out_the_values(etcd):
    assert etcd.values(keys_only=True) == "a= b= c= d="


def test_count_only_counts_and_brings_nothing(etcd):
    result = etcd.run(Range(b"a", ALL, count_only=True, limit=1, revision=6))
    assert (result.kvs, result.count, result.more) == ((), 3, False)


@pytest.mark.parametrize(("bounds", "expected"), [
    ({"min_mod_revision": 4}, "a b d"), ({"max_mod_revision": 4}, "a c"), ({"min_create_revision": 5}, "b d"),
    ({"max_create_revision": 2}, "a c"), ({"min_mod_revision": 3, "max_mod_revision": 5}, "a d"),
    ({"min_mod_revision": 8}, ""),
])
def test_bounds_of_revisions_filter_and_count_does_not_know_them(etcd, bounds, expected):
    result = etcd.run(Range(b"a", ALL, **bounds))
    assert " ".join(kv.key.decode() for kv in result.kvs) == expected
    assert (result.count, result.more) == (4, False)


def test_the_limit_is_of_what_the_filters_leave(etcd):
    result = etcd.run(Range(b"a", ALL, limit=2, max_mod_revision=5))
    assert ([kv.key for kv in result.kvs], result.more) == ([b"a", b"c"], True)
    result = etcd.run(Range(b"a", ALL, limit=2, max_mod_revision=4))
    assert ([kv.key for kv in result.kvs], result.more) == ([b"a", b"c"], False)


@pytest.mark.parametrize(("target", "order", "expected"), [
    ("key", "none", "abcd"), ("key", "ascend", "abcd"), ("key", "descend", "dcba"),
    ("version", "ascend", "bcda"), ("version", "descend", "abcd"),
    ("create", "ascend", "acdb"), ("create", "descend", "bdac"),
    ("mod", "ascend", "cadb"), ("mod", "descend", "bdac"),
    ("value", "ascend", "adbc"), ("value", "descend", "cbda"),
    ("value", "none", "adbc"),  # a target without an order sorts ascending
])
def test_sorting(etcd, target, order, expected):
    """What is equal comes in key order, also descending; etcd's sort leaves that open."""
    result = etcd.run(Range(b"a", ALL, sort_target=target, order=order))
    assert "".join(kv.key.decode() for kv in result.kvs) == expected


def test_the_limit_is_of_the_sorted(etcd):
    result = etcd.run(Range(b"a", ALL, limit=2, sort_target="mod", order="descend"))
    assert ([kv.key for kv in result.kvs], result.more) == ([b"b", b"d"], True)


def test_sorting_a_past_revision(etcd):
    assert etcd.values(sort_target="value", order="descend", revision=3) == "c=9 b=5 a=3"


def test_skip_pages_through_what_is_sorted_at_a_revision(etcd):
    """Not etcd's, whose replies are not bounded."""
    seen = [etcd.values(sort_target="mod", order="ascend", revision=5, limit=1, skip=n) for n in range(5)]
    assert seen == ["c=9", "b=5", "a=1", "d=5", ""]


def test_uncounted_spares_the_count(etcd):
    """Not etcd's either."""
    assert etcd.run(Range(b"a", ALL, revision=5, uncounted=True)).count == 0


# -- put ------------------------------------------------------------------------------------------------------------


def test_a_put_raises_the_revision_of_the_store_by_one(etcd):
    assert [etcd.put(b"new").revision, etcd.put(b"new").revision] == [8, 9]


def test_prev_kv_is_the_key_before_the_put(etcd):
    assert etcd.put(b"a", b"2", prev_kv=True).prev.value == b"1"
    assert etcd.put(b"new", b"2", prev_kv=True).prev is None
    etcd.run(DeleteRange(b"a"))
    assert etcd.put(b"a", b"2", prev_kv=True).prev is None


def test_ignore_value_keeps_the_value_and_is_a_change_all_the_same(etcd):
    etcd.grant(7)
    etcd.put(b"a", ignore_value=True, lease=7)
    kv = etcd.get(b"a")
    assert (kv.value, kv.lease, kv.mod_revision, kv.version) == (b"1", 7, 8, 3)


def test_ignore_lease_keeps_the_lease(etcd):
    etcd.grant(7)
    etcd.put(b"a", lease=7)
    etcd.put(b"a", b"2", ignore_lease=True)
    assert (etcd.get(b"a").value, etcd.get(b"a").lease) == (b"2", 7)
    etcd.put(b"a", ignore_lease=True, ignore_value=True)
    assert (etcd.get(b"a").value, etcd.get(b"a").lease, etcd.get(b"a").version) == (b"2", 7, 5)


@pytest.mark.parametrize("options", [{"ignore_value": True}, {"ignore_lease": True}])
def test_there_must_be_a_key_to_keep_value_or_lease_of(etcd, options):
    assert etcd.put(b"new", **options) is Status.KEY_NOT_FOUND
    etcd.run(DeleteRange(b"a"))
    assert etcd.put(b"a", **options) is Status.KEY_NOT_FOUND
    assert etcd.branch(Put(b"b", b"x"), Put(b"a", b"", **options)) is Status.KEY_NOT_FOUND
    assert (etcd.get(b"b").value, etcd.store.revision) == (b"7", 8)


def test_a_put_with_an_unknown_lease_leaves_no_trace(etcd):
    assert etcd.put(b"a", b"2", lease=7) is Status.LEASE_NOT_FOUND
    assert etcd.branch(Put(b"b", b"x"), Put(b"a", b"2", lease=7)) is Status.LEASE_NOT_FOUND
    assert etcd.store.revision == 7


# -- delete ---------------------------------------------------------------------------------------------------------


def test_a_delete_counts_and_brings_what_was_there(etcd):
    result = etcd.run(DeleteRange(b"b", b"d", prev_kv=True))
    assert (result.deleted, [(kv.key, kv.value) for kv in result.prev]) == (2, [(b"b", b"7"), (b"c", b"9")])
    assert (result.revision, etcd.values()) == (8, "a=1 d=5")


def test_a_delete_of_nothing_is_no_revision(etcd):
    assert etcd.run(DeleteRange(b"x")).revision == 7
    etcd.run(DeleteRange(b"a"))
    assert etcd.run(DeleteRange(b"a")).revision == 8


# -- txn ------------------------------------------------------------------------------------------------------------


def test_all_changes_of_a_txn_have_one_revision(etcd):
    assert etcd.branch(Put(b"x", b""), DeleteRange(b"a"), Put(b"y", b"")).revision == 8
    assert [(event[1], event[2] is None) for event in etcd.store.events(8)] == [
        (b"x", False), (b"a", True), (b"y", False)
    ]


def test_a_txn_that_changes_nothing_has_no_revision(etcd):
    assert etcd.branch(DeleteRange(b"x"), Range(b"a")).revision == 7


def test_a_range_in_a_txn_sees_what_the_txn_has_written(etcd):
    before, _, after, past, _, gone = etcd.branch(
        Range(b"x"), Put(b"x", b"1"), Range(b"x"), Range(b"a", ALL, revision=7), DeleteRange(b"a"), Range(b"a")
    ).responses
    assert (before.count, after.kvs[0].mod_revision, past.count, gone.count) == (0, 8, 4, 0)


def test_no_range_in_a_txn_names_the_revision_that_the_txn_makes(etcd):
    assert etcd.branch(Put(b"x", b"1"), Range(b"x", revision=8)) is Status.FUTURE_REVISION
    assert etcd.get(b"x") is None


def test_a_compare_of_a_range_holds_if_it_does_for_every_key(etcd):
    for compare, expected in (
        (Compare.mod_revision(b"a", ">", 1, ALL), True),
        (Compare.mod_revision(b"a", ">", 2, ALL), False),
        (Compare.value(b"b", ">", b"6", b"d"), True),
        (Compare.value(b"b", ">", b"8", b"d"), False),
        (Compare.version(b"a", "=", 1, b"b\0"), False),
        (Compare.lease(b"\0", "=", 0, ALL), True),
    ):
        assert etcd.run(Txn((compare,))).succeeded is expected


def test_an_empty_range_compares_like_a_missing_key(etcd):
    etcd.run(DeleteRange(b"b"))
    for compare, expected in (
        (Compare.version(b"x", "=", 0, b"z"), True),
        (Compare.create_revision(b"b", ">", 0, b"c"), False),
        (Compare.value(b"x", "!=", b"1", b"z"), False),
        (Compare.value(b"b", "=", b"", b"b\0"), False),
    ):
        assert etcd.run(Txn((compare,))).succeeded is expected


def test_a_nested_txn_is_an_operation(etcd):
    inner = Txn((Compare.value(b"a", "=", b"1"),), (Put(b"x", b"yes"), Range(b"x")), (Put(b"x", b"no"),))
    outer = etcd.branch(inner, Put(b"y", b""), Txn((), (), (Put(b"z", b""),)))
    assert (outer.revision, outer.responses[0].succeeded, outer.responses[2].responses) == (8, True, ())
    assert outer.responses[0].responses[1].kvs[0].value == b"yes"


def test_compares_of_a_nested_txn_see_the_state_before_the_whole(etcd):
    nested = Txn((Compare.value(b"a", "=", b"1"),), (Put(b"x", b"before"),), (Put(b"x", b"after"),))
    etcd.branch(Put(b"a", b"2"), nested)
    assert (etcd.get(b"x").value, etcd.get(b"a").value) == (b"before", b"2")


@pytest.mark.parametrize("ops", [
    (Put(b"k", b""), Put(b"k", b"")),
    (Put(b"k", b""), DeleteRange(b"k")),
    (DeleteRange(b"a", b"z"), Put(b"k", b"")),
    (Put(b"k", b""), Txn((), (Put(b"k", b""),))),
    (Txn((), (Put(b"k", b""),)), Txn((), (), (Put(b"k", b""),))),
    (DeleteRange(b"k"), Txn((), (Put(b"k", b""),))),
    (Txn((), (DeleteRange(b"k"),)), Put(b"k", b"")),
    (Txn((), (DeleteRange(b"k"),)), Txn((), (Put(b"k", b""),))),
    (Txn((), (Txn((), (), (Put(b"k", b""),)),)), Put(b"k", b"")),
    (Txn((), (), (Put(b"k", b""), Put(b"k", b""))),),
    (Txn((), (Put(b"k", b""),)), Txn((), (DeleteRange(b"k"),))),  # etcd overlooks this one, and changes k twice
])
def test_a_key_may_not_change_twice_in_a_txn(etcd, ops):
    assert etcd.branch(*ops) is Status.REJECTED
    assert etcd.run(Txn((ABSENT,), (), ops)) is Status.REJECTED  # also in the branch that would not run
    assert etcd.store.revision == 7


@pytest.mark.parametrize("ops", [
    (Txn((), (Put(b"k", b""),), (Put(b"k", b""),)),),  # the branches exclude each other
    (Txn((), (Put(b"k", b""),), (DeleteRange(b"k"),)),),
    (DeleteRange(b"k"), DeleteRange(b"a", ALL)),
    (DeleteRange(b"a", b"k"), Put(b"k", b""), DeleteRange(b"k\0", ALL)),
    (Put(b"k", b""), Txn((), (Put(b"l", b""), DeleteRange(b"a", b"k")))),
])
def test_what_may_stand_together(etcd, ops):
    assert etcd.branch(*ops).revision == 8


def test_nesting_and_size_are_bounded(etcd):
    """etcd bounds each list (128 by default) and not the whole."""
    deep = Txn((), (Range(b"a"),))
    for _ in range(limits.MAX_TXN_DEPTH - 1):
        deep = Txn((), (deep,))
    assert etcd.run(deep).succeeded
    inner = encode(deep)
    too_deep = b"\4\0\0\0\1\0\0\0" + len(inner).to_bytes(4, "little") + inner
    assert etcd.raw(too_deep).status is Status.TOO_LARGE
    full = encode(Txn((), (Txn((), (Range(b"a"),) * 127),)))
    many = b"\4\0\0\0\x08\0\0\0" + 8 * (len(full).to_bytes(4, "little") + full)
    assert etcd.raw(many).status is Status.TOO_LARGE
    assert etcd.run(Txn((), tuple(Txn((), (Range(b"a"),) * 127) for _ in range(7)))).succeeded


@pytest.mark.parametrize("op", [Compact(3), LeaseGrant(1000), LeaseRevoke(1), LeaseKeepAlive(1), LeaseList()])
def test_only_puts_deletes_ranges_and_txns_stand_in_a_txn(etcd, op):
    command = encode(op)
    assert etcd.raw(b"\4\0\0\0\1\0\0\0" + len(command).to_bytes(4, "little") + command).status is Status.REJECTED


# -- compact --------------------------------------------------------------------------------------------------------


def test_compaction_keeps_what_reads_at_its_revision_and_later_need(etcd):
    before = [etcd.values(revision=revision) for revision in range(6, 8)]
    assert etcd.run(Compact(6)).revision == 7
    assert [etcd.values(revision=revision) for revision in range(6, 8)] == before
    assert etcd.store.compacted == 6


def test_compacting_twice_and_the_future_are_refused(etcd):
    etcd.run(Compact(5))
    assert etcd.run(Compact(5)) is Status.COMPACTED
    assert etcd.run(Compact(4)) is Status.COMPACTED
    assert etcd.run(Compact(8)) is Status.FUTURE_REVISION
    assert etcd.run(Compact(7)).revision == 7  # compaction is no change


def test_a_deleted_key_goes_with_its_history(etcd):
    etcd.run(DeleteRange(b"\0", ALL))
    etcd.run(Compact(8))
    etcd.run(Range(b"a"))  # an entry reclaims
    assert (etcd.store.bytes, etcd.store.changes, etcd.values()) == (0, 0, "")
    assert etcd.put(b"a").revision == 9
    assert (etcd.get(b"a").create_revision, etcd.get(b"a").version) == (9, 1)


def test_history_can_be_watched_from_behind_the_compacted_revision(etcd):
    etcd.run(Compact(5))
    with pytest.raises(ValueError, match="compacted"):
        etcd.store.events(5)
    assert etcd.store.events(6) == [
        (6, b"b", None, (b"5", 3, 3, 1, 0)), (7, b"b", (b"7", 7, 7, 1, 0), None),
    ]


# -- lease ----------------------------------------------------------------------------------------------------------


def test_a_grant_takes_the_id_asked_for_or_chooses_one(etcd):
    assert (etcd.grant(7).id, etcd.grant(7)) == (7, Status.LEASE_EXISTS)
    chosen = {etcd.grant(0).id for _ in range(20)}
    assert len(chosen) == 20
    assert all(0 < lease < 1 << 63 for lease in chosen)
    assert etcd.store.revision == 7


def test_ids_chosen_are_a_matter_of_the_log():
    one, other = Etcd(), Etcd()
    assert [one.grant(0) for _ in range(5)] == [other.grant(0) for _ in range(5)]


def test_a_short_ttl_is_raised_and_a_long_one_refused(etcd):
    granted = [etcd.grant(n, ttl).ttl_ms for n, ttl in enumerate((0, 999, 1000, 1001), 1)]
    assert granted == [1000, 1000, 1000, 1001]
    command = bytearray(encode(LeaseGrant(limits.MAX_LEASE_TTL_MS, 5)))
    command[-8:] = (limits.MAX_LEASE_TTL_MS + 1).to_bytes(8, "little")
    assert etcd.raw(bytes(command)).status is Status.TOO_LARGE


def test_revoking_deletes_the_keys_in_order_and_at_one_revision(etcd):
    etcd.grant(7)
    for key in (b"z", b"a", b"m"):
        etcd.put(key, b"x", lease=7)
    assert etcd.run(LeaseRevoke(7)).deleted == 3
    assert etcd.store.revision == 11
    assert [event[:3] for event in etcd.store.events(11)] == [(11, b"a", None), (11, b"m", None), (11, b"z", None)]
    assert etcd.run(LeaseRevoke(7)) is Status.LEASE_NOT_FOUND


def test_revoking_a_lease_without_keys_is_no_revision(etcd):
    etcd.grant(7)
    assert etcd.run(LeaseRevoke(7)).revision == 7


def test_a_key_belongs_to_the_lease_it_was_put_with_last(etcd):
    etcd.grant(7)
    etcd.grant(8)
    etcd.put(b"moved", lease=7)
    etcd.put(b"moved", lease=8)
    etcd.put(b"detached", lease=7)
    etcd.put(b"detached")
    etcd.put(b"deleted", lease=7)
    etcd.run(DeleteRange(b"deleted"))
    etcd.put(b"deleted")
    assert [etcd.store.lease(lease)[2] for lease in (7, 8)] == [0, 1]
    assert etcd.run(LeaseRevoke(7)).deleted == 0
    assert etcd.run(LeaseRevoke(8)).deleted == 1
    assert (etcd.get(b"moved"), etcd.get(b"detached").lease) == (None, 0)


def test_time_to_live_tells_what_is_left_and_the_keys(etcd):
    etcd.grant(7, 3000)
    etcd.put(b"y", lease=7)
    etcd.put(b"x", lease=7)
    answer = etcd.ask(LeaseTimeToLive(7, keys=True), 1 * SECOND)
    assert (answer.ttl_ms, answer.left_ms, answer.count, answer.keys) == (3000, 2000, 2, (b"x", b"y"))
    assert etcd.ask(LeaseTimeToLive(7, keys=True, skip=1)).keys == (b"y",)
    assert etcd.ask(LeaseTimeToLive(7)).keys == ()
    assert etcd.ask(LeaseTimeToLive(7), 9 * SECOND).left_ms == 0
    assert etcd.ask(LeaseTimeToLive(8)) is Status.LEASE_NOT_FOUND


def test_leases_are_listed(etcd):
    for lease in (9, 7, 1 << 63):
        etcd.grant(lease)
    assert etcd.ask(LeaseList()).ids == (7, 9, 1 << 63)


def test_a_keep_alive_gives_a_full_ttl(etcd):
    etcd.grant(7, 3000)
    assert etcd.ask(LeaseKeepAlive(7), 2 * SECOND).ttl_ms == 3000
    assert etcd.ask(LeaseTimeToLive(7), 2 * SECOND).left_ms == 3000
    assert etcd.ask(LeaseKeepAlive(8), 2 * SECOND) is Status.LEASE_NOT_FOUND


@pytest.mark.parametrize("op", [LeaseKeepAlive(7), LeaseTimeToLive(7)])
def test_only_a_leader_knows_deadlines(etcd, op):
    etcd.grant(7)
    assert etcd.store.query(encode(op))[0] == Status.REJECTED
    assert etcd.run(op) is Status.REJECTED
