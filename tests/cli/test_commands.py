"""Command line: arguments, output and exit codes, with a client that only remembers what it was asked."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from addresses import private_host

from quorumd import errors
from quorumd.cli import cluster, data, main, options
from quorumd.cli.main import COMMANDS, run
from quorumd.commands import CompactResult, DeleteResult, KeyValue, PutResult, RangeResult
from quorumd.sim.scenario import ALL_FAULTS
from quorumd.supervisor.figures import Acceptance

HISTORY = str(Path(__file__).parent.parent / "checker" / "example.jsonl")
CONFIG = "cluster: c\nnodes: [{id: 1, peer: '127.0.0.1:7101', client: '127.0.0.1:7201'}]\n"


def kv(key: bytes, value: bytes) -> KeyValue:
    return KeyValue(key, value, create_revision=2, mod_revision=5, version=3, lease=0)


class FakeClient:
    """Answers from a script; an answer that is an error is raised."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.answers: dict[str, list] = {}

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self.calls.append(("close",))

    def __getattr__(self, name: str):
        if name not in ("put", "get", "range", "delete_range", "cas", "compact", "transfer_leader"):
            raise AttributeError(name)

        def call(*args, **options):
            self.calls.append((name, *args, *([options] if options else [])))
            answer = self.answers[name].pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


@pytest.fixture
def client(monkeypatch) -> FakeClient:
    fake = FakeClient()
    for module in (data, cluster):
        monkeypatch.setattr(module, "connect", lambda timeout_s: fake)
    return fake


@pytest.fixture
def cli(capfdbinary):
    def call(*arguments: str) -> tuple[int, bytes, str]:
        code = run(list(arguments))
        captured = capfdbinary.readouterr()
        return code, captured.out, captured.err.decode()

    return call


# -- put, get, range, del, cas --------------------------------------------------------------------------------------


def test_put(client, cli):
    client.answers["put"] = [PutResult(2)]
    assert cli("put", "greeting", "hello") == (0, b"OK\n", "")
    assert client.calls == [("put", b"greeting", b"hello"), ("close",)]


def test_put_takes_bytes_from_stdin(client, cli, monkeypatch):
    client.answers["put"] = [PutResult(2)]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x00\xff\n")))
    assert cli("put", "k", "-")[0] == 0
    assert client.calls[0] == ("put", b"k", b"\x00\xff\n")


def test_arguments_that_are_no_utf8_arrive_as_they_were_typed(client, cli):
    client.answers["put"] = [PutResult(2)]
    cli("put", b"\xff".decode("utf-8", "surrogateescape"), "v")
    assert client.calls[0] == ("put", b"\xff", b"v")


def test_get_prints_the_value_alone(client, cli):
    client.answers["get"] = [kv(b"k", b"\xfe value")]
    assert cli("get", "k") == (0, b"\xfe value\n", "")
    assert client.calls[0] == ("get", b"k", {"revision": 0, "stale": False})


def test_get_stale(client, cli):
    client.answers["get"] = [kv(b"k", b"v")]
    assert cli("get", "k", "--stale")[0] == 0
    assert client.calls[0] == ("get", b"k", {"revision": 0, "stale": True})


def test_get_at_a_revision(client, cli):
    client.answers["get"] = [kv(b"k", b"v")]
    assert cli("get", "k", "--rev", "7")[0] == 0
    assert client.calls[0] == ("get", b"k", {"revision": 7, "stale": False})


def test_compact(client, cli):
    client.answers["compact"] = [CompactResult(9)]
    assert cli("compact", "7") == (0, b"OK\n", "")
    assert client.calls[0] == ("compact", 7)
    assert cli("compact", "0")[0] == 2


def test_get_of_a_missing_key_is_refused_on_stderr(client, cli):
    client.answers["get"] = [None]
    assert cli("get", "k") == (1, b"", "quorumd: no key 'k'\n")


@pytest.mark.parametrize(
    ("arguments", "span"),
    [
        ([], (b"\0", b"\0")),
        (["b"], (b"b", b"\0")),
        (["b", "d"], (b"b", b"d")),
        (["--prefix", "ab"], (b"ab", b"ac")),
    ],
)
def test_the_span_of_a_range(client, cli, arguments, span):
    client.answers["range"] = [RangeResult(5, (kv(b"b", b"1"), kv(b"c", b"2")), False, 2)]
    assert cli("range", *arguments) == (0, b"b\t1\nc\t2\n", "")
    assert client.calls[0] == ("range", *span, {"limit": 0, "stale": False})


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0"), (b"a\x00", b"a\x01")]
)
def test_the_end_of_a_prefix(prefix, end):
    assert data.prefix_end(prefix) == end


