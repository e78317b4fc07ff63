"""What one at a time may do, where an exception may strike at any instruction."""


class Seat:
    """Held by one object at a time, by identity: who does not know whether it took it may give it back.

    Around a lock's acquisition nobody can know: a signal's handler may raise between it and whatever follows, and then
    the lock stays locked for good. An RLock knows its thread; but a callback on that thread is somebody else.
    """

    __slots__ = ("_holder",)

    def __init__(self) -> None:
        self._holder: dict[None, object] = {}  # of one item at most: setdefault compares and sets at once

    @property
    def taken(self) -> bool:
        """Whether anybody holds it."""
        return bool(self._holder)

    def take(self, who: object) -> bool:
        """Whether `who` holds it now: nobody did, or it did."""
        return self._holder.setdefault(None, who) is who

    def leave(self, who: object) -> bool:
        """Gives it back if `who` holds it; whether it did."""
        if self._holder.get(None) is not who:
            return False
        self._holder.clear()
        return True
