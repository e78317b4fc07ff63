"""YAML to a validated, frozen config. Every refusal is one line: file, line, key, what is wrong, the remedy.

The structs below are the format: their field docs and examples feed the JSON schema (`schema()`) and the remedies.
What the machine must have (directories, key file, identity stamps) is `environment.py`'s business; nothing here
reads anything but the YAML file itself. Imports leaf modules only.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from quorumd import limits, yamlsource
from quorumd.compaction import Compaction, with_off
from quorumd.endpoint import Endpoint, numeric, parse_endpoint
from quorumd.errors import ConfigError
from quorumd.types import RAFT, NodeId
from quorumd.yamlsource import Source

DEFAULT_PATH: Final = Path(__file__).with_name("default.yaml")
ENVIRONMENT_VARIABLE: Final = "QUORUMD_CONFIG"

class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Node(_Strict, frozen=True, kw_only=True):
    """One member of the cluster."""

    id: Annotated[int, Meta(ge=1, le=65535, description="Number of the node, unique for ever.", examples=[1])]
    peer: Annotated[
        str, Meta(description="host:port (UDP) that the other nodes send to.", examples=["127.0.0.1:7101"])
    ]
    client: Annotated[
        str, Meta(description="host:port (UDP) that clients send to.", examples=["127.0.0.1:7201"])
    ]

    @property
    def peer_endpoint(self) -> Endpoint:
        return parse_endpoint(self.peer)

    @property
    def client_endpoint(self) -> Endpoint:
        return parse_endpoint(self.client)


class Timing(_Strict, frozen=True, kw_only=True):
    """Clocks of the protocol, in milliseconds."""

    heartbeat_ms: Annotated[
        int, Meta(ge=1, le=10_000, description="The leader speaks at least this often.", examples=[40])
    ] = 40
    election_timeout_ms: Annotated[
        int,
        Meta(
            ge=3, le=60_000, examples=[120],
            description="Silence after which a follower stands for election (each draws 1 to 2 times this); "
            "at least three heartbeats.",
        ),
    ] = 120
    disk_stall_ms: Annotated[
        int,
        Meta(
            ge=100, le=600_000, examples=[3000],
            description="A leader whose disk finished no sync for this long hands leadership over.",
        ),
    ] = 3000
    session_ttl_ms: Annotated[
        int,
        Meta(
            ge=1000, le=86_400_000, examples=[30_000],
            description="A client silent for this long loses its session, and with it exactly-once retries.",
        ),
    ] = 30_000


class Storage(_Strict, frozen=True, kw_only=True):
    """Disk and memory, in MiB a node."""

    segment_mib: Annotated[
        int, Meta(ge=4, le=1024, description="Size of one file of the write-ahead log.", examples=[64])
    ] = 64
    quota_mib: Annotated[
        int,
        Meta(
            ge=1, le=1 << 20, examples=[2048],
            description="Size of the store in memory above which writes are refused and deletes still work.",
        ),
    ] = 2048


class Raft(_Strict, frozen=True, kw_only=True):
    """Knobs of the raft engine."""

    max_inflight_kib: Annotated[
        int,
        Meta(
            ge=64, le=1 << 20, examples=[4096],
            description="KiB of log sent to one follower and not yet acknowledged.",
        ),
    ] = limits.DEFAULT_INFLIGHT_BYTES // limits.KIB
    lease_reads: Annotated[
        bool,
        Meta(
            description="Answer reads on the leader's lease, without a round of heartbeats: faster, and only as "
            "safe as the clocks' rates agree. Every node must have it, and election_timeout_ms, alike.",
            examples=[False],
        ),
    ] = False


class Paxos(_Strict, frozen=True, kw_only=True):
    """Knobs of the paxos engine."""

    max_inflight_kib: Annotated[
        int,
        Meta(
            ge=64, le=1 << 20, examples=[4096],
            description="KiB of log sent to one node and not yet accepted by it.",
        ),
    ] = limits.DEFAULT_INFLIGHT_BYTES // limits.KIB


class Quorums(_Strict, frozen=True, kw_only=True):
    """Flexible quorums (Howard, Malkhi & Spiegelman 2016): together they must be more than there are nodes."""

    phase1: Annotated[
        int, Meta(ge=1, le=limits.MAX_MEMBERS, description="Promises that make a leader.", examples=[2])
    ]
    phase2: Annotated[
        int, Meta(ge=1, le=limits.MAX_MEMBERS, description="Acceptances that commit a write.", examples=[2])
    ]


class CrashLoop(_Strict, frozen=True, kw_only=True):
    """When a node that keeps dying is given up."""

    restarts: Annotated[int, Meta(ge=1, le=1000, description="This many restarts ...", examples=[5])] = 5
    within_s: Annotated[int, Meta(ge=1, le=86_400, description="... within this many seconds.", examples=[30])] = 30


Delay = Annotated[int, Meta(ge=0, le=600_000)]


class Supervisor(_Strict, frozen=True, kw_only=True):
    """What `quorumd up` does around the nodes."""

    restart_backoff_ms: Annotated[
        tuple[Delay, Delay],
        Meta(
            description="Wait before the first restart of a crashed node, and the longest wait; it doubles between.",
            examples=[[100, 5000]],
        ),
    ] = (100, 5000)
    crash_loop: CrashLoop = CrashLoop()
    log_max_mib: Annotated[
        int, Meta(ge=1, le=1024, description="Size at which a log of events is rotated.", examples=[16])
    ] = 16
    log_keep: Annotated[
        int, Meta(ge=1, le=100, description="Rotated logs kept beside the current one.", examples=[4])
    ] = 4


class Settings(_Strict, frozen=True, kw_only=True):
    """A quorumd cluster: what a config file may say."""

    cluster: Annotated[
        str,
        Meta(
            pattern="^[a-z0-9][a-z0-9-]{0,62}$", examples=["local-3"],
            description="Name for people and paths: small letters, digits and dashes, at most 63.",
        ),
    ]
    nodes: Annotated[
        tuple[Node, ...],
        Meta(
            min_length=1, max_length=limits.MAX_MEMBERS, description="The members; an odd number of them.",
            examples=[[{"id": 1, "peer": "127.0.0.1:7101", "client": "127.0.0.1:7201"}]],
        ),
    ]
    engine: Annotated[
        Literal["raft", "paxos"],
        Meta(description="The consensus algorithm: raft or (Multi-)paxos.", examples=["raft"]),
    ] = "raft"
    quorums: Annotated[
        Quorums | None,
        Meta(
            description="Nodes in a quorum, with paxos only. Default: a majority for both.",
            examples=[{"phase1": 2, "phase2": 2}],
        ),
    ] = None
    data_dir: Annotated[
        str | None,
        Meta(
            description="Directory of the nodes' directories (node-1, node-2, ...); a relative one starts at this "
            "file. Default: $XDG_STATE_HOME/quorumd/CLUSTER, or ~/.local/state/quorumd/CLUSTER.",
            examples=["/var/lib/quorumd"],
        ),
    ] = None
    key_file: Annotated[
        str | None,
        Meta(
            description="File with the cluster's secret, 32 bytes or more, raw or as hex digits, not readable by "
            "others. Needed on anything but loopback; a relative one starts at this file. Default: none.",
            examples=["/etc/quorumd/cluster.key"],
        ),
    ] = None
    mtu: Annotated[
        Literal["auto"] | Annotated[int, Meta(ge=limits.MIN_MTU, le=limits.LOOPBACK_MTU)],
        Meta(
            description="Largest datagram in bytes; auto means 65000 on loopback and 1400 elsewhere.",
            examples=["auto"],
        ),
    ] = "auto"
    socket_buffer_kib: Annotated[
        int,
        Meta(ge=64, le=1 << 20, description="KiB of kernel buffer asked for on each UDP socket.", examples=[16384]),
    ] = limits.SOCKET_BUFFER_BYTES // limits.KIB
    timing: Timing = Timing()
    storage: Storage = Storage()
    compaction: Compaction = Compaction()
    raft: Raft = Raft()
    paxos: Paxos = Paxos()
    supervisor: Supervisor = Supervisor()


class Config(Settings, frozen=True, kw_only=True):
    """Settings that passed every check, and where they came from."""

    source: Source

    @property
    def path(self) -> Path:
        """The config file."""
        return Path(self.source.name)

    @property
    def data_path(self) -> Path:
        """The cluster's directory, absolute; nothing is created. Raises ConfigError if there is no home for it."""
        if self.data_dir is not None:
            return self._beside(self.data_dir)
        try:
            state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
        except RuntimeError:
            what = "there is no home directory, where the default lies"
            raise self.source.error("data_dir", what, "give a path, or set HOME or XDG_STATE_HOME") from None
        return state.absolute() / "quorumd" / self.cluster

    def node_path(self, node_id: NodeId) -> Path:
        """The directory of one node."""
        return self.data_path / f"node-{node_id}"

    @property
    def key_path(self) -> Path | None:
        """The key file, absolute; None without one. `environment.read_key` reads it."""
        return None if self.key_file is None else self._beside(self.key_file)

    def _beside(self, path: str) -> Path:
        return self.path.absolute().parent / Path(path).expanduser()

    @property
    def members(self) -> tuple[NodeId, ...]:
        """The ids of the nodes, ascending."""
        return tuple(sorted(node.id for node in self.nodes))

    def node(self, node_id: NodeId) -> Node:
        """Raises ConfigError if no node has that id."""
        for node in self.nodes:
            if node.id == node_id:
                return node
        known = ", ".join(map(str, self.members))
        raise self.source.error("nodes", f"no node has the id {node_id}", f"use one of: {known}")

    @property
    def quorum_sizes(self) -> tuple[int, int]:
        """Nodes that elect a leader, and nodes that commit."""
        if self.quorums is not None:
            return self.quorums.phase1, self.quorums.phase2
        majority = len(self.nodes) // 2 + 1
        return majority, majority

    @property
    def max_inflight_bytes(self) -> int:
        """The chosen engine's bound on what is sent to one peer and not yet acknowledged."""
        return (self.raft if self.engine == "raft" else self.paxos).max_inflight_kib * limits.KIB

    @property
    def mtu_bytes(self) -> int:
        """Largest datagram to send, in bytes."""
        if self.mtu != "auto":
            return self.mtu
        local = all(endpoint.loopback for _, endpoint in endpoints(self))
        return limits.LOOPBACK_MTU if local else limits.NETWORK_MTU

    @property
    def client_endpoints(self) -> list[str]:
        """host:port of every node's client address, for a client to try."""
        return [node.client for node in self.nodes]


