"""Config: what a good file means, what peers compare, what editors get. Bad files are in test_bad_configs.py."""

import json
import re
import socket
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from quorumd import config as configs
from quorumd.endpoint import Endpoint, parse_endpoint
from quorumd.environment import check_environment, has_state, read_key
from quorumd.errors import ConfigError

SHIPPED = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
ONE = "cluster: c\nnodes: [{id: 1, peer: '127.0.0.1:7101', client: '127.0.0.1:7201'}]\n"


def with_nodes(*ids: int, extra: str = "") -> configs.Config:
    nodes = ", ".join(f"{{id: {i}, peer: '127.0.0.1:{7100 + i}', client: '127.0.0.1:{7200 + i}'}}" for i in ids)
    return configs.parse_config(f"cluster: c\nnodes: [{nodes}]\n{extra}")


def test_the_embedded_default_is_three_nodes_on_loopback():
    config = configs.load_config()
    assert config.cluster == "local-3"
    assert config.engine == "raft"
    assert config.members == (1, 2, 3)
    assert [node.peer_endpoint.port for node in config.nodes] == [7101, 7102, 7103]
    assert config.client_endpoints == ["127.0.0.1:7201", "127.0.0.1:7202", "127.0.0.1:7203"]
    assert config.mtu_bytes == 65_000
    assert configs.warnings(config) == []


def test_omitted_keys_have_the_documented_defaults():
    config = configs.parse_config(ONE)
    assert (config.timing.heartbeat_ms, config.timing.election_timeout_ms) == (40, 120)
    assert (config.timing.disk_stall_ms, config.timing.session_ttl_ms) == (3000, 30_000)
    assert (config.storage.segment_mib, config.storage.quota_mib) == (64, 2048)
    assert config.supervisor.restart_backoff_ms == (100, 5000)
    assert (config.supervisor.crash_loop.restarts, config.supervisor.crash_loop.within_s) == (5, 30)
    assert config.raft.lease_reads is False


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configs_are_good_and_explain_every_key_with_the_default_that_the_code_has(path):
    config = configs.load_config(path)
    text = path.read_text()
    assert re.search(r"^engine: (raft|paxos)$", text, re.M)
    settings = msgspec.structs.asdict(configs.Settings(cluster="x", nodes=config.nodes))
    sections = {name: value for name, value in settings.items() if isinstance(value, msgspec.Struct)}
    top = {name: value for name, value in settings.items() if name not in sections}
    for where in (top, *map(msgspec.structs.asdict, sections.values())):
        for key, default in where.items():
            comment = re.search(rf"((?:^ *#.*\n)+)^ *#?{key}:", text, re.M)
            assert comment, f"{key} is not explained"
            if key in ("cluster", "nodes", "data_dir", "key_file", "crash_loop", "phase1", "phase2"):
                continue
            words = " ".join(comment[1].replace("#", " ").split())
            shown = json.dumps(default).strip('"')
            assert re.search(rf"Default: {re.escape(shown)}\b|Default: {re.escape(shown)}\.", words), (key, words)


def test_local_3_is_the_embedded_default_spelled_out():
    spelled = configs.load_config(next(path for path in SHIPPED if path.name == "local-3.yaml"))
    assert msgspec.structs.replace(spelled, source=None) == msgspec.structs.replace(configs.load_config(), source=None)


def test_lan_3_leaves_loopback_with_a_key():
    config = configs.load_config(next(path for path in SHIPPED if path.name == "lan-3.yaml"))
    assert config.key_path == config.path.absolute().parent / "cluster.key"
    assert config.mtu_bytes == 1400


def test_a_config_survives_the_round_trip_through_yaml():
    config = with_nodes(3, 1, 2, extra="mtu: 1400\nsupervisor: {restart_backoff_ms: [1, 2]}\nkey_file: k\n")
    plain = msgspec.to_builtins(config)
    del plain["source"]
    again = configs.parse_config(yaml.safe_dump(plain))
    assert msgspec.structs.replace(again, source=None) == msgspec.structs.replace(config, source=None)


def test_paths_start_at_the_config_file_and_the_default_at_the_state_directory(tmp_path, monkeypatch):
    file = tmp_path / "c.yaml"
    file.write_text(ONE + "data_dir: state\nkey_file: secret/key\n")
    config = configs.load_config(file)
    assert config.node_path(1) == tmp_path / "state" / "node-1"
    assert config.key_path == tmp_path / "secret" / "key"
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert configs.parse_config(ONE).data_path == Path("/xdg/quorumd/c")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert configs.parse_config(ONE).data_path == Path("/home/me/.local/state/quorumd/c")


