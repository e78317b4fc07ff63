"""Simulated holders of leases: each grants, attaches keys, keeps alive, falls silent, revokes and begins anew.

A holder asks one thing at a time. What it is told it passes on to the rules; what becomes of its leases they hear from
the nodes (lease_observer.py).
"""

import random
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from quorumd import limits
from quorumd.checker.leases import LeaseRules
from quorumd.client.calls import operation_for
from quorumd.client.operation import Operation
from quorumd.commands import (
    DeleteRange,
    LeaseGrant,
    LeaseGrantResult,
    LeaseKeepAlive,
    LeaseKeepAliveResult,
    LeaseRevoke,
    LeaseRevokeResult,
    LeaseTimeToLive,
    LeaseTimeToLiveResult,
    Op,
    Put,
    Result,
)
from quorumd.errors import Definite, LeaseExists, LeaseNotFound, QuorumdError
from quorumd.sim.clients import Program, Surroundings
from quorumd.sim.lease_observer import PREFIX
from quorumd.sim.workload import Mix, spell
from quorumd.types import Nanoseconds

LEASES = 2  # ids that a holder uses again and again
KEYS = 4  # of a holder; they move between its leases
TTL_MS = (1_000, 5_000)
DEEDS = ("keep", "look", "put", "detach", "delete", "move", "revoke", "abandon")
WEIGHTS = (50, 8, 18, 4, 4, 6, 5, 5)
AT_THE_END = 0.12  # of pauses: until the TTL is just about over
BEYOND = 0.08  # likewise: for longer than the TTL


class Act(NamedTuple):
    """What is under way, about which lease, and since when."""

    request: Op
    lease: int
    asked: Nanoseconds
    since: int  # the revision below which its answer may not be


