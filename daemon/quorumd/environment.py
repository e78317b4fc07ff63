"""What a config needs of this machine, checked before anything is started or written.

Directories that can be used, a key file that is one, and identity stamps that fit: a directory of another cluster, of
another node or of a newer format is refused untouched. Reads only. Imports leaf modules and config.
"""

import enum
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from quorumd.config import Config
from quorumd.errors import UNUSABLE_LOG, ConfigError
from quorumd.limits import MAX_KEY_FILE_BYTES, MIN_CLUSTER_KEY_BYTES
from quorumd.types import RAFT, STAMP_FORMAT, NodeId

META_NAME: Final = "meta.json"
_READ_WRITE: Final = os.R_OK | os.W_OK | os.X_OK

_LOG_SEGMENT: Final = re.compile(r"wal-\d{16}\.seg")
# Whatever else a node directory may hold; all of it can be there before the first start is done.
_BESIDE: Final = re.compile(r"lock|(?:node|events)\.log(?:\.\d+)?|.*\.tmp|.*\.spare")


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """The stamp on a node's directory (meta.json). Unknown fields are left for versions that know them."""

    format: int
    cluster: str | None = None  # until the node belongs to one
    node: int
    incarnation: int = 0
    created_by: str = ""
    engine: str = RAFT  # whose log it holds


class Contents(enum.Enum):
    """What is in a directory that a config gives to a node."""

    NOTHING = "nothing"  # absent, empty, or only what a start that never finished leaves
    NODE = "node"
    LOG_WITHOUT_STAMP = "log without stamp"
    FOREIGN = "foreign"


class Directory(NamedTuple):
    """A node's directory as found. `foreign` names a file that quorumd did not put there."""

    contents: Contents
    foreign: str = ""


def inspect_directory(path: Path) -> Directory:
    """What `path` holds, by names only. Raises OSError if it cannot be listed; absent is NOTHING."""
    try:
        names = sorted(os.listdir(path))
    except FileNotFoundError:
        return Directory(Contents.NOTHING)
    logs = [name for name in names if _LOG_SEGMENT.fullmatch(name)]
    foreign = [name for name in names if name not in {META_NAME, *logs} and not _BESIDE.fullmatch(name)]
    if META_NAME in names:
        return Directory(Contents.NODE, foreign[0] if foreign else "")
    if foreign:
        return Directory(Contents.FOREIGN, foreign[0])
    return Directory(Contents.LOG_WITHOUT_STAMP if logs else Contents.NOTHING)


def read_meta(path: Path) -> Meta | None:
    """The stamp in node directory `path`; None without one. Raises ValueError (damaged) and OSError."""
    try:
        raw = (path / META_NAME).read_bytes()
    except FileNotFoundError:
        return None
    try:
        meta = msgspec.json.decode(raw, type=Meta)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path / META_NAME} is damaged ({error})") from None
    if meta.cluster is not None and not re.fullmatch(r"[0-9a-f]{16}", meta.cluster):
        raise ValueError(f"{path / META_NAME} is damaged (cluster is {meta.cluster!r})")
    return meta


def check_environment(config: Config, node_id: NodeId | None = None) -> None:
    """Refuses what would fail later: directories, key file, identity; with an id only of that node's directory.

    Reads only. Raises ConfigError with file, line, key and remedy.
    """
    read_key(config)
    _check_data_path(config)
    clusters: dict[str, Path] = {}
    for member in config.members if node_id is None else (config.node(node_id).id,):
        path = config.node_path(member)
        meta = _check_node_path(config, member, path)
        if meta is not None and meta.cluster is not None:
            clusters.setdefault(meta.cluster, path)
    if len(clusters) > 1:
        (one, first), (other, second) = list(clusters.items())[:2]
        what = f"{first} belongs to cluster {one}, {second} to cluster {other}"
        raise _error(config, what, "name another data_dir, or remove the directory that does not belong here")