def test_range_passes_its_limit_on(client, cli):
    client.answers["range"] = [RangeResult(5, (kv(b"a", b"1"),), True, 9)]
    assert cli("range", "--limit", "1", "--stale") == (0, b"a\t1\n", "")
    assert client.calls[0] == ("range", b"\0", b"\0", {"limit": 1, "stale": True})


def test_range_as_json_is_an_object_a_line(client, cli):
    client.answers["range"] = [RangeResult(5, (kv("clé".encode(), b"\xff"),), False, 1)]
    code, out, _ = cli("range", "--json")
    assert code == 0
    assert json.loads(out) == {
        "key": "clé", "value": {"base64": "/w=="}, "create_revision": 2, "mod_revision": 5, "version": 3, "lease": 0,
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [["--prefix"], ["--prefix", "a", "b"]])
def test_prefix_takes_a_start_alone(client, cli, arguments):
    assert cli("range", *arguments) == (2, b"", "quorumd: --prefix takes START alone (see `quorumd range --help`)\n")


def test_del_prints_how_many(client, cli):
    client.answers["delete_range"] = [DeleteResult(5, 1), DeleteResult(6, 4), DeleteResult(6, 0)]
    assert cli("del", "k") == (0, b"1\n", "")
    assert cli("del", "k", "--prefix") == (0, b"4\n", "")
    assert cli("del", "k") == (0, b"0\n", "")
    assert [call for call in client.calls if call[0] != "close"] == [
        ("delete_range", b"k", b""), ("delete_range", b"k", b"l"), ("delete_range", b"k", b""),
    ]  # fmt: skip


def test_cas(client, cli):
    client.answers["cas"] = [True, False, True, False]
    assert cli("cas", "k", "old", "new") == (0, b"OK\n", "")
    assert cli("cas", "k", "old", "new") == (1, b"", "quorumd: key 'k' does not hold that value; nothing was changed\n")
    assert cli("cas", "k", "new", "--absent") == (0, b"OK\n", "")
    assert cli("cas", "--absent", "k", "new") == (1, b"", "quorumd: key 'k' exists; nothing was changed\n")
    assert [call for call in client.calls if call[0] != "close"] == [
        *[("cas", b"k", b"old", b"new")] * 2, *[("cas", b"k", None, b"new")] * 2,
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [["k"], ["k", "a"], ["k", "a", "b", "c"], ["k", "a", "b", "--absent"]])
def test_cas_with_too_few_or_many_values(client, cli, arguments):
    code, out, err = cli("cas", *arguments)
    assert (code, out) == (2, b"")
    assert err.startswith("quorumd: cas takes KEY, then ")
    assert client.calls == []


def test_transfer_leader(client, cli, tmp_path):
    client.answers["transfer_leader"] = [None, None, errors.Rejected("node 3 is not a follower")]
    assert cli("transfer-leader")[0] == 0
    assert cli("transfer-leader", "3")[0] == 0
    assert cli("transfer-leader", "3") == (1, b"", "quorumd: node 3 is not a follower\n")
    assert [call for call in client.calls if call[0] != "close"] == [("transfer_leader", to) for to in (0, 3, 3)]
    assert cli("transfer-leader", "9")[0] == 2


# -- errors -----------------------------------------------------------------------------------------------------------

DEFINITE = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.Definite)]
INDEFINITE = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.Indefinite)]


@pytest.mark.parametrize("kind", DEFINITE, ids=lambda kind: kind.__name__)
def test_definite_errors_are_1(client, cli, kind):
    client.answers["put"] = [kind("it did not\nhappen")]
    assert cli("put", "k", "v") == (1, b"", "quorumd: it did not happen\n")


@pytest.mark.parametrize("kind", [*INDEFINITE, errors.ProtocolError], ids=lambda kind: kind.__name__)
def test_indefinite_errors_are_3(client, cli, kind):
    client.answers["put"] = [kind("who knows")]
    assert cli("put", "k", "v") == (3, b"", "quorumd: who knows\n")