# -- loading ----------------------------------------------------------------------------------------------------


def load_config(path: str | os.PathLike[str] | None = None) -> Config:
    """The validated config in file `path`; with None the embedded three-node default. Raises ConfigError."""
    data, source = yamlsource.read(DEFAULT_PATH if path is None else Path(path))
    return build(data, source)


def parse_config(text: str, name: str = "config.yaml") -> Config:
    """As `load_config`, for YAML text; `name` stands in for the file's."""
    return build(*yamlsource.parse(text, name))


def chosen_path(option: str | None) -> Path | None:
    """Which config a command means: its --config, else $QUORUMD_CONFIG, else None for the embedded default."""
    chosen = option or os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(chosen) if chosen else None


def build(data: object, source: Source) -> Config:
    """The config that plain data describes. Raises ConfigError."""
    try:
        settings = msgspec.convert(with_off(data), Settings)
    except msgspec.ValidationError as error:
        from quorumd import configerrors  # noqa: PLC0415 - costs memory that a node with a good config need not pay

        raise configerrors.explain(str(error), data, source) from None
    fields = {name: getattr(settings, name) for name in settings.__struct_fields__}
    config = Config(**fields, source=source)
    for complaint in _complaints(config):
        raise complaint
    return config


def endpoints(config: Settings) -> Iterator[tuple[str, Endpoint]]:
    """Every address of the config with its key: ("nodes[0].peer", Endpoint)."""
    for i, node in enumerate(config.nodes):
        yield f"nodes[{i}].peer", node.peer_endpoint
        yield f"nodes[{i}].client", node.client_endpoint