def read_key(config: Config) -> bytes | None:
    """The cluster's secret, at least 32 bytes; None without a key file. Raises ConfigError."""
    path = config.key_path
    if path is None:
        return None
    make = f"make one: openssl rand -hex 32 > {path}; chmod 600 {path}"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise config.source.error("key_file", f"{path} cannot be read ({error.strerror})", make) from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise config.source.error("key_file", f"others can read {path}", f"run: chmod 600 {path}")
    text = raw.strip()
    if re.fullmatch(rb"(?:[0-9A-Fa-f]{2})+", text):
        raw = bytes.fromhex(text.decode())
    if not MIN_CLUSTER_KEY_BYTES <= len(raw) <= MAX_KEY_FILE_BYTES:
        what = f"{path} holds {len(raw)} bytes, and a key has {MIN_CLUSTER_KEY_BYTES} to {MAX_KEY_FILE_BYTES}"
        raise config.source.error("key_file", what, make)
    return raw


def has_state(config: Config, members: Iterable[NodeId] | None = None) -> list[NodeId]:
    """The nodes whose directories on this machine belong to a cluster, or hold a log. Raises OSError."""
    return [m for m in (config.members if members is None else members) if _has_state(config.node_path(m))]


def _has_state(path: Path) -> bool:
    if inspect_directory(path).contents is not Contents.NODE:
        return inspect_directory(path).contents is not Contents.NOTHING
    try:
        meta = read_meta(path)
    except ValueError:
        return True  # damaged, and so not empty
    return meta is not None and meta.cluster is not None


def _error(config: Config, what: str, remedy: str) -> ConfigError:
    return config.source.error("data_dir", what, remedy)


def _check_data_path(config: Config) -> None:
    path = config.data_path
    while True:
        try:
            mode = path.stat().st_mode
            break
        except FileNotFoundError:
            path = path.parent
        except OSError as error:
            raise _error(
                config, f"{config.data_path} cannot be used ({error.strerror})", "name a directory you can write to"
            ) from None
    if not stat.S_ISDIR(mode):
        raise _error(config, f"{path} is not a directory", "name a directory")
    if not os.access(path, _READ_WRITE, effective_ids=True):
        who = f"user {os.geteuid()}"
        raise _error(config, f"{path} cannot be written by {who}", "name another directory or change its owner")


def _check_node_path(config: Config, member: NodeId, path: Path) -> Meta | None:
    try:
        found = inspect_directory(path)
        if path.exists() and not os.access(path, _READ_WRITE, effective_ids=True):
            raise PermissionError(0, f"user {os.geteuid()} may not")
        meta = read_meta(path)
    except OSError as error:
        raise _error(config, f"{path} cannot be used ({error.strerror})", "change its owner or data_dir") from None
    except ValueError as error:
        raise _error(config, str(error), UNUSABLE_LOG) from None
    if found.contents is Contents.FOREIGN:
        what = f"{path} is no node's directory (it holds {found.foreign})"
        raise _error(config, what, "name another data_dir or empty that directory")
    if found.contents is Contents.LOG_WITHOUT_STAMP:
        what = f"{path} holds a log and no {META_NAME}"
        raise _error(config, what, UNUSABLE_LOG)
    if meta is None:
        return None
    if meta.format != STAMP_FORMAT:
        age = "newer" if meta.format > STAMP_FORMAT else "older"
        maker = meta.created_by or f"a version that is {age}"
        what = f"{path} has format {meta.format} (made by {maker}), this version reads {STAMP_FORMAT}"
        raise _error(config, what, f"use the {age} version or name another data_dir")
    if meta.node != member:
        owner = f" of cluster {meta.cluster}" if meta.cluster else ""
        what = f"{path} belongs to node {meta.node}{owner}, not to node {member}"
        raise _error(config, what, "put the directories back in their places or name another data_dir")
    if meta.cluster is not None and meta.engine != config.engine:
        what = f"{path} holds the log of engine {meta.engine!r}, which {config.engine!r} cannot read"
        raise config.source.error("engine", what, f"set engine: {meta.engine} again, or name another data_dir")
    return meta
