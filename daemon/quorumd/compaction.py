"""When history goes by itself: which revision a leader proposes to compact to. Pure; a leaf.

Compaction itself is an entry of the log (Kind.COMPACT), so all nodes forget the same; only the decision is the
leader's. Nothing pins history yet: watches resume by revision, and report it when theirs is compacted, as in etcd.

The modes are etcd's (--auto-compaction-mode), but one is on by default, and both give way before the quota is used up:
a store that refuses writes because of values that were replaced long ago is of no use to anybody.
"""

import re
from collections import deque
from typing import Annotated, Final, Literal, Protocol

import msgspec
from msgspec import Meta

from quorumd.limits import COMPACT_EVERY, COMPACT_STEP, DEFAULT_RETAIN_REVISIONS, RETAIN_SAMPLES, SECOND
from quorumd.types import Nanoseconds

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
DEFAULT_RETAIN_AGE: Final = "1h"


class Compaction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the history stays."""

    mode: Annotated[
        Literal["revisions", "age", "off"],
        Meta(description="Keep a number of revisions, those of a time, or all until asked.", examples=["revisions"]),
    ] = "revisions"
    retain: Annotated[
        int | str | None,
        Meta(
            description="How many revisions, or how long (90s, 10m, 1h, 7d). Default: 100000 revisions, or 1h.",
            examples=[DEFAULT_RETAIN_REVISIONS],
        ),
    ] = None

    @property
    def revisions(self) -> int:
        """What mode revisions retains."""
        return self.retain if isinstance(self.retain, int) else DEFAULT_RETAIN_REVISIONS

    @property
    def age(self) -> Nanoseconds:
        """What mode age retains."""
        text = self.retain if isinstance(self.retain, str) else DEFAULT_RETAIN_AGE
        return int(text[:-1]) * _UNITS[text[-1]] * SECOND

    def complaint(self) -> tuple[str, str] | None:
        """What is wrong with `retain` in this mode, and the remedy; None if nothing is."""
        match self.mode, self.retain:
            case _, None:
                return None
            case "off", _:
                return "says nothing with mode: off", "leave it out"
            case "revisions", int(count):
                return None if 1 <= count < 1 << 62 else (f"{count} is no number of revisions", "give at least 1")
            case "revisions", _:
                return "must be a number of revisions with mode: revisions", "write retain: 100000, or mode: age"
            case _, str(text) if re.fullmatch(r"[1-9]\d{0,5}[smhd]", text, re.ASCII):
                return None
        return "must be a time with mode: age", "write retain: 1h; the units are s, m, h and d"


def with_off(data: object) -> object:
    """The plain data of a config, with `mode: off` as text: to YAML the bare word is false, as are no and false."""
    match data:
        case {"compaction": {"mode": False, **others}, **rest}:
            return {**rest, "compaction": {**others, "mode": "off"}}
    return data


class Figures(Protocol):
    """What a policy may know of the store; quorumd_fastpath.apply.Store has it."""

    @property
    def revision(self) -> int:
        """The newest one."""

    @property
    def compacted(self) -> int:
        """The one compacted last, 0: none."""

    @property
    def bytes(self) -> int:
        """All that counts against the quota."""

    @property
    def live_bytes(self) -> int:
        """What would without history."""

    @property
    def quota_bytes(self) -> int:
        """Above it, writes are refused."""

    @property
    def reclaiming(self) -> bool:
        """An earlier compaction is still freeing what it can."""


class CompactionPolicy:
    """One leader's decisions. Asked often; names a revision at most every COMPACT_EVERY, and only if a good part of
    what is retained can go with it, so that the log holds few compactions. A proposal that is lost is made again."""

    def __init__(self, compaction: Compaction) -> None:
        self._mode = compaction.mode
        self._revisions = compaction.revisions
        self._age = compaction.age
        self._samples: deque[tuple[Nanoseconds, int]] = deque(maxlen=2 * RETAIN_SAMPLES)
        self._next: Nanoseconds = 0

    def due(self, now: Nanoseconds, store: Figures) -> int | None:
        """The revision to compact to now, compacted < it <= revision, or None. Never in mode off."""
        if self._mode == "off" or now < self._next:
            return None
        target = self._by_age(now, store) if self._mode == "age" else self._by_revisions(store)
        target = max(target, self._by_room(store))
        if target <= store.compacted:
            return None
        self._next = now + COMPACT_EVERY
        return target

    def _by_revisions(self, store: Figures) -> int:
        target = store.revision - self._revisions
        return target if target - store.compacted >= max(1, self._revisions // COMPACT_STEP) else 0

    def _by_age(self, now: Nanoseconds, store: Figures) -> int:
        """A new leader knows no times of earlier revisions: it keeps them for one age more."""
        samples = self._samples
        if not samples or now - samples[-1][0] >= self._age // RETAIN_SAMPLES:
            samples.append((now, store.revision))
        target = 0
        while samples and now - samples[0][0] >= self._age:
            target = samples.popleft()[1]
        return target

    def _by_room(self, store: Figures) -> int:
        """Half of the revisions go when history takes half of what live keys leave of the quota."""
        history = store.bytes - store.live_bytes
        if store.reclaiming or 2 * history <= store.quota_bytes - store.live_bytes:
            return 0
        return store.compacted + (store.revision - store.compacted + 1) // 2
