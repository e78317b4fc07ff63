"""`quorumd bench`: its report, and what it refuses; test_cluster.py runs it against real nodes."""

import os

import pytest

from quorumd import config as configs
from quorumd.cli import bench
from quorumd.cli.main import run
from quorumd.errors import Rejected

CONFIG = "cluster: c\nnodes: [{id: 1, peer: '127.0.0.1:7101', client: '127.0.0.1:7201'}]\ntiming: {heartbeat_ms: 40}\n"
PLAN = bench.Plan(clients=10, seconds=2.0, key_bytes=16, value_bytes=256, per_datagram=1, reads=0)


class FakeGenerator:
    """A thousand operations of 1 to 1000 microseconds."""

    done = 1000
    errors = 2
    max_us = 1000

    def latencies(self):
        return [(value, 1) for value in range(1000)]


@pytest.fixture
def report():
    config = configs.parse_config(CONFIG)
    return bench.report_of(config, PLAN, FakeGenerator(), 2.0, cpu_s=0.01, rss_bytes=32 << 20)


def test_the_report_has_the_documented_keys(report):
    assert list(report) == [
        "engine", "nodes", "clients", "key_bytes", "value_bytes", "per_datagram", "seconds", "ops", "ops_per_s",
        "latency_us", "errors", "cpu_us_per_op", "rss_bytes",
    ]  # fmt: skip
    assert list(report["latency_us"]) == ["p50", "p90", "p99", "p999", "max"]


def test_the_report_says_what_was_measured(report):
    assert (report["ops"], report["ops_per_s"], report["errors"]) == (1000, 500.0, 2)
    assert report["cpu_us_per_op"] == 10.0
    assert report["latency_us"]["p50"] == pytest.approx(500, abs=2)
    assert report["latency_us"]["p99"] == pytest.approx(990, abs=2)
    assert report["latency_us"]["p999"] <= report["latency_us"]["max"] == 1000


def test_people_get_three_lines(report):
    assert bench.human(report).splitlines() == [
        "500 operations/s: 1,000 in 2.0 s, 2 errors",
        "latency in ms: p50 0.50  p90 0.90  p99 0.99  p999 1.00  max 1.00",
        "nodes: 10.0 us of CPU an operation (all 1 together), 32 MiB resident (the largest)",
    ]
    assert len(bench.human(report | {"cpu_us_per_op": None, "rss_bytes": None}).splitlines()) == 2


def test_people_are_told_what_figures_are_worth_if_much_was_refused(report):
    (*_, last) = bench.human(report | {"errors": 3000, "cpu_us_per_op": None}).splitlines()
    assert last == "75% of the operations were refused, and all figures are of the others: see `quorumd status`"


def test_a_fresh_cluster_has_the_settings_and_not_the_place_of_the_config():
    config = configs.parse_config(CONFIG + "key_file: k\ndata_dir: /precious\n")
    plain = bench._alike(config, bench.private_host())
    assert "key_file" not in plain
    assert plain["data_dir"] == "state"
    assert plain["timing"]["heartbeat_ms"] == 40
    assert plain["nodes"][0]["peer"] == f"{bench.private_host()}:7101"


def test_the_private_address_is_loopback_for_every_pid(monkeypatch):
    for pid in (1, 255, 65536, 4_194_303):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        octets = [int(octet) for octet in bench.private_host().split(".")]
        assert octets[0] == 127
        assert 128 <= octets[1] <= 191
        assert all(0 <= octet <= 255 for octet in octets)


def test_a_cluster_with_a_key_is_refused():
    with pytest.raises(Rejected, match="bench sends no MACs"):
        bench.prepare(configs.parse_config(CONFIG + "key_file: k\n"), PLAN)


@pytest.mark.parametrize("option", ["--clients=0", "--reads=101", "--key-bytes=7", "--seconds=0"])
def test_nonsense_is_a_usage_error(capsys, option):
    assert run(["bench", option]) == 2
    assert capsys.readouterr().err.startswith("quorumd: Invalid value for")
