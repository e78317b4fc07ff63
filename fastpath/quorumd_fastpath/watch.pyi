"""Watches over the store's history; see watch.pyx. Sizes are bytes."""

from collections.abc import Sequence

from quorumd_fastpath.apply import Store

CREATED: int
"""Kinds of items: the watcher exists."""
EVENTS: int
PROGRESS: int
ENDED: int
MORE: int
"""Flag of EVENTS: the revision goes on in the watcher's next item."""
PREV_KV: int
"""Flags of a watcher: events carry what the change replaced."""
NO_PUT: int
NO_DELETE: int
FLAGS: int
ENDED_COMPACTED: int
"""Why a watcher ended, the flags of ENDED: history that it needs is gone, up to the item's revision."""
ENDED_REJECTED: int
ENDED_OVERLOADED: int

class Hub:
    """The watchers of one node, in streams that are named by small numbers. IndexError: no such stream.

    seed: random, and secret from clients, or they can choose keys and ranges that take long to search. watchers: at
    most; watcher_bytes: of their keys and ends, twice. window_bytes: of one stream, put in it and not acknowledged;
    total_bytes: of all, but for a small part of each (a sixteenth of a piece). piece_bytes: of events in one item.
    turn_cost: changes, watchers found, events given out and their bytes (512 as one more) in one feed, and in one walk.
    """

    def __init__(
        self,
        *,
        seed: int,
        watchers: int,
        watcher_bytes: int,
        window_bytes: int,
        total_bytes: int,
        piece_bytes: int,
        turn_cost: int,
    ) -> None: ...
    def open_stream(self) -> int:
        """A new stream's number. No events are put in it before open_window()."""

    def close_stream(self, slot: int) -> None:
        """Ends its watchers and forgets what nobody took; the number may be given to another stream."""

    def open_window(self, slot: int) -> None:
        """From now on up to share() of events may be in the stream unacknowledged."""

    def acknowledged(self, slot: int, size: int) -> None:
        """So many bytes that take() gave have arrived: there is room for as many."""

    def outstanding(self, slot: int) -> int:
        """Bytes put in the stream and not acknowledged."""

    def share(self, slot: int) -> int:
        """How many may be at present: window_bytes, or what is left of total_bytes if that is less; a small part of
        them always. 0 before open_window(). Of a stream with more than twice that no request is to be taken."""

    def watch(self, store: Store, slot: int, watch: int, key: bytes, end: bytes, flags: int, start: int) -> bool:
        """Begins a watcher at revision `start`, 0: at the next one. What is wrong with it is said in the stream.

        False if the stream has a watcher of that number, or a flag is unknown: nothing was done.
        """

    def cancel(self, slot: int, watch: int) -> bool:
        """Nothing more is put in the stream for that watcher; whether there was one."""

    def ask_progress(self, slot: int) -> None:
        """How far all watchers of the stream have got is said in it as soon as none is behind."""

    def pump(self, store: Store) -> tuple[Sequence[int], bool]:
        """Puts what was applied since in the streams, and continues those behind: (streams with something to take,
        whether more work is left that can be done at once). After each apply, before the next."""

    def endangered(self, store: Store) -> bool:
        """Whether pump() can do something at once for watchers that lack what the next entry may reclaim."""

    def take(self, slot: int, limit: int) -> tuple[int, bytes]:
        """(number of items, their bytes) from the front of the stream: as many as fit `limit`, at least one; (0, b"")
        if there are none."""

    @property
    def watchers(self) -> int: ...
    @property
    def watcher_bytes(self) -> int:
        """Bytes of the keys and ends of all watchers, twice: the index has copies."""

    @property
    def lagging(self) -> int:
        """Watchers that have not got everything applied."""

    @property
    def bytes(self) -> int:
        """Bytes of items in all streams that are not acknowledged."""