class Holder(Program):
    """One client program that holds leases. leases: the ids that it may use, which nobody else does."""

    def __init__(
        self,
        name: str,
        around: Surroundings,
        rng: random.Random,
        rules: LeaseRules,
        leases: Sequence[int],
    ) -> None:
        super().__init__(name, around, Mix(KEYS, (0,)), rng, workers=0, per_second=1.0)
        self.rules = rules
        self.leases = leases
        self._held = 0  # the lease that it takes for its own; 0: none
        self._ttl: Nanoseconds = 0
        self._armed: Nanoseconds = 0  # when it asked for what gave the lease its TTL last
        self._act: Act | None = None
        self._finale: deque[Op] = deque()
        self._written = 0
        self._pause_for(rng.randint(0, limits.SECOND))

    # -- what it does -------------------------------------------------------------------------------------------

    def _pause_for(self, span: Nanoseconds) -> None:
        self.world.after(span, self._go)

    def _go(self) -> None:
        if self.running:
            self._begin(self._next())

    def _next(self) -> Op:
        if not self._held:
            return LeaseGrant(self.rng.randint(*TTL_MS), self.rng.choice(self.leases))
        deed = self.rng.choices(DEEDS, WEIGHTS)[0]
        if deed == "look":
            return LeaseTimeToLive(self._held, keys=True)
        if deed in ("put", "detach", "move"):
            lease = {"put": self._held, "detach": 0, "move": self.rng.choice(self.leases)}[deed]
            return self._put(lease)
        if deed == "delete":
            return DeleteRange(self._key())
        if deed == "revoke":
            return LeaseRevoke(self._held)
        if deed == "abandon":  # it asks for the other one, or for the same before that has ended
            self._held = 0
            return self._next()
        return LeaseKeepAlive(self._held)

    def _key(self) -> bytes:
        return PREFIX + f"{self.name}/{self.rng.randrange(KEYS)}".encode()

    def _put(self, lease: int) -> Put:
        self._written += 1
        return Put(self._key(), spell(f"{self.name}.{self._written}/{self.rng.choice((0, 30))}"), lease)

    def _begin(self, request: Op) -> None:
        now = self.world.now
        lease = request.id if isinstance(request, LeaseGrant) else self._held
        if isinstance(request, LeaseRevoke):
            self.rules.revocation(lease)
        self._act = Act(request, lease, now, self.answers.asked(request))
        operation = operation_for(request, now + self.timeout)
        operation.waiter = self._act
        try:
            self.protocol.submit(operation, now)
        except QuorumdError as error:
            operation.error = error
            self._completed(operation)
        self._after()

    def _completed(self, operation: Operation) -> None:
        act = self._act
        if act is None or operation.waiter is not act:
            return  # the protocol's own
        self._act = None
        if operation.error is None:
            self._answered(act, operation.result())
        else:
            self._refused(act, operation.error)
        if self.world.trace is not None:
            error = operation.error
            verdict = "ok" if error is None else f"{type(error).__name__}: {error}"
            self.world.tell(self.name, type(act.request).__name__, lease=act.lease, verdict=verdict)
        if self._finale:
            self._finale_goes_on(operation.error)
        elif self.running:
            self._pause_for(self._span())

    def _answered(self, act: Act, result: Result) -> None:
        """What an answer says of the lease."""
        rules, now, lease = self.rules, self.world.now, act.lease
        self.answers.told(act.request, result, act.since)
        match result:
            case LeaseGrantResult():
                rules.granted(lease, act.asked, now)
                self._takes(act)
            case LeaseKeepAliveResult(ttl_ms=ttl_ms):
                rules.told_alive(lease, ttl_ms, act.asked, now, kept=True)
                self._armed = act.asked
            case LeaseTimeToLiveResult(ttl_ms=ttl_ms):
                rules.told_alive(lease, ttl_ms, act.asked, now, kept=False)
            case LeaseRevokeResult():
                rules.revoked(lease, act.asked)
                self._held = 0

    def _refused(self, act: Act, error: QuorumdError) -> None:
        """What an error says of it."""
        self.answers.refused(act.request, error)
        match act.request:
            case LeaseGrant() if isinstance(error, LeaseExists):
                self._takes(act)  # it is one of its own, of before
            case LeaseRevoke(lease):
                if isinstance(error, Definite):
                    self.rules.revocation_settled(lease)
                self._held = 0
        if isinstance(error, LeaseNotFound):
            lease = getattr(act.request, "lease", act.lease)
            self.rules.not_found(lease, act.asked, kept=isinstance(act.request, LeaseKeepAlive))
            if lease == act.lease:
                self._held = 0

    def _takes(self, act: Act) -> None:
        """The lease that it asked to be granted is its own."""
        if isinstance(act.request, LeaseGrant):
            self._held, self._ttl, self._armed = act.lease, act.request.ttl_ms * limits.MILLISECOND, act.asked

    def _span(self) -> Nanoseconds:
        """Until it asks again."""
        rng, ttl = self.rng, self._ttl or limits.SECOND
        chance = rng.random()
        if chance < AT_THE_END:
            return max(0, self._armed + int(ttl * rng.uniform(0.95, 1.05)) - self.world.now)
        if chance < AT_THE_END + BEYOND:
            return int(ttl * rng.uniform(1.05, 2.0))
        return int(ttl * rng.uniform(0.02, 0.45))

    # -- the end of a run ---------------------------------------------------------------------------------------

    def last_lease(self, lease: int) -> None:
        """It grants this one, which nobody ever asked for, keeps it alive once, and is silent for good."""
        self._held = lease
        self._finale.extend((LeaseGrant(self.rng.randint(*TTL_MS), lease), self._put(lease), LeaseKeepAlive(lease)))
        self._begin(self._finale[0])

    def _finale_goes_on(self, error: QuorumdError | None) -> None:
        if error is None or isinstance(error, LeaseExists | LeaseNotFound):
            self._finale.popleft()
        if self._finale:
            self._begin(self._finale[0])

    @property
    def idle(self) -> bool:
        """Whether it waits for no answer."""
        return self._act is None
