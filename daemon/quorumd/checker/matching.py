"""Bipartite matching by augmenting paths, one vertex at a time."""

from collections import deque
from collections.abc import Callable, Container, Iterable


def augment(
    start: int, edges: Callable[[int], Iterable[int]], mine: dict[int, int], theirs: dict[int, int],
    needy: Container[int],
) -> bool:
    """Matches `start` along a shortest alternating path, which ends where one is free or was matched without need.

    `mine` and `theirs` map each side to the other; those of `needy` stay matched.
    """
    came_from: dict[int, int] = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for other in edges(node):
            if other in came_from:
                continue
            came_from[other] = node
            holder = theirs.get(other)
            if holder is not None and holder in needy:
                queue.append(holder)
                continue
            if holder is not None:
                del mine[holder]
            _flip(start, other, came_from, mine, theirs)
            return True
    return False


def _flip(start: int, end: int, came_from: dict[int, int], mine: dict[int, int], theirs: dict[int, int]) -> None:
    while True:
        node = came_from[end]
        previous = mine.get(node)
        mine[node], theirs[end] = end, node
        if node == start or previous is None:
            return
        end = previous
