"""Who is there: a party of anonymous members, and a registry of named service instances."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from quorumd.commands import Compare, DeleteRange, KeyValue, Put, Range, Txn
from quorumd.errors import Rejected
from quorumd.recipes import line as lines
from quorumd.recipes.effects import Script, clock, read
from quorumd.recipes.errors import NotHeld
from quorumd.recipes.keys import end_of, escaped, prefix_of, unescaped
from quorumd.recipes.lease import Lease
from quorumd.recipes.view import View, follow


@dataclass(frozen=True, slots=True)
class Member:
    """One member: what it said of itself, and since which revision it is there."""

    value: bytes
    since: int


def _members(kvs: Iterable[KeyValue]) -> tuple[Member, ...]:
    return tuple(sorted((Member(kv.value, kv.create_revision) for kv in kvs), key=lambda member: member.since))


class Party:
    """The observers' side, which needs no session. Members come in the order in which they joined."""

    def __init__(self, name: bytes | str) -> None:
        self.prefix = prefix_of("party", name)

    def members(self, timeout: float | None = None) -> Script[tuple[Member, ...]]:
        """Who is there now. timeout: seconds, None: the client's default."""
        until = lines.deadline((yield from clock()), timeout)
        return _members((yield from read(Range(self.prefix, end_of(self.prefix)), until)).kvs)

    def observe(self) -> Script[None]:
        """A stream: who is there now, then again after each change."""
        return follow(View(self.prefix), lambda view: _members(view.snapshot()[1].values()))


class Membership:
    """One member's side: it is there from `join` to `leave`, or to the end of its session."""

    def __init__(self, lease: Lease, name: bytes | str, value: bytes = b"") -> None:
        self.lease, self.value = lease, value
        self._prefix = prefix_of("party", name)
        self._key: bytes | None = None

    def join(self, timeout: float | None = None) -> Script[None]:
        """Joins. Raises SessionLost, or within `timeout` seconds (None: the session's life) the client's error."""
        if self._key is not None:
            raise RuntimeError("this object has joined already")
        until = lines.deadline((yield from clock()), timeout)
        key = self._prefix + self.lease.contender()
        try:
            yield from lines.persist(self.lease, Txn([], [Put(key, self.value, self.lease.id)]), until)
        except BaseException:
            self.lease.drop(key)
            raise
        self._key = key

    def leave(self, timeout: float | None = None) -> Script[None]:
        """Leaves. Raises NotHeld if it is no member."""
        until = lines.deadline((yield from clock()), timeout)
        key, self._key = self._key, None
        if key is None:
            raise NotHeld("this object has not joined")
        try:
            yield from lines.persist(self.lease, Txn([], [DeleteRange(key)]), until)
        except BaseException:
            self.lease.drop(key)
            raise


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a service."""

    name: bytes
    address: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class ServiceRegistry:
    """The observers' side: which instances of a service there are."""

    def __init__(self, service: bytes | str) -> None:
        self.prefix = prefix_of("service", service)

    def instances(self, timeout: float | None = None) -> Script[tuple[Instance, ...]]:
        """The instances now, by name. timeout: seconds, None: the client's default. Raises Rejected."""
        until = lines.deadline((yield from clock()), timeout)
        return self._instances((yield from read(Range(self.prefix, end_of(self.prefix)), until)).kvs)

    def observe(self) -> Script[None]:
        """A stream: the instances now, then again after each change."""
        return follow(View(self.prefix), lambda view: self._instances(view.snapshot()[1].values()))

    def _instances(self, kvs: Iterable[KeyValue]) -> tuple[Instance, ...]:
        found = []
        for kv in sorted(kvs, key=lambda kv: kv.key):
            try:
                record = json.loads(kv.value)
                address, metadata = record["address"], record["metadata"]
            except (ValueError, TypeError, KeyError) as error:
                raise Rejected(f"{kv.key!r} holds no service instance: {error}") from error
            found.append(Instance(unescaped(kv.key[len(self.prefix) :]), str(address), dict(metadata)))
        return tuple(found)


class Registration:
    """One instance's side. A name is taken over by whoever registers it last, as a restarted instance must."""

    def __init__(self, lease: Lease, service: bytes | str, instance: Instance) -> None:
        self.lease = lease
        self._key = prefix_of("service", service) + escaped(instance.name)
        record = {"address": instance.address, "metadata": dict(instance.metadata)}
        self._value = json.dumps(record, ensure_ascii=False).encode()

    def register(self, timeout: float | None = None) -> Script[None]:
        """Is there from now on, until `deregister` or the end of the session. Raises SessionLost, or as the client."""
        until = lines.deadline((yield from clock()), timeout)
        yield from lines.persist(self.lease, Txn([], [Put(self._key, self._value, self.lease.id)]), until)

    def deregister(self, timeout: float | None = None) -> Script[None]:
        """Is gone, unless another session has taken the name over."""
        until = lines.deadline((yield from clock()), timeout)
        own = Compare.lease(self._key, "=", self.lease.id)
        yield from lines.persist(self.lease, Txn([own], [DeleteRange(self._key)]), until)
