"""A cluster of real processes with a relay between its nodes, for the scripts that cut links."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from harness import Failed

from quorumd import config as configs
from quorumd.chaos.cluster import ChaosCluster, sentence
from quorumd.chaos.links import LinkState
from quorumd.chaos.verdict import agreed
from quorumd.types import NodeId

AGREE_S = 60.0
ASK_S = 0.05
CUT = LinkState(cut=True)
MEMBER = "  - {id: 1, peer: '127.0.0.1:1', client: '127.0.0.1:2'}\n"  # the cluster has addresses of its own


class RelayedCluster:
    """The cluster, and what its nodes last said of themselves. For `async with`."""

    def __init__(self, engine: str, nodes: int) -> None:
        self.engine = engine
        self.base = Path(tempfile.mkdtemp(prefix="quorumd-bench-"))
        path = self.base / "cluster.yaml"
        path.write_text(f"cluster: bench\ndata_dir: data\nengine: {engine}\nnodes:\n{MEMBER}")
        config = configs.load_config(path)
        self.timeout_s = config.timing.election_timeout_ms / 1000
        self.cluster = ChaosCluster(config, self.base, nodes=nodes, seed=1, disks=None)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, self.base, ignore_errors=True)
            stack.push_async_callback(self.cluster.close)
            await self.cluster.start()
            stack.push_async_callback(self._stop)
            self.beside(self._watch())
            await self._opened(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def _opened(self, stack: AsyncExitStack) -> None:
        """What a script needs besides, and closes with `stack`."""
        await self.agree()

    def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` until the end."""
        self._tasks.append(asyncio.create_task(work))

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self.cluster.ask()
            await asyncio.sleep(ASK_S)

    async def agree(self) -> None:
        """Waits until one node leads and all have applied the same but for what is under way. Raises Failed."""
        await until(self._agreed, AGREE_S, lambda: sentence(self.cluster.statuses(), self.cluster.states()))

    def _agreed(self) -> bool:
        told = self.cluster.statuses()
        level = {node: {**status, "applied": 0, "digest": 0} for node, status in told.items()}
        applied = [status.get("applied") for status in told.values()]
        numbers = [each for each in applied if isinstance(each, int)]
        return agreed(level, self.cluster.nodes) and bool(self.leader) and max(numbers) - min(numbers) < 1000

    @property
    def leader(self) -> NodeId:
        return self.cluster.leader()

    def newest_term(self) -> int:
        """The newest term or ballot in which a node was seen to lead."""
        told = [s.get("term") for s in self.cluster.statuses().values() if s.get("role") == "leader"]
        return max((term for term in told if isinstance(term, int)), default=0)


async def until(condition: Callable[[], bool], seconds: float, state: Callable[[], str]) -> None:
    """Raises Failed, with the state, if `condition` does not hold within `seconds`."""
    deadline_s = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline_s:
            raise Failed(f"not within {seconds:g} s: all nodes follow one leader; {state()}")
        await asyncio.sleep(ASK_S)