def test_an_error_without_words_has_those_of_its_class(client, cli):
    client.answers["put"] = [errors.Timeout()]
    assert cli("put", "k", "v")[2] == "quorumd: The deadline passed before an answer came\n"


def test_a_defect_is_one_line_and_unknown(client, cli, monkeypatch):
    client.answers["put"] = [RuntimeError("oh\nno"), RuntimeError("oh")]
    monkeypatch.delenv("QUORUMD_TRACEBACK", raising=False)
    code, _, err = cli("put", "k", "v")
    assert (code, err) == (3, "quorumd: internal error: RuntimeError: oh no (QUORUMD_TRACEBACK=1 shows where)\n")
    monkeypatch.setenv("QUORUMD_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        cli("put", "k", "v")


def test_ctrl_c_is_130(client, cli, monkeypatch):
    def interrupted(timeout_s: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "connect", interrupted)
    assert cli("put", "k", "v")[0] == 130


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "No such command 'nope'"),
        (["put", "k"], "Missing argument 'VALUE'"),
        (["get", "k", "--nope"], "No such option"),
        (["node"], "Missing option '--id'"),
        (["node", "--id", "one"], "'one' is not a valid integer"),
        (["node", "--id", "1", "--bootstrap", "0"], "'0' is no cluster id"),
        (["node", "--id", "1", "--bootstrap", "1" * 17], "is no cluster id"),
        (["get", "k", "--timeout", "0"], "--timeout"),
        (["logdump", "/no/such/file"], "does not exist"),
        (["completion", "tcsh"], "tcsh"),
    ],
)
def test_usage_errors_are_2_and_one_line(cli, arguments, words):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, b"")
    assert err.startswith("quorumd: ")
    assert words in err
    assert err.count("\n") == 1


def without_reader(*arguments: str) -> tuple[int, bytes]:
    """Exit code and stderr of a command whose stdout nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "quorumd", *arguments]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["check", HISTORY], ["check-config", "--schema"], ["--help"], ["check", "--help"], ["--version"]],
    ids=lambda arguments: " ".join(arguments[:2]) if "--help" in arguments else arguments[0],
)
def test_a_reader_that_left_is_neither_done_nor_refused(arguments):
    assert without_reader(*arguments) == (141, b"")


def test_a_complaint_that_nobody_reads_keeps_its_exit_code():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "quorumd", "check", "/no/such/file"]
        assert subprocess.run(command, stderr=writer, check=False).returncode == 2
    finally:
        os.close(writer)


def test_a_reader_that_left_before_the_last_flush(client, monkeypatch, capfd):
    class Unread(io.StringIO):
        def flush(self):
            raise BrokenPipeError

        def fileno(self):
            return spare

    spare = os.dup(2)
    try:
        client.answers["transfer_leader"] = [None]
        monkeypatch.setattr(sys, "stdout", Unread())
        monkeypatch.setattr(cluster.click, "echo", print)
        assert run(["transfer-leader"]) == 141
    finally:
        os.close(spare)


# -- what options take ------------------------------------------------------------------------------------------------


def commands(group, path=()):
    """(words, command) of every command there is."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_every_number_with_a_fraction_is_finite():
    kinds = {(*words, param.name): param.type for words, command in commands(main.cli) for param in command.params}
    found = {place for place, kind in kinds.items() if isinstance(kind, click.types.FloatParamType)}
    assert {("get", "timeout_s"), ("lease", "grant", "ttl"), ("lock", "wait_s"), ("chaos", "seconds")} < found
    assert [place for place in found if not isinstance(kinds[place], options.Finite)] == []


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e308"])
@pytest.mark.parametrize(
    "arguments",
    ["get k --timeout={}", "lease grant -- {}", "chaos --seconds={}", "lock --wait={} l true", "down --timeout={}"],
)
def test_times_are_finite(cli, arguments, value):
    code, out, err = cli(*arguments.format(value).split())
    assert (code, out, err.count("\n")) == (2, b"", 1)
    assert f"{float(value)} is not in the range" in err


OUTPUTS = [["check", HISTORY, "--html"], ["chaos", "--history"], ["sim", "--history"], ["sim", "--trace"]]


