"""The patches still fit the code, and a few of them are caught; `make mutants` runs them all."""

import re

import pytest
from mutant import ENGINES, PATCHES, ROOT, BadMutant, apply, catalogue, copy_project, load, touched_modules
from run import judge, simulate

MUTANTS = catalogue()
FEWEST = {"raft": 65, "paxos": 32}
# Fast, without a compiler, and each caught by another kind of check: of what is said, of what is counted, of lives, of
# time.
QUICK = (
    *("ack-before-fsync", "own-match-before-durable", "vote-not-persisted", "paxos-promise-before-fsync"),
    "lease-looked-at-with-sessions",
)
SEEDS = 20


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("mutants") / "copy")


def test_there_are_enough_and_each_is_another_bug():
    for engine, fewest in FEWEST.items():
        assert sum(mutant.engine == engine for mutant in MUTANTS) >= fewest
    assert len({mutant.sentence for mutant in MUTANTS}) == len(MUTANTS)
    assert len({mutant.patch.read_text().partition("\n--- ")[2] for mutant in MUTANTS}) == len(MUTANTS)


def test_the_table_names_them_all():
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("\n## Mutants\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\| ([a-z0-9-]+): ", table, re.MULTILINE)
    assert sorted(named) == sorted(mutant.name for mutant in MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_patch_applies_and_names_what_is_there(mutant, copy):
    apply(mutant, copy, dry=True)
    assert all((copy / name.partition("::")[0]).is_file() for name in mutant.tests)
    native = [name for name in mutant.files if name.startswith("fastpath/")]
    assert bool(native) == bool(touched_modules(copy, mutant.files))


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_one_is_caught(name, tmp_path):
    result = judge(load(PATCHES / f"{name}.patch"), tmp_path, SEEDS, 1)
    assert result.caught, result


@pytest.mark.parametrize("engine", ENGINES)
def test_the_unmutated_copy_is_not_caught(engine, copy):
    assert simulate(copy, (), 1, 1, engine) == ("", 1, "")


def test_a_header_file_rebuilds_every_module_made_of_it(copy):
    assert touched_modules(copy, ("fastpath/quorumd_fastpath/sessions.h",)) == ["apply", "watch"]
    assert "walframe" in touched_modules(copy, ("fastpath/quorumd_fastpath/ring.pxd",))
    assert touched_modules(copy, ("daemon/quorumd/core.py",)) == []


GOOD = "# mutant: m\n# reference: r\n# check: sim\n# caught-by: two-leaders\n--- a/x\n+++ b/daemon/quorumd/core.py\n"


@pytest.mark.parametrize(
    ("change", "to"),
    [
        ("# reference: r\n", ""),
        ("# mutant: m\n", "# mutant: m\n# mutant: n\n"),
        ("# check: sim", "# check: luck"),
        ("# check: sim", "# check: pytest"),
        ("# caught-by: two-leaders\n", ""),
        ("# caught-by: two-leaders\n", "# caught-by: two-leaders\n# sim: --seed 7\n"),
        ("# mutant: m\n", "# mutant: m\nhello\n"),
        ("# mutant: m\n", "# mutant: m\n# engine: paxos\n"),
        ("# mutant: m\n", "# mutant: m\n# engine: zab\n"),
        ("daemon/quorumd/core.py", "daemon/quorumd/sim/run.py"),
        ("daemon/quorumd/core.py", "tests/conftest.py"),
    ],
)
def test_an_incomplete_header_is_refused(change, to, tmp_path):
    patch = tmp_path / "m.patch"
    patch.write_text(GOOD)
    assert load(patch).caught_by == {"two-leaders"}
    patch.write_text(GOOD.replace(change, to))
    with pytest.raises(BadMutant):
        load(patch)


def test_a_patch_that_no_longer_applies_is_told(copy, tmp_path):
    patch = tmp_path / "m.patch"
    patch.write_text(GOOD + "@@ -1,1 +1,1 @@\n-never stood here\n+nor this\n")
    with pytest.raises(BadMutant, match="no longer applies"):
        apply(load(patch), copy, dry=True)
    assert not judge(load(patch), tmp_path, 1, 1).caught
