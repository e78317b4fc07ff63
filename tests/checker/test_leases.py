"""The rules of leases fail when they must, and only then: short stories, each told to LeaseRules fact by fact."""

import pytest

from quorumd.checker.invariants import Violation
from quorumd.checker.leases import Change, LeaseRules, Shown
from quorumd.limits import MILLISECOND

TTL_MS = 1000
NOTHING = {7: None, 8: None}


class Story:
    """Times are milliseconds. Lease 7 is granted by entry 1 at 10, as its holder asked at 5 and is told at 15."""

    def __init__(self, drift=0.0):
        self.rules = LeaseRules(drift)
        self.keys: set[bytes] = set()
        self.applied(10, shown(1))
        self.rules.granted(7, 5 * MILLISECOND, 15 * MILLISECOND)

    def applied(self, at, leases, changes=(), expires=0):
        self.rules.applied(at * MILLISECOND, leases, [Change(*change) for change in changes], expires=expires)

    def puts(self, at, *keys):
        for key in keys:
            self.keys.add(key)
            self.applied(at, shown(1, keys=len(self.keys)), [(key, 7)])

    def expires(self, at):
        self.applied(at, NOTHING, [(key, None) for key in sorted(self.keys)], expires=7)

    def told(self, asked, at, kept=True, ttl_ms=TTL_MS):
        self.rules.told_alive(7, ttl_ms, asked * MILLISECOND, at * MILLISECOND, kept=kept)

    def not_overdue(self, at, rearmed=0, stalled=0, put_off=50, late=50):
        times = (rearmed, late, stalled, put_off)
        self.rules.not_overdue([7], at * MILLISECOND, *(time * MILLISECOND for time in times))


def shown(generation, lease=7, keys=0):
    return {**NOTHING, lease: Shown(generation, TTL_MS, keys)}


def broken(word, act, *given, **named):
    with pytest.raises(Violation) as caught:
        act(*given, **named)
    assert caught.value.check == word


def test_a_lease_may_end_a_ttl_after_its_holder_asked_and_no_earlier():
    Story().expires(1005)
    broken("lease-early", Story().expires, 1004)
    story = Story()
    story.told(asked=500, at=520)
    broken("lease-early", story.expires, 1499)


def test_clocks_may_run_too_fast_by_their_drift():
    Story(drift=0.25).expires(805)
    broken("lease-early", Story(drift=0.25).expires, 804)


def test_an_answer_that_comes_after_the_end_counts_too():
    story = Story()
    story.expires(1400)
    broken("lease-early", story.told, asked=900, at=1500)


def test_an_answer_to_a_question_of_after_the_end_is_a_lie():
    for kept in (True, False):
        story = Story()
        story.expires(1400)
        story.told(asked=300, at=1500, kept=kept)
        broken("lease-lives-on", story.told, asked=1401, at=1500, kept=kept)


def test_a_grant_that_is_told_has_happened_in_between():
    broken("lease-lives-on", Story().rules.granted, 8, 5 * MILLISECOND, 15 * MILLISECOND)
    broken("lease-lives-on", Story().rules.granted, 7, 11 * MILLISECOND, 15 * MILLISECOND)


def test_the_id_of_a_lease_that_ended_may_be_granted_again_and_is_another_lease():
    story = Story()
    story.expires(1005)
    story.applied(1100, shown(9))
    story.rules.granted(7, 1050 * MILLISECOND, 1110 * MILLISECOND)
    broken("lease-early", story.applied, 1500, NOTHING, expires=7)


def test_an_answer_that_may_mean_two_lives_arms_neither():
    story = Story()
    story.expires(1005)
    story.applied(1100, shown(9))
    story.told(asked=1000, at=1200)
    story.applied(1500, NOTHING, expires=7)


def test_only_who_is_asked_for_is_revoked():
    broken("lease-early", Story().applied, 100, NOTHING)
    story = Story()
    story.rules.revocation(7)
    story.applied(100, NOTHING)
    story.rules.revocation_settled(7)
    story.applied(200, shown(9))
    broken("lease-early", story.applied, 300, NOTHING)


