"""`quorumd chaos` around a run: exit codes, what is kept, what is refused. No process is started."""

import pytest

import quorumd.chaos.run
from quorumd.chaos.verdict import Report
from quorumd.cli.main import run
from quorumd.errors import ConfigError, Rejected, Stopped
from quorumd.invariants import InvariantBroken

NODES = "nodes: [{id: 1, peer: '127.0.0.1:7101', client: '127.0.0.1:7201'}]\n"
FIVE = ", ".join(f"{{id: {i}, peer: '127.0.0.1:{7100 + i}', client: '127.0.0.1:{7200 + i}'}}" for i in range(1, 6))


@pytest.fixture
def play(tmp_path, monkeypatch, capsys):
    """Runs `chaos` over a run that ends in `outcome`; gives back the exit code, stderr and what is left."""

    def call(outcome, *arguments, found=()):
        class ChaosRun:
            def __init__(self, config, options, directory, history, screen):
                (directory / "evidence").touch()
                self.report = Report(1, (), 3, violations=found)

            async def run(self):
                if isinstance(outcome, BaseException):
                    raise outcome
                return outcome

        (tmp_path / "c.yaml").write_text(f"cluster: c\ndata_dir: state/c\n{NODES}")
        monkeypatch.setattr(quorumd.chaos.run, "ChaosRun", ChaosRun)
        code = run(["chaos", str(tmp_path / "c.yaml"), "--faults=kill", *arguments])
        return code, capsys.readouterr().err, sorted(tmp_path.glob("state/c-chaos-*/evidence"))

    return call


@pytest.mark.parametrize(
    "error", [Stopped("the relay is gone"), Rejected("no"), OSError(28, "No space left on device")], ids=repr
)
def test_a_run_that_could_not_go_on_breaks_no_promise_and_is_kept(play, error):
    code, err, (evidence,) = play(error)
    assert code == 3
    assert err == f"quorumd: the run, kept in {evidence.parent}, could not go on, so nothing is judged: {error}\n"


def test_what_the_machine_lacks_for_a_fault_leaves_nothing(play):
    assert play(ConfigError("there is no C compiler")) == (2, "quorumd: there is no C compiler\n", [])


@pytest.mark.parametrize(
    ("report", "code", "kept"),
    [
        (Report(1, (), 3, linearizable=True), 0, 0),
        (Report(1, (), 3, linearizable=True, violations=["x"]), 1, 1),
        (Report(1, (), 3, undecided="no time"), 3, 1),
    ],
)
def test_a_verdict_is_the_exit_code(play, report, code, kept):
    found, _, left = play(report)
    assert (found, len(left)) == (code, kept)


def test_what_was_found_before_ctrl_c_is_told_and_kept(play):
    assert play(KeyboardInterrupt())[2] == []
    _, err, (evidence,) = play(KeyboardInterrupt(), found=["node 1 ended by itself"])
    assert f"quorumd: VIOLATION: node 1 ended by itself; kept in {evidence.parent}\n" in err


def test_where_a_run_is_kept_is_said_also_when_the_run_itself_has_a_defect(play):
    _, err, (evidence,) = play(InvariantBroken("a history is bounded"))
    assert f"quorumd: the run is kept in {evidence.parent}\n" in err


def test_a_place_for_the_data_that_cannot_be_made_breaks_no_promise(play, tmp_path):
    (tmp_path / "state").touch()
    code, err, left = play(Report(1, (), 3, linearizable=True))
    assert (code, left) == (3, [])
    assert err.startswith("quorumd: the run could not go on, so nothing is judged: ")


@pytest.mark.parametrize(
    ("engine", "quorums", "nodes", "complaint"),
    [
        ("paxos", (4, 2), 3, "4: quorums.phase1: 4 of 3 nodes; give at most 3, or give another --nodes"),
        ("paxos", (4, 2), 7, "4: quorums: a phase-1 quorum of 4 and a phase-2 quorum of 2 of 7 nodes"),
        ("paxos", (4, 2), 4, None),
        ("raft", (3, 3), 9, None),  # which are majorities, of whatever there is
    ],
)
def test_quorums_have_to_fit_the_nodes_asked_for(play, tmp_path, capsys, engine, quorums, nodes, complaint):
    play(Report(1, (), 3, linearizable=True))
    path = tmp_path / "five.yaml"
    sizes = f"quorums: {{phase1: {quorums[0]}, phase2: {quorums[1]}}}"
    path.write_text(f"cluster: five\ndata_dir: state/five\nengine: {engine}\n{sizes}\nnodes: [{FIVE}]\n")
    code = run(["chaos", str(path), "--faults=kill", "--nodes", str(nodes)])
    err = capsys.readouterr().err
    assert code == (2 if complaint else 0)
    assert err.startswith(f"quorumd: {path}:{complaint}") if complaint else err == ""
    assert not list((tmp_path / "state").glob("five-*"))