def test_which_config_is_meant(monkeypatch):
    monkeypatch.delenv("QUORUMD_CONFIG", raising=False)
    assert configs.chosen_path(None) is None
    monkeypatch.setenv("QUORUMD_CONFIG", "env.yaml")
    assert configs.chosen_path(None) == Path("env.yaml")
    assert configs.chosen_path("option.yaml") == Path("option.yaml")


def test_anchors_and_merge_keys_work():
    config = configs.parse_config(
        "cluster: c\n"
        "nodes:\n"
        "  - &first {id: 1, peer: '127.0.0.1:7101', client: '127.0.0.1:7201'}\n"
        "  - {<<: *first, id: 2, peer: '127.0.0.1:7102', client: '127.0.0.1:7202'}\n"
        "  - {<<: *first, id: 3, peer: '127.0.0.1:7103', client: '127.0.0.1:7203'}\n"
    )
    assert [(node.id, node.peer) for node in config.nodes][1:] == [(2, "127.0.0.1:7102"), (3, "127.0.0.1:7103")]


def test_an_even_number_of_nodes_is_a_warning():
    assert configs.warnings(with_nodes(1, 2)) == [
        "config.yaml:2: nodes: 2 nodes survive no more failures than 1; use an odd number"
    ]


def test_settings_of_the_other_engine_are_a_warning():
    assert configs.warnings(with_nodes(1, 2, 3, extra="engine: paxos\nraft: {lease_reads: true}\n")) == [
        "config.yaml:4: raft.lease_reads: has no effect with engine paxos; leave it out"
    ]
    assert configs.warnings(with_nodes(1, 2, 3, extra="raft: {lease_reads: true}\n")) == []


@pytest.mark.parametrize("word", ["off", "Off", "OFF", '"off"', "'off'"])
def test_compaction_is_off_in_quotes_and_without_them(word):
    """YAML 1.1 takes the bare word for false."""
    assert with_nodes(1, extra=f"compaction: {{mode: {word}}}\n").compaction.mode == "off"


# -- what peers compare -----------------------------------------------------------------------------------------


def test_nodes_agree_on_members_engine_quorums_and_quota_and_on_nothing_else():
    one = configs.agreement(with_nodes(1, 2, 3))
    assert one == configs.agreement(with_nodes(3, 2, 1, extra="mtu: 1400\ntiming: {election_timeout_ms: 500}\n"))
    assert one["nodes"] == "1,2,3" and configs.agreement(with_nodes(1, 2, 4))["nodes"] == "1,2,4"
    assert configs.agreement(with_nodes(1, 2, 3, extra="engine: paxos\n")) == one | {"engine": "paxos"}


def test_flexible_quorums_are_part_of_what_nodes_agree_on():
    majorities = with_nodes(1, 2, 3, 4, 5, extra="engine: paxos\n")
    flexible = with_nodes(1, 2, 3, 4, 5, extra="engine: paxos\nquorums: {phase1: 4, phase2: 2}\n")
    assert (majorities.quorum_sizes, flexible.quorum_sizes) == ((3, 3), (4, 2))
    assert configs.agreement(flexible) == configs.agreement(majorities) | {"quorums": "4+2"}


def test_with_lease_reads_nodes_agree_on_them_and_on_the_election_timeout():
    """A leader's lease is what its followers refuse: with other settings they would elect another one within it."""
    reads = "raft: {lease_reads: true}\n"
    slow = configs.agreement(with_nodes(1, 2, 3, extra=f"{reads}timing: {{election_timeout_ms: 3000}}\n"))
    fast = configs.agreement(with_nodes(1, 2, 3, extra=f"{reads}timing: {{election_timeout_ms: 300}}\n"))
    assert len({each["engine"] for each in (slow, fast, configs.agreement(with_nodes(1, 2, 3)))}) == 3


# -- schema -------------------------------------------------------------------------------------------------------


def test_the_schema_describes_every_key_with_its_doc_and_default():
    schema = json.loads(configs.schema())
    definitions = schema["$defs"]
    assert set(definitions) >= {"Settings", "Node", "Timing", "Storage", "Raft", "Supervisor", "CrashLoop"}
    for name in ("Settings", "Node", "Timing", "Storage", "Raft", "CrashLoop"):
        definition = definitions[name]
        assert definition["additionalProperties"] is False
        for key, field in definition["properties"].items():
            assert "description" in field or "$ref" in json.dumps(field), (name, key)
            assert key in definition["required"] or "default" in field, (name, key)
    assert definitions["Settings"]["required"] == ["cluster", "nodes"]
    assert definitions["Timing"]["properties"]["heartbeat_ms"]["default"] == 40