def warnings(config: Config) -> list[str]:
    """What is allowed and yet not wise, one line each."""
    found = []
    count = len(config.nodes)
    if count % 2 == 0:
        found.append(
            f"{config.source.name}:{config.source.line('nodes')}: nodes: {count} nodes survive no more failures "
            f"than {count - 1}; use an odd number"
        )
    if config.engine != RAFT and config.raft.lease_reads:
        found.append(
            f"{config.source.name}:{config.source.line('raft.lease_reads')}: raft.lease_reads: has no effect with "
            f"engine {config.engine}; leave it out"
        )
    return found


# -- checks that types cannot express ------------------------------------------------------------------------------


def _complaints(config: Config) -> Iterator[ConfigError]:
    yield from _address_syntax(config)
    yield from _ids(config)
    yield from _exposure(config)
    yield from _address_clashes(config)
    yield from _reach(config)
    yield from _timing(config)
    yield from _quorums(config)
    yield from _paths(config)
    if (complaint := config.compaction.complaint()) is not None:
        yield config.source.error("compaction.retain", *complaint)


def _address_syntax(config: Config) -> Iterator[ConfigError]:
    for i, node in enumerate(config.nodes):
        for field in ("peer", "client"):
            try:
                parse_endpoint(getattr(node, field))
            except ValueError as error:
                what, _, remedy = str(error).partition("; ")
                yield config.source.error(f"nodes[{i}].{field}", what, remedy)


