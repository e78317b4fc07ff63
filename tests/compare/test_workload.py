"""The workload file: what it says is what is run, and whatever is wrong with it is named with file, line and key."""

import pytest

from quorumd.compare import workload
from quorumd.compare.workload import Workload
from quorumd.errors import ConfigError


def test_the_default_file_says_the_defaults():
    assert workload.load(None) == Workload()


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "w.yaml"
    path.write_bytes(b"clients: 3\nname: \xff\n")
    with pytest.raises(ConfigError) as caught:
        workload.load(path)
    assert str(caught.value) == f"{path}:2: not UTF-8 text; save the file as UTF-8"


def test_a_file_that_says_little_has_the_rest_by_default():
    found = workload.parse("clients: 3\nloop: {kind: open, rate: 500}\n", "w.yaml")
    assert (found.clients, found.loop.rate, found.mix.reads) == (3, 500.0, 50)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "w.yaml:1: the file is empty; write for example `clients: 64`"),
        ("# later\n", "w.yaml:1: the file is empty; write for example `clients: 64`"),
        ("clients: 3\nclinets: 4\n", "w.yaml:2: clinets: unknown key; did you mean clients?"),
        ("name: x\nclients: many\n", "w.yaml:2: clients: expected a whole number, got text many; "),
        ("clients: 0\n", "w.yaml:1: clients: 0 is out of range; give 1 to 10000"),
        (
            "keys:\n  distribution: normal\n",
            "w.yaml:2: keys.distribution: normal is not allowed; use one of: uniform, zipf",
        ),
        ("keys:\n  bytes: 7\n", "w.yaml:2: keys.bytes: 7 is out of range; give 8 to 32768"),
        ("mix: {reads: 50, writes: 50, cas: 5}\n", "w.yaml:1: mix: 50 + 50 + 5 percent are not 100; "),
        ("\nloop: {kind: open}\n", "w.yaml:2: loop.rate: an open loop needs operations a second"),
        ("loop:\n  rate: 5\n", "w.yaml:2: loop.rate: a closed loop has no rate; "),
        ("keys: {distribution: uniform,\n  skew: 1}\n", "w.yaml:2: keys.skew: keys drawn uniformly have no skew; "),
        ("mix: {reads: 100, writes: 0, cas: 0}\n", "w.yaml:1: faults.leader_kills: the time to the next write"),
        ("vary:\n  nodes: [3, 4]\n", "w.yaml:2: vary.nodes[1]: 4 is even; "),
        ("vary:\n  loss_percent: [0, 95]\n", "w.yaml:2: vary.loss_percent[1]: 95 is out of range; give 0 to 90"),
        ("duration_s: -1\n", "w.yaml:1: duration_s: -1 is not allowed "),
        ("clients: [\n", "w.yaml:2: not valid YAML: "),
    ],
)
def test_what_is_wrong_is_named(text, complaint):
    with pytest.raises(ConfigError) as caught:
        workload.parse(text, "w.yaml")
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)