# -- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "endpoint", "loopback"),
    [
        ("127.0.0.1:1", Endpoint("127.0.0.1", 1), True),
        ("127.9.8.7:65535", Endpoint("127.9.8.7", 65535), True),
        ("[::1]:7101", Endpoint("::1", 7101), True),
        ("[2001:DB8::0:1]:7101", Endpoint("2001:db8::1", 7101), False),
        ("localhost:7101", Endpoint("localhost", 7101), True),
        ("db-1.example.org:7101", Endpoint("db-1.example.org", 7101), False),
        ("192.0.2.1:7101", Endpoint("192.0.2.1", 7101), False),
    ],
)
def test_addresses(text, endpoint, loopback):
    assert parse_endpoint(text) == endpoint
    assert endpoint.loopback is loopback
    assert parse_endpoint(str(endpoint)) == endpoint


def test_localhost_is_one_address_for_everybody(monkeypatch):
    """Whatever the resolver says first: nodes, clients and whoever asks for their figures must mean the same."""
    answer = [(socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("::1", 7101, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: answer)
    assert Endpoint("localhost", 7101).resolve() == Endpoint("db.localhost", 7101).resolve() == "127.0.0.1"
    assert Endpoint("::2", 7101).resolve() == "::2"
    assert Endpoint("db-1", 7101).resolve() == "::1"


def test_a_name_is_asked_for_addresses_of_one_family_only(monkeypatch):
    asked = []

    def answer(host, port, family, kind):
        asked.append((host, port, family, kind))
        return [(family, kind, 17, "", ("::1", port, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert Endpoint("db-1", 7101).resolve(socket.AF_INET6) == "::1"
    assert asked == [("db-1", 7101, socket.AF_INET6, socket.SOCK_DGRAM)]


@pytest.mark.parametrize(
    "text",
    ["", ":7101", "host", "host:", "host:0", "host:65536", "host:7١", "::1:7101", "[::1]", "[host]:1", "999.1.1.1:1",
     "1.2.3:1", "a b:1", "-a:1", "0.0.0.0:1", "[::]:1", "224.0.0.1:1", "[fe80::1%eth0]:1", "a..b:1", "host:7101\n"],
)  # fmt: skip
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match="; "):
        parse_endpoint(text)


@given(st.text(max_size=40))
def test_parsing_an_address_gives_an_address_or_a_reason(text):
    try:
        endpoint = parse_endpoint(text)
    except ValueError as error:
        assert "; " in str(error)
    else:
        assert parse_endpoint(str(endpoint)) == endpoint


@given(st.text(max_size=200))
def test_any_text_is_a_config_or_one_line_naming_the_file(text):
    try:
        configs.parse_config(text, "any.yaml")
    except ConfigError as error:
        assert str(error).startswith("any.yaml:")
        assert "\n" not in str(error)


# -- environment ----------------------------------------------------------------------------------------------------


def key_config(tmp_path: Path, content: bytes, mode: int = 0o600) -> configs.Config:
    key = tmp_path / "key"
    key.write_bytes(content)
    key.chmod(mode)
    return configs.parse_config(ONE + "key_file: key\n", str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"00ff" * 16 + b"\n", bytes.fromhex("00ff" * 16)),
        (b"\xfe" * 32, b"\xfe" * 32),
        (b"correct horse battery staple, twice\n", b"correct horse battery staple, twice\n"),
    ],
)
def test_a_key_is_hex_digits_or_raw_bytes(tmp_path, content, key):
    assert read_key(key_config(tmp_path, content)) == key


@pytest.mark.parametrize("content", [b"", b"\xfe" * 31, b"00ff" * 15, b"\xfe" * 4097])
def test_a_key_that_is_too_short_or_long_is_refused(tmp_path, content):
    with pytest.raises(ConfigError, match="bytes, and a key has 32 to 4096; make one: openssl rand -hex 32"):
        read_key(key_config(tmp_path, content))


def test_a_key_that_others_can_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"others can read .*; run: chmod 600"):
        read_key(key_config(tmp_path, b"00ff" * 16, 0o644))


def test_checking_the_environment_creates_nothing(tmp_path):
    config = configs.parse_config(ONE + "data_dir: deep/down\n", str(tmp_path / "c.yaml"))
    check_environment(config)
    check_environment(config, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "stated"),
    [
        ({}, False),
        ({"node.log": "", "lock": "", "meta.json.tmp": ""}, False),
        ({"meta.json": '{"format": 4, "cluster": null, "node": 1, "incarnation": 5}'}, False),
        ({"meta.json": '{"format": 4, "cluster": "00000000000000aa", "node": 1, "incarnation": 5}'}, True),
        ({"meta.json": "damaged"}, True),
        ({"wal-0000000000000001.seg": ""}, True),
    ],
)
def test_what_counts_as_state(tmp_path, files, stated):
    config = configs.parse_config(ONE + f"data_dir: {tmp_path}\n")
    config.node_path(1).mkdir()
    for name, content in files.items():
        (config.node_path(1) / name).write_text(content)
    assert has_state(config) == ([1] if stated else [])