def _ids(config: Config) -> Iterator[ConfigError]:
    seen: dict[NodeId, int] = {}
    for i, node in enumerate(config.nodes):
        if node.id in seen:
            yield config.source.error(
                f"nodes[{i}].id",
                f"id {node.id} is already used by nodes[{seen[node.id]}]",
                "give every node its own id",
            )
        seen[node.id] = i


def _address_clashes(config: Config) -> Iterator[ConfigError]:
    seen: dict[tuple[str, int], str] = {}
    for key, endpoint in endpoints(config):
        place = (numeric(endpoint.host).lower(), endpoint.port)
        if place in seen:
            what = f"port {endpoint.port} is already used by {seen[place]}"
            yield config.source.error(key, what, "give every address its own port")
        seen[place] = key


def _reach(config: Config) -> Iterator[ConfigError]:
    for plane in ("peer", "client"):
        known = [(key, endpoint) for key, endpoint in endpoints(config) if key.endswith(plane) and endpoint.family]
        for key, endpoint in known[1:]:
            first_key, first = known[0]
            if endpoint.family != first.family:
                what = f"IPv{endpoint.family}, but {first_key} is IPv{first.family}"
                yield config.source.error(key, what, "use one family for all")
            if plane == "peer" and endpoint.loopback != first.loopback:
                local, other = (key, first_key) if endpoint.loopback else (first_key, key)
                yield config.source.error(
                    local, f"a loopback address cannot be reached from {other}", "give this host's own address"
                )


def _exposure(config: Config) -> Iterator[ConfigError]:
    if config.key_file is not None:
        return
    for key, endpoint in endpoints(config):
        if not endpoint.loopback:
            yield config.source.error(
                key,
                f"{endpoint.host} is not loopback and there is no key_file, so anybody could write to the cluster",
                "make a key (openssl rand -hex 32 > cluster.key; chmod 600 cluster.key), add key_file: cluster.key",
            )


