"""How many keys one transaction may make a node look at: one walk as long as the store, and others that are short."""

from time import process_time

import pytest
from test_apply import Driver

from quorumd.commands import Compare, DeleteRange, Put, Range, Status, Txn, TxnResult, encode, reads_only
from quorumd.limits import MAX_LOOKS, MAX_TXN_OPS

ALL = (b"k", b"l")
OTHER = (b"m", b"n")


@pytest.fixture(scope="module")
def driver():
    """Two thirds of what may be looked at under k, as much under m, one key under a; a tenth, deleted, under d."""
    driver = Driver()
    many = 2 * MAX_LOOKS // 3
    puts = [Put(b"%s%06d" % (letter, i), b"") for letter in (b"k", b"m") for i in range(many)]
    puts += [Put(b"d%06d" % i, b"") for i in range(MAX_LOOKS // 10)]
    for at in range(0, len(puts), MAX_TXN_OPS):
        assert isinstance(driver.run(Txn((), tuple(puts[at : at + MAX_TXN_OPS]))), TxnResult)
    driver.run(Put(b"a", b""))
    driver.run(DeleteRange(b"d", b"e"))
    return driver


def compare(span, times=1):
    return tuple(Compare.version(span[0], ">", 0, span[1]) for _ in range(times))


OLD = 100  # a revision
NEAR = [
    ("one walk", lambda: Txn(compare(ALL))),
    ("a walk in a branch", lambda: Txn((), (Range(*ALL, sort_target="mod"),))),
    ("a long one and a shorter one", lambda: Txn(compare(ALL), (Range(*OTHER, revision=OLD, count_only=True),))),
    ("counts of the newest revision", lambda: Txn((), (Range(b"a", b"z", count_only=True),) * MAX_TXN_OPS)),
    ("pages in key order", lambda: Txn((), (Range(b"k", b"z", limit=10),) * MAX_TXN_OPS)),
    ("counts after deletes", lambda: Txn((), (DeleteRange(b"x", b"y"), *(Range(*ALL, count_only=True),) * 9))),
    ("pages after the delete of a key", lambda: Txn((), (DeleteRange(b"x"), *(Range(b"k", b"z", limit=1),) * 9))),
    ("single keys", lambda: Txn(tuple(Compare.version(b"a", ">", 0) for _ in range(MAX_TXN_OPS)))),
    ("some steps over what was deleted", lambda: Txn((), (Range(b"d", b"e"),) * 5)),
]
FAR = [
    ("compares", lambda: Txn(compare(ALL, 3))),
    ("counts of an old revision", lambda: Txn((), (Range(b"a", b"z", revision=OLD, count_only=True),) * 3)),
    ("sorts", lambda: Txn((), (Range(*ALL, sort_target="value"),) * 3)),
    ("filters", lambda: Txn((), (Range(*ALL, min_mod_revision=1 << 40),) * 3)),
    ("skips", lambda: Txn((), (Range(*ALL, skip=1 << 40),) * 3)),
    ("compares and a range", lambda: Txn(compare(ALL, 2), (Range(*ALL, order="descend"),))),
    ("in transactions within", lambda: Txn((), tuple(Txn(compare(ALL)) for _ in range(3)))),
    ("steps over what was deleted", lambda: Txn((), (Range(b"d", b"e"),) * 20)),
    ("deletes", lambda: Txn((), (DeleteRange(*ALL),) * 3)),
    ("reads after deletes", lambda: Txn((), (DeleteRange(*ALL), Range(*ALL), Range(*ALL)))),
]


def attempts(cases):
    return pytest.mark.parametrize("make", [make for _, make in cases], ids=[name for name, _ in cases])


@attempts(NEAR)
def test_what_looks_at_few_keys_or_once_at_many_is_done(driver, make):
    assert isinstance(driver.run(make()), TxnResult)


@attempts(FAR)
def test_what_looks_at_too_many_is_refused_and_does_nothing(driver, make):
    txn = make()
    txn = Txn(txn.compares, (Put(b"z", b"z"), *txn.then), txn.orelse)
    before = driver.store.revision, driver.store.bytes
    assert driver.run(txn) is Status.TOO_LARGE
    assert (driver.store.revision, driver.store.bytes) == before


def test_a_read_outside_the_log_is_held_to_it_too(driver):
    for cases, status in ((NEAR, Status.OK), (FAR, Status.TOO_LARGE)):
        reads = [txn for txn in (make() for _, make in cases) if reads_only(txn)]
        assert len(reads) > 4
        assert {driver.store.query(encode(txn))[0] for txn in reads} == {status}


def test_what_excludes_each_other_is_not_compared_at_each_level_anew(driver):
    """480 puts in one branch, and as many deletes of their range in the other, in eight transactions in each other."""
    puts = [Put(b"p%03d" % i, b"") for i in range(480)]
    deletes = [DeleteRange(b"p", b"q")] * 480
    branches = [tuple(Txn((), tuple(ops[i : i + 120])) for i in range(0, 480, 120)) for ops in (puts, deletes)]
    txn = Txn((), *branches)
    commands = [encode(txn)]
    for _ in range(6):
        txn = Txn((), (txn,))
        commands.append(encode(txn))
    took = []
    for command in (commands[0], commands[-1]):
        times = []
        for _ in range(5):
            began = process_time()
            assert driver.store.query(command)[0] == Status.REJECTED  # no read; after it was compared
            times.append(process_time() - began)
        took.append(min(times))
    assert took[1] < 12 * took[0]