def test_what_is_said_to_be_revoked_has_ended():
    story = Story()
    story.rules.revocation(7)
    broken("lease-lives-on", story.rules.revoked, 7, 50 * MILLISECOND)
    story.rules.revocation(7)
    story.applied(100, NOTHING)
    story.rules.revoked(7, 50 * MILLISECOND)
    story.applied(200, shown(9))  # granted anew: a grant that was on its way
    story.rules.revoked(7, 150 * MILLISECOND)


def test_what_is_said_not_to_be_there_is_not():
    story = Story()
    broken("lease-lives-on", story.rules.not_found, 7, 50 * MILLISECOND, kept=True)
    story.expires(1_100)
    story.rules.not_found(7, 50 * MILLISECOND, kept=True)
    story.applied(1_200, shown(9))
    story.rules.not_found(7, 1_150 * MILLISECOND, kept=False)  # before that
    broken("lease-lives-on", story.rules.not_found, 7, 1_250 * MILLISECOND, kept=False)
    assert story.rules.counts["keep-alives refused"] == 2


def test_its_ttl_is_the_one_granted():
    broken("lease-lives-on", Story().told, 20, 30, ttl_ms=TTL_MS + 1)


@pytest.mark.parametrize(
    "gone",
    [
        [],
        [(b"a", None)],
        [(b"a", None), (b"b", None), (b"c", None)],
        [(b"a", None), (b"b", 0)],
        [(b"a", None), (b"b", None), (b"b", None)],
    ],
)
def test_the_end_takes_the_leases_keys_all_of_them_and_no_others(gone):
    story = Story()
    story.puts(20, b"a", b"b")
    broken("lease-keys", story.applied, 2000, NOTHING, gone, expires=7)


def test_keys_that_left_the_lease_stay():
    story = Story()
    story.puts(20, b"a", b"b", b"c")
    story.applied(30, shown(1, keys=2), [(b"a", 0)])
    story.applied(31, shown(1, keys=1), [(b"b", None)])
    story.applied(2000, NOTHING, [(b"c", None)], expires=7)


def test_a_store_that_loses_count_of_its_keys_is_noticed():
    broken("lease-keys", Story().applied, 20, shown(1, keys=0), [(b"a", 7)])
    broken("lease-keys", Story().applied, 20, shown(1, keys=0), [(b"a", 8)])


def test_a_lease_that_nobody_keeps_alive_ends_in_time():
    Story().not_overdue(1065)
    broken("lease-late", Story().not_overdue, 1066)
    story = Story()
    story.told(asked=500, at=520)
    story.not_overdue(1570)
    broken("lease-late", story.not_overdue, 1571)
    Story().not_overdue(1650, rearmed=600)
    broken("lease-late", Story().not_overdue, 1651, rearmed=600)
    Story().not_overdue(1700, rearmed=600, stalled=700)
    broken("lease-late", Story().not_overdue, 1701, rearmed=600, stalled=1690)
    broken("lease-late", Story().not_overdue, 1651, rearmed=600, stalled=500)
    Story(drift=0.5).not_overdue(2065)
    broken("lease-late", Story(drift=0.5).not_overdue, 2066)


def test_what_nobody_saw_happen_is_not_judged_and_the_rest_is():
    story = Story()
    story.rules.resumed(100 * MILLISECOND, shown(4, lease=8, keys=1), {b"a": 8, b"b": 0})
    broken("lease-lives-on", story.told, asked=101, at=110)
    broken("lease-keys", story.applied, 2000, NOTHING, [], expires=8)
    story = Story()
    story.rules.resumed(100 * MILLISECOND, shown(4, lease=8, keys=1), {b"a": 8, b"b": 0})
    story.applied(2000, NOTHING, [(b"a", None)], expires=8)