def _timing(config: Config) -> Iterator[ConfigError]:
    timing = config.timing
    least = 3 * timing.heartbeat_ms
    if timing.election_timeout_ms < least:
        given = config.source.lines.get("timing.election_timeout_ms")
        yield config.source.error(
            "timing.election_timeout_ms",
            f"{timing.election_timeout_ms} is less than three heartbeats of {timing.heartbeat_ms} ms",
            f"give at least {least} or lower timing.heartbeat_ms",
            line_of=None if given else "timing.heartbeat_ms",
        )
    shortest, longest = config.supervisor.restart_backoff_ms
    if shortest > longest:
        yield config.source.error(
            "supervisor.restart_backoff_ms", f"the first wait ({shortest}) is above the longest ({longest})",
            "write the smaller one first: [100, 5000]",
        )


def _quorums(config: Config) -> Iterator[ConfigError]:
    count, majority = len(config.nodes), len(config.nodes) // 2 + 1
    if config.engine != "paxos" and config.quorum_sizes != (majority, majority):
        yield config.source.error(
            "quorums", f"{config.engine} knows majorities only", "write engine: paxos, or leave quorums out"
        )
    yield from (config.source.error(*complaint) for complaint in quorum_complaints(config.quorums, count))


def quorum_complaints(quorums: Quorums | None, count: int) -> Iterator[tuple[str, str, str]]:
    """(key, what is wrong, remedy) if these are no quorums of `count` nodes; None stands for majorities."""
    if quorums is None:
        return
    phase1, phase2 = quorums.phase1, quorums.phase2
    large = {key: size for key, size in (("phase1", phase1), ("phase2", phase2)) if size > count}
    yield from ((f"quorums.{key}", f"{size} of {count} nodes", f"give at most {count}") for key, size in large.items())
    if phase1 + phase2 <= count:
        yield (
            "quorums",
            f"a phase-1 quorum of {phase1} and a phase-2 quorum of {phase2} of {count} nodes need not share a node, "
            "so a new leader could miss what was committed",
            f"make them at least {count + 1} together, for example phase1: {count + 1 - phase2}",
        )


def _paths(config: Config) -> Iterator[ConfigError]:
    if config.cluster.endswith("\n"):  # which `$` in the pattern lets through
        yield config.source.error("cluster", "ends with a line break", "write it as plain text: cluster: local-3")
    for key in ("data_dir", "key_file"):
        value = getattr(config, key)
        if value is not None and (not value.strip() or "\0" in value):
            yield config.source.error(key, "is empty", "give a path or leave the key out")
        elif value is not None and os.path.expanduser(value).startswith("~"):
            what = f"there is no home directory {value.partition('/')[0]}"
            yield config.source.error(key, what, "give the path without ~")


# -- what peers must agree on ---------------------------------------------------------------------------------------


def agreement(config: Config) -> dict[str, str]:
    """What nodes of a cluster tell each other of their configs, by key (transport.HASHED_KEYS). Addresses are not in
    it: one host has many names."""
    phase1, phase2 = config.quorum_sizes
    engine: str = config.engine
    if engine == RAFT and config.raft.lease_reads:  # a leader counts on what its followers refuse, and for how long
        engine += f", lease reads with election_timeout_ms {config.timing.election_timeout_ms}"
    return {
        "nodes": ",".join(map(str, config.members)),
        "engine": engine,
        "quorums": f"{phase1}+{phase2}",
        "storage.quota_mib": str(config.storage.quota_mib),
    }


@functools.cache
def schema() -> bytes:
    """The JSON schema of a config file, for editors; indented UTF-8."""
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Settings)}
    return msgspec.json.format(msgspec.json.encode(document), indent=2)
