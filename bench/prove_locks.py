"""Locks under attack: processes contend for one lock while its holders are stopped beyond their TTL and leaders killed.

    quorumd --config CONFIG up --detach --fresh
    python bench/prove_locks.py CONFIG --seconds 300

Each holder decides to write, and then writes twice: once guarded by its fencing token, once not. Passes if the guarded
writes are in the order of the tokens; the others show what the guard is for. The cluster is left running.
"""

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from quorumd.client import Client, Put
from quorumd.config import load_config
from quorumd.errors import QuorumdError
from quorumd.recipes import Lock, NotHeld, Session, SessionLost

TTL_S = 1.0
PAUSES_S = (0.2, 1.8, 3.0)
QUORUMD = str(Path(sys.executable).parent / "quorumd")
FENCED, UNFENCED = b"prove/fenced", b"prove/unfenced"


def contend(endpoints, seconds):
    """One process: takes the lock over and over; prints how often it held it and how often it lost it."""
    end = time.monotonic() + seconds
    held = lost = 0
    with Client.connect(endpoints) as client:
        while time.monotonic() < end:
            try:
                with Session(client, ttl=TTL_S) as session:
                    while time.monotonic() < end:
                        with Lock(session, b"prove", value=b"%d" % os.getpid()) as lock:
                            token = lock.token
                            if lock.holds():
                                time.sleep(random.random() / 20)  # decided to write; here it may be stopped
                                client.put(UNFENCED, b"%d" % token)
                                client.txn([token.guard()], [Put(FENCED, b"%d" % token)])
                                held += 1
            except (SessionLost, NotHeld):
                lost += 1
            except QuorumdError as error:
                print(f"  {os.getpid()}: {type(error).__name__}: {error}", flush=True)
    print(json.dumps({"held": held, "lost": lost}))


def holder(client):
    """The process that holds the lock, by its contender's key; 0: nobody does."""
    found = client.range(b"quorumd/lock/prove/", b"quorumd/lock/prove0", limit=1, sort_target="create", order="ascend")
    return int(found.kvs[0].value) if found.kvs else 0


def attack(client, config, pids, seconds):
    """Stops holders and kills leaders; returns how many of each."""
    end, next_kill = time.monotonic() + seconds, time.monotonic() + 10
    stops = kills = 0
    while time.monotonic() < end:
        time.sleep(0.2)
        try:
            pid = holder(client)
        except QuorumdError:
            continue
        if pid in pids:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(random.choice(PAUSES_S))
            os.kill(pid, signal.SIGCONT)
            stops += 1
        if time.monotonic() > next_kill:
            next_kill += 10
            shown = subprocess.run(
                [QUORUMD, "status", "--json", config], capture_output=True, text=True, check=False, timeout=60
            )
            for node in json.loads(shown.stdout)["nodes"]:
                if node["role"] == "leader":
                    os.kill(node["pid"], signal.SIGKILL)
                    kills += 1
    return stops, kills


def written(client, key, since):
    """Every value that the key has had since that revision."""
    newest = client.get(key)
    values = []
    with client.watch(key, start_revision=since) as watch:
        while newest is not None and (not values or watch.revision < newest.mod_revision):
            values += [int(event.kv.value) for event in watch.get(30.0).events]
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--contend", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    endpoints = load_config(options.config).client_endpoints
    if options.contend:
        contend(endpoints, options.seconds)
        return 0
    command = [sys.executable, __file__, options.config, "--contend", "--seconds", str(options.seconds)]
    with Client.connect(endpoints, timeout=30.0) as client:
        since = client.put(b"prove/start", b"").revision
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(options.processes)]
        pids = {process.pid for process in processes}
        stops, kills = attack(client, options.config, pids, options.seconds - 5)
        told = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
        fenced, unfenced = written(client, FENCED, since), written(client, UNFENCED, since)
        left = client.range(b"quorumd/lock/prove", b"quorumd/lock/provf", count_only=True).count
    wrong = {name: sum(a > b for a, b in itertools.pairwise(values))
             for name, values in (("fenced", fenced), ("unfenced", unfenced))}
    print(f"held {sum(each['held'] for each in told)} times, lost {sum(each['lost'] for each in told)}; "
          f"{stops} holders stopped, {kills} leaders killed; {left} keys left")
    shown = (f"{name} {wrong[name]} of {len(values)}" for name, values in (("fenced", fenced), ("unfenced", unfenced)))
    print(f"writes out of order: {', '.join(shown)}")
    return 1 if wrong["fenced"] or left else 0


if __name__ == "__main__":
    sys.exit(main())
