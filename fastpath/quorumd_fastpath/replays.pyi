class ReplayWindows:
    """Which numbered request datagrams were taken; see replays.pyx. `turned_away`: of clients that found no room."""

    def __init__(self, clients: int, life: int) -> None: ...
    @property
    def turned_away(self) -> int: ...
    def take(self, client: int, number: int, now: int) -> bool:
        """Whether datagram `number` of `client` is the first of its kind; it is not, from then on."""