@pytest.mark.parametrize("arguments", [*OUTPUTS, ["compare", "--report"], ["compare", "--json"]], ids=" ".join)
def test_a_place_that_cannot_be_written_is_known_before_anything_is_done(cli, tmp_path, monkeypatch, arguments):
    missing = tmp_path / "no" / "file"
    code, out, err = cli(*arguments, str(missing))
    assert (code, out) == (2, b"")
    assert f"{missing}: there is no directory {missing.parent}; make it, or name another place" in err
    assert cli(*arguments, str(tmp_path))[0] == 2
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **rest: path != tmp_path and access(path, mode, **rest))
    code, out, err = cli(*arguments, str(tmp_path / "file"))
    assert (code, out) == (2, b"")
    assert f"{tmp_path / 'file'}: {tmp_path} cannot be written; " in err


# -- exit code 1 is a verdict of what judges --------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), errors.Stopped("the relay is gone")])
def test_what_keeps_a_check_from_its_verdict_is_3(cli, monkeypatch, error):
    class Run:
        def __init__(self, *arguments):
            raise error

    import quorumd.sim.run

    monkeypatch.setattr(quorumd.sim.run, "Run", Run)
    code, out, err = cli("sim", "--seed", "1")
    assert (code, out) == (3, b"")
    assert err == f"quorumd: the simulation could not go on, so nothing is judged: {error}\n"


def test_a_page_that_cannot_be_written_changes_no_verdict(cli):
    plain, _, _ = cli("check", HISTORY)
    code, out, err = cli("check", HISTORY, "--html", "/dev/full")
    assert code == plain and b"shown in" not in out
    assert err.startswith("quorumd: /dev/full was not written: [Errno 28] ")


# -- which cluster ----------------------------------------------------------------------------------------------------


@pytest.fixture
def three_ways(tmp_path, monkeypatch, cli):
    """Which config `check-config` took, given an environment variable and arguments."""
    for name in ("argument", "option", "global", "env"):
        (tmp_path / f"{name}.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUORUMD_CONFIG", "env.yaml")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # the built-in cluster may be in use here

    def call(*arguments: str) -> str:
        code, out, _ = cli(*arguments)
        assert code == 0
        return out.decode().partition(".yaml")[0]

    return call


def test_the_config_is_argument_then_option_then_environment_then_built_in(three_ways, monkeypatch):
    outer, inner = ("--config", "global.yaml"), ("--config", "option.yaml")
    assert three_ways(*outer, "check-config", "argument.yaml", *inner) == "argument"
    assert three_ways(*outer, "check-config", *inner) == "option"
    assert three_ways("--config", "global.yaml", "check-config") == "global"
    assert three_ways("check-config") == "env"
    monkeypatch.delenv("QUORUMD_CONFIG")
    assert three_ways("check-config").endswith("quorumd/default")


def test_a_client_is_made_from_the_config(tmp_path, monkeypatch, cli):
    made = []

    class Client:
        @staticmethod
        def connect(endpoints, key=None, timeout=5.0):
            made.append((endpoints, key, timeout))
            raise errors.Timeout("nobody there")

    import quorumd.client

    monkeypatch.setattr(quorumd.client, "Client", Client, raising=False)
    (tmp_path / "key").write_text("ab" * 32)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "c.yaml").write_text(CONFIG + "key_file: key\n")
    assert cli("get", "k", "--config", str(tmp_path / "c.yaml"), "--timeout", "1.5")[0] == 3
    assert made == [(["127.0.0.1:7201"], b"\xab" * 32, 1.5)]


@pytest.mark.parametrize(
    ("command", "code", "complaint"),
    [
        (
            ["get", "k", "--timeout", "0.05"], 3,
            "no node answered within 0.05 s at {address}: nodes down, wrong addresses, another cluster id or another "
            "cluster key; `quorumd up` starts a cluster, `quorumd status` shows its nodes",
        ),
        (["status"], 1, "no node answers; `quorumd up` starts the cluster"),
    ],
    ids=["get", "status"],
)
def test_where_no_node_answers_the_remedy_is_named(cli, tmp_path, command, code, complaint):
    host = private_host()
    (tmp_path / "c.yaml").write_text(CONFIG.replace("127.0.0.1", host) + "data_dir: state\n")
    found, _, said = cli(*command, "--config", str(tmp_path / "c.yaml"))
    assert (found, said) == (code, f"quorumd: {complaint.format(address=f'{host}:7201')}\n")


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_every_command_exists_and_explains_itself(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for name in COMMANDS:
        assert f"  {name} ".encode() in out
        code, text, _ = cli(name, "--help")
        assert code == 0
        assert text.startswith(f"Usage: quorumd {name} ".encode())


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        *((name, "[CONFIG]") for name in ("up", "down", "status", "bench", "compare", "chaos", "check-config", "node")),
        ("cas", "KEY [EXPECTED] NEW"),
    ],
)
def test_what_may_be_left_out_stands_in_brackets(cli, command, arguments):
    assert cli(command, "--help")[1].startswith(f"Usage: quorumd {command} [OPTIONS] {arguments}\n".encode())


