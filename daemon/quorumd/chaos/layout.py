"""The config files of a cluster that is made for a while, and the lanes of the relay between its nodes.

Behind a relay each node's config names lanes as its peers' addresses, its own address excepted.
"""

import secrets
from pathlib import Path

import yaml

from quorumd.chaos.links import Link
from quorumd.chaos.relay import LaneSettings
from quorumd.config import Config, load_config
from quorumd.supervisor.sandbox import free_ports, private_host, settings_of
from quorumd.types import NodeId


def lane_name(link: Link) -> str:
    """Of one direction between two nodes."""
    return f"{link[0]}>{link[1]}"


def write_configs(
    config: Config, directory: Path, nodes: tuple[NodeId, ...], seed: int, *, relayed: bool = True
) -> tuple[list[LaneSettings], Config]:
    """node-N.yaml for every node, cluster.yaml for whoever asks from outside: that config, and the relay's lanes.

    relayed: whether peers reach each other through lanes; without it there are none.
    """
    host = private_host()
    links = [(one, other) for one in nodes for other in nodes if one != other] if relayed else []
    ports = free_ports(host, 2 * len(nodes) + len(links))
    peers, clients, lane_ports = ports[: len(nodes)], ports[len(nodes) : 2 * len(nodes)], ports[2 * len(nodes) :]
    lanes = [
        LaneSettings(lane_name(link), (host, port), (host, peers[nodes.index(link[1])]), seed + 2 * i)
        for i, (link, port) in enumerate(zip(links, lane_ports, strict=True))
    ]
    heard_at = dict(zip(links, lane_ports, strict=True))
    plain = settings_of(config)
    if config.key_file is not None:
        key_path = directory / "cluster.key"
        key_path.touch(mode=0o600)
        key_path.write_text(secrets.token_hex(32))
        plain["key_file"] = key_path.name

    def write(name: str, data_dir: str, owner: NodeId | None) -> Path:
        members = []
        for i, node in enumerate(nodes):
            peer = heard_at.get((owner or node, node), peers[i])
            members.append({"id": node, "peer": f"{host}:{peer}", "client": f"{host}:{clients[i]}"})
        path = directory / name
        path.write_text(yaml.safe_dump({**plain, "data_dir": data_dir, "nodes": members}))
        return path

    for node in nodes:
        write(f"node-{node}.yaml", f"node-{node}/cache", node)
    return lanes, load_config(write("cluster.yaml", "unused", None))
