"""Runs what measures this project, and writes bench/results/DATE-MACHINE.json and a table beside it.

    python bench/show.py                        # all of it
    python bench/show.py --quick idle large     # short runs of some
    python bench/show.py --floor /tmp/floor     # throughput beside the yardstick (throughput.py)

Exit code 1 if any criterion does not hold. Progress and the criteria go to stderr, the table to stdout.
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from harness import end_by_signal, machine, say

from quorumd.types import ENGINES

BENCH = Path(__file__).parent


class Script(NamedTuple):
    """point: of the list "what it must show". quick: arguments of a short run. only: the one engine that it is about,
    which it then need not be told."""

    point: str
    file: str
    full: list[str]
    quick: list[str]
    only: str = ""


SCRIPTS = {
    "failover": Script("2", "failover.py", ["--rounds", "20"], ["--rounds", "3"]),
    "crash": Script("3", "crash.py", ["--rounds", "20"], ["--rounds", "3"]),
    "powerloss": Script("3", "prove_powerloss.py", ["--rounds", "20"], ["--rounds", "3"]),
    "pause": Script("4", "pause.py", ["--rounds", "10"], ["--rounds", "2"]),
    "hostile": Script("5", "hostile.py", [], ["--datagrams", "30000"]),
    "throughput": Script("7", "throughput.py", ["--rounds", "5"], ["--rounds", "1", "--seconds", "2"]),
    "idle": Script("8", "idle.py", ["--rounds", "3"], ["--windows", "1"]),
    "large": Script("9", "large.py", ["--rounds", "20"], ["--rounds", "5"]),
    "large, lossy client": Script(
        "9", "large.py", ["--rounds", "20", "--client-loss", "0.05"], ["--rounds", "5", "--client-loss", "0.05"]
    ),
    "flexible": Script("5", "flexible.py", ["--rounds", "10"], ["--rounds", "2", "--writes", "20"], only="paxos"),
}


def run(name: str, script: Script, extra: list[str]) -> dict[str, Any]:
    """One script; what it put on stdout, or why there is nothing."""
    command = [sys.executable, str(BENCH / script.file), *extra]
    say(f"== {name}: {' '.join(command[1:])}")
    code, text = output_of(command)
    try:
        found = dict(json.loads(text))
    except ValueError:
        found = {"problem": f"exit code {code} and no JSON"}
    command_line = f"python bench/{script.file} {' '.join(extra)}".strip()
    return {**found, "point": script.point, "command": command_line, "passed": code == 0}


def output_of(command: list[str]) -> tuple[int, str]:
    """Exit code and stdout. If this process is ended the script is too, and stops its cluster before both are gone."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            text, _ = process.communicate()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return process.returncode, text


def table(results: dict[str, dict[str, Any]], where: dict[str, Any], when: str) -> str:
    """The figures for people, as Markdown."""
    lines = [
        f"# Measured on {when}",
        "",
        f"{where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB, Linux {where['kernel']}, "
        f"{where['file_system']}, Python {where['python']}; revision {where['revision']}; load average before the "
        f"first run {where['load_average']}. Nodes and load share the cores.",
        "",
        "| point | what | measured | bound | |",
        "|---|---|---|---|---|",
    ]
    for name, found in results.items():
        criteria = found.get("criteria") or [{"what": name, "value": "", "bound": "", "passed": found["passed"]}]
        lines += [
            f"| {found['point']} | {each['what']} | {each['value']} | {each['bound']} | "
            f"{'ok' if each['passed'] else 'FAILED'} |"
            for each in criteria
        ]
    lines += ["", "| command | seconds |", "|---|---|"]
    lines += [f"| `{found['command']}` | {found.get('seconds', '')} |" for found in results.values()]
    return "\n".join([*lines, "", *throughput_table(results.get("throughput", {}).get("figures", {}))])


def throughput_table(figures: dict[str, Any]) -> list[str]:
    """The workloads of throughput.py side by side."""
    if not figures:
        return []
    lines = [
        "| 8-byte keys, 256-byte values | ops/s | p50 µs | p99 µs | max µs | nodes' CPU µs an op | of the floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in figures.items():
        lines.append(
            f"| {name} | {each['ops_per_s']:,.0f} | {each['p50_us']:.0f} | {each['p99_us']:.0f} | {each['max_us']:.0f} "
            f"| {each['cpu_us_per_op']:.1f} | {each.get('of_the_floor', '')} |"
        )
    return [*lines, ""]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SCRIPTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="short runs, to try the scripts rather than to measure")
    parser.add_argument("--engine", choices=ENGINES, default="raft", help="of the cluster that is measured (raft)")
    parser.add_argument("--floor", help="the yardstick's binary, for throughput")
    parser.add_argument("--results", type=Path, default=BENCH / "results", help="directory to write to")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SCRIPTS):
        parser.error(f"no such script: {', '.join(sorted(unknown))}; there are {', '.join(SCRIPTS)}")
    end_by_signal()
    where, today = machine(), datetime.date.today().isoformat()
    results = {}
    for name, script in SCRIPTS.items():
        if (options.names and name not in options.names) or script.only not in ("", options.engine):
            continue
        extra = script.quick if options.quick else script.full
        if options.floor and name == "throughput":
            extra = [*extra, "--floor", options.floor]
        if options.engine != "raft" and not script.only:
            extra = [*extra, "--engine", options.engine]
        results[name] = run(name, script, extra)
    options.results.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", f"{where['cpu']} {where['cores']} cores".lower()).strip("-")
    path = options.results / f"{today}-{slug}{'' if options.engine == 'raft' else '-' + options.engine}"
    path = path.with_name(path.name + "-quick" * options.quick)
    whole = {"machine": where, "date": today, "results": results}
    path.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
    text = table(results, where, today)
    path.with_suffix(".md").write_text(text)
    print(text)
    failed = [name for name, found in results.items() if not found["passed"]]
    say(f"written: {path}.json, .md; failed: {', '.join(failed) or 'nothing'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