def test_the_help_names_every_fault_that_the_simulator_knows(cli):
    text = re.sub(r"-\n\s+", "-", cli("sim", "--help")[1].decode())  # it breaks lines at hyphens too
    assert {word.strip(",;.") for word in text.split()} >= set(ALL_FAULTS)


def test_hidden_switches_stay_hidden(cli):
    text = cli("up", "--help")[1]
    assert b"--restart-delay-ms" not in text
    assert b"-fd" not in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(cli, shell):
    code, out, _ = cli("completion", shell)
    assert code == 0
    assert b"_QUORUMD_COMPLETE" in out


def test_completion_knows_the_commands():
    environment = {"_QUORUMD_COMPLETE": "bash_complete", "COMP_WORDS": "quorumd tr", "COMP_CWORD": "1", "PATH": ""}
    command = [sys.executable, "-c", "from quorumd.cli.main import main; main()"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["plain,transfer-leader"]


def test_version(cli):
    code, out, _ = cli("--version")
    assert code == 0
    assert out.startswith(b"quorumd, version 0.")


def test_a_node_imports_no_more_than_it_needs(tmp_path):
    """What a node carries for months: no rich, no psutil, no client, nothing of the supervisor."""
    (tmp_path / "c.yaml").write_text(CONFIG + "data_dir: state\n")
    script = (
        "import sys, types\n"
        "node = types.ModuleType('quorumd.node')\n"
        "node.run_node = lambda *arguments: 7\n"
        "sys.modules['quorumd.node'] = node\n"
        "from quorumd.cli.main import run\n"
        "assert run(['node', sys.argv[1], '--id', '1']) == 7\n"
        "names = ('rich', 'psutil', 'quorumd.client', 'quorumd.supervisor', 'quorumd.configerrors', 'hdrh')\n"
        "print([name for name in names if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "c.yaml")], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_node_passes_its_arguments_on(tmp_path, monkeypatch, cli):
    import quorumd.node

    passed = []

    def run_node(config, *rest):
        passed.append((config.cluster, *rest))
        return 4

    monkeypatch.setattr(quorumd.node, "run_node", run_node)
    (tmp_path / "c.yaml").write_text(CONFIG)
    file = str(tmp_path / "c.yaml")
    assert cli("node", file, "--id", "1")[0] == 4
    assert cli("node", file, "--id", "1", "--bootstrap", "aB", "--parent-pid", "5")[0] == 4
    assert cli("node", file, "--id", "1", "--bootstrap")[0] == 4
    assert passed == [("c", 1, None, None), ("c", 1, 0xAB, 5), ("c", 1, True, None)]


def test_down_without_a_cluster_is_refused(tmp_path, cli):
    (tmp_path / "c.yaml").write_text(CONFIG + "data_dir: state\n")
    assert cli("down", str(tmp_path / "c.yaml")) == (1, b"", f"quorumd: no cluster runs on {tmp_path}/state\n")


def test_modules_of_the_command_line_are_found():
    assert main.CONFIG_KEY == options.CONFIG_KEY


@pytest.mark.parametrize(
    ("shares", "shown"),
    [
        ({1: 1.0, 2: 0.9996, 3: 1.0}, "acceptance ratio 1.000, "),
        ({1: 1.0, 2: 0.5, 3: 0.0}, "acceptance ratio 0.500 (node 2 0.500, node 3 0.000), "),
    ],
)
def test_status_names_the_nodes_that_did_not_accept_everything(shares, shown):
    assert cluster._shares(Acceptance(sum(shares.values()) / 3, shares)) == shown
    assert cluster._shares(None) == ""
