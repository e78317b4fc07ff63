"""What `quorumd compare` runs: a small YAML file, checked like a config, one line for whatever is wrong with it.

What a file says is what is run; a key that is left out has the default of `default.yaml`, which says it all.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from quorumd import configerrors, limits, yamlsource
from quorumd.yamlsource import Kind, Source

DEFAULT_PATH: Final = Path(__file__).with_name("default.yaml")
KIND: Final = Kind("a workload", "write for example `clients: 64`")

Percent = Annotated[int, Meta(ge=0, le=100, examples=[50])]
Loss = Annotated[int, Meta(ge=0, le=90, examples=[5])]
Delay = Annotated[float, Meta(ge=0, le=1000, examples=[10])]
Nodes = Annotated[int, Meta(ge=1, le=limits.MAX_MEMBERS, examples=[3])]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Mix(_Strict, frozen=True, kw_only=True):
    """Percent of the operations; together 100."""

    reads: Percent = 50
    writes: Percent = 45
    cas: Percent = 5


class Keys(_Strict, frozen=True, kw_only=True):
    """How many keys there are, how long, and how they are drawn."""

    distribution: Annotated[Literal["uniform", "zipf"], Meta(examples=["zipf"])] = "zipf"
    count: Annotated[int, Meta(ge=1, le=1_000_000, examples=[10_000])] = 10_000
    skew: Annotated[float, Meta(gt=0, le=5, description="Zipf: the k-th key in proportion to k ** -skew.",
                                examples=[0.99])] = 0.99
    bytes: Annotated[int, Meta(ge=8, le=limits.MAX_KEY_BYTES, examples=[16])] = 16


class Values(_Strict, frozen=True, kw_only=True):
    """How long values are."""

    bytes: Annotated[int, Meta(ge=8, le=limits.LOOPBACK_MTU // 2, examples=[256])] = 256


class Loop(_Strict, frozen=True, kw_only=True):
    """closed: each client begins an operation when the last is answered; open: operations arrive at a rate."""

    kind: Annotated[Literal["closed", "open"], Meta(examples=["closed"])] = "closed"
    rate: Annotated[float | None, Meta(description="Operations a second.", examples=[2000])] = None


class Faults(_Strict, frozen=True, kw_only=True):
    """Of the base point: on every link between nodes while load is measured; and kills, after it."""

    loss_percent: Loss = 0
    delay_ms: Delay = 0.0
    leader_kills: Annotated[int, Meta(ge=0, le=100, examples=[5])] = 5


class Vary(_Strict, frozen=True, kw_only=True):
    """The values of each factor; an empty list leaves it alone."""

    loss_percent: tuple[Loss, ...] = (0, 1, 5, 10)
    delay_ms: tuple[Delay, ...] = (0.2, 10.0, 50.0)
    nodes: tuple[Nodes, ...] = (3, 5, 7)


class Workload(_Strict, frozen=True, kw_only=True):
    """The whole file."""

    name: Annotated[str, Meta(min_length=1, max_length=100, examples=["default"])] = "default"
    clients: Annotated[int, Meta(ge=1, le=10_000, examples=[64])] = 64
    mix: Mix = Mix()
    keys: Keys = Keys()
    values: Values = Values()
    loop: Loop = Loop()
    duration_s: Annotated[float, Meta(ge=0.1, le=600, description="Of a round.", examples=[0.6])] = 0.6
    rounds: Annotated[int, Meta(ge=1, le=100, examples=[6])] = 6
    nodes: Nodes = 3
    faults: Faults = Faults()
    vary: Vary = Vary()


def load(path: Path | None) -> Workload:
    """The workload in file `path`; None: the default one. Raises ConfigError with file, line, key and remedy."""
    return _build(*yamlsource.read(path or DEFAULT_PATH, KIND))


def parse(text: str, name: str) -> Workload:
    """As `load`, for text that is already here."""
    return _build(*yamlsource.parse(text, name, KIND))


def _build(data: object, source: Source) -> Workload:
    try:
        workload = msgspec.convert(data, Workload)
    except msgspec.ValidationError as error:
        raise configerrors.explain(str(error), data, source, Workload) from None
    _check(workload, source)
    return workload


def _check(workload: Workload, source: Source) -> None:
    """What types cannot express. Raises ConfigError."""
    mix, loop = workload.mix, workload.loop
    if mix.reads + mix.writes + mix.cas != 100:
        what = f"{mix.reads} + {mix.writes} + {mix.cas} percent are not 100"
        raise source.error("mix", what, "write for example `mix: {reads: 50, writes: 45, cas: 5}`")
    if mix.writes + mix.cas == 0 and workload.faults.leader_kills:
        raise source.error(
            "faults.leader_kills", "the time to the next write is measured, and the mix has none",
            "give 0, or mix.writes",
        )
    if loop.kind == "open" and (loop.rate is None or not 1 <= loop.rate <= 10_000_000):
        raise source.error("loop.rate", "an open loop needs operations a second, 1 to 10000000", "write `rate: 2000`")
    if loop.kind == "closed" and loop.rate is not None:
        raise source.error("loop.rate", "a closed loop has no rate", "write `kind: open`, or leave rate out")
    if workload.keys.distribution == "uniform" and "keys.skew" in source.lines:
        raise source.error("keys.skew", "keys drawn uniformly have no skew", "write `distribution: zipf`")
    for i, count in enumerate(workload.vary.nodes):
        if count % 2 == 0:
            raise source.error(f"vary.nodes[{i}]", f"{count} is even", "give odd numbers: they survive the same losses")
