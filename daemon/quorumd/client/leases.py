"""The calls about leases, of both clients: each is one operation."""

from typing import Protocol

from quorumd.client.calls import expect, ttl_ms
from quorumd.commands import (
    LeaseGrant,
    LeaseGrantResult,
    LeaseKeepAlive,
    LeaseKeepAliveResult,
    LeaseList,
    LeaseListResult,
    LeaseRevoke,
    LeaseRevokeResult,
    LeaseTimeToLive,
    LeaseTimeToLiveResult,
    Op,
    Result,
)


class Executes(Protocol):
    """The blocking client."""

    def execute(self, request: Op, *, stale: bool = False, timeout: float | None = None) -> Result:
        """See sync.Client.execute."""


class AsyncExecutes(Protocol):
    """The asyncio client."""

    async def execute(self, request: Op, *, stale: bool = False, timeout: float | None = None) -> Result:
        """See aio.AsyncClient.execute."""


class LeaseCalls:
    """Leases for the blocking client."""

    def lease_grant(self: Executes, ttl: float, *, lease: int = 0, timeout: float | None = None) -> LeaseGrantResult:
        """A new lease of `ttl` seconds; the result says what was granted, at least the cluster's shortest.

        It ends, and its keys are deleted, when no keep-alive comes for its TTL; Session of quorumd.recipes sends them.
        lease: the id it is to have, 0: any. Raises LeaseExists, NoSpace if there are too many.
        """
        return expect(LeaseGrantResult, self.execute(LeaseGrant(ttl_ms(ttl), lease), timeout=timeout))

    def lease_revoke(self: Executes, lease: int, *, timeout: float | None = None) -> LeaseRevokeResult:
        """Ends a lease and deletes its keys, all at one revision. Raises LeaseNotFound."""
        return expect(LeaseRevokeResult, self.execute(LeaseRevoke(lease), timeout=timeout))

    def lease_keep_alive(self: Executes, lease: int, *, timeout: float | None = None) -> LeaseKeepAliveResult:
        """Begins a lease's TTL anew, counted from the moment of this call, not of its answer. Raises LeaseNotFound;
        Overloaded if at the deadline it is neither there nor gone, but about to end."""
        return expect(LeaseKeepAliveResult, self.execute(LeaseKeepAlive(lease), timeout=timeout))

    def lease_time_to_live(
        self: Executes, lease: int, *, keys: bool = False, timeout: float | None = None
    ) -> LeaseTimeToLiveResult:
        """What a lease has left and, with `keys`, which keys are attached to it. Raises LeaseNotFound."""
        request = LeaseTimeToLive(lease, keys)
        return expect(LeaseTimeToLiveResult, self.execute(request, timeout=timeout))

    def leases(self: Executes, *, timeout: float | None = None) -> tuple[int, ...]:
        """The ids of all leases, ascending."""
        return expect(LeaseListResult, self.execute(LeaseList(), timeout=timeout)).ids


class AsyncLeaseCalls:
    """Leases for the asyncio client; see LeaseCalls."""

    async def lease_grant(
        self: AsyncExecutes, ttl: float, *, lease: int = 0, timeout: float | None = None
    ) -> LeaseGrantResult:
        """See LeaseCalls.lease_grant."""
        return expect(LeaseGrantResult, await self.execute(LeaseGrant(ttl_ms(ttl), lease), timeout=timeout))

    async def lease_revoke(self: AsyncExecutes, lease: int, *, timeout: float | None = None) -> LeaseRevokeResult:
        """Ends a lease and deletes its keys, all at one revision. Raises LeaseNotFound."""
        return expect(LeaseRevokeResult, await self.execute(LeaseRevoke(lease), timeout=timeout))

    async def lease_keep_alive(
        self: AsyncExecutes, lease: int, *, timeout: float | None = None
    ) -> LeaseKeepAliveResult:
        """Begins a lease's TTL anew, counted from the moment of this call, not of its answer. Raises LeaseNotFound;
        Overloaded if at the deadline it is neither there nor gone, but about to end."""
        return expect(LeaseKeepAliveResult, await self.execute(LeaseKeepAlive(lease), timeout=timeout))

    async def lease_time_to_live(
        self: AsyncExecutes, lease: int, *, keys: bool = False, timeout: float | None = None
    ) -> LeaseTimeToLiveResult:
        """What a lease has left and, with `keys`, which keys are attached to it. Raises LeaseNotFound."""
        request = LeaseTimeToLive(lease, keys)
        return expect(LeaseTimeToLiveResult, await self.execute(request, timeout=timeout))

    async def leases(self: AsyncExecutes, *, timeout: float | None = None) -> tuple[int, ...]:
        """The ids of all leases, ascending."""
        return expect(LeaseListResult, await self.execute(LeaseList(), timeout=timeout)).ids
