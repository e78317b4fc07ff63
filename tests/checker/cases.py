"""Reads cases.txt, the hand-made histories."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from quorumd.checker.history import Event, Recorder


@dataclass
class Case:
    name: str
    revisions: str = "ok"
    search: str = "ok"
    lines: tuple[str, ...] = ()

    def events(self) -> list[Event]:
        recorder = Recorder()
        asked = {}
        for time_ns, line in enumerate(self.lines):
            process, word, *rest = line.split(maxsplit=2)
            process, rest = int(process), rest[0] if rest else ""
            if word in ("ok", "fail", "info"):
                recorder.complete(process, word, time_ns, **answer(asked[process], rest))
                continue
            f = word.removeprefix("stale-")
            asked[process] = f
            recorder.invoke(process, f, *argument(f, rest), time_ns, stale=f != word)
        return recorder.events

    def without_revisions(self) -> list[Event]:
        return [replace(event, revision=None) for event in self.events()]


def token(text: str):
    return None if text == "_" else text


def argument(f: str, text: str):
    if f == "txn":
        return None, json.loads(text)
    key, *rest = text.split()
    if f == "range":
        return [key, *rest], None
    if f == "cas":
        return key, [token(part) for part in rest[0].split(">")]
    return key, token(rest[0]) if rest else None


def answer(f: str, text: str) -> dict:
    found: dict = {}
    words = text.split()
    if words and words[-1].startswith("@"):
        found["revision"] = int(words.pop()[1:])
    if f == "read" and words:
        found["value"] = token(words[0])
    elif f == "range" and "revision" in found:
        found["value"] = [word.split("=") for word in words]
    elif f in ("cas", "txn") and words:
        found["succeeded"] = json.loads(words[0])
    if f == "txn" and words:
        found["results"] = [json.loads(word) for word in words[1:]]
    return found


def cases() -> list[Case]:
    found: list[Case] = []
    for line in (Path(__file__).parent / "cases.txt").read_text().splitlines():
        if line.startswith("case "):
            name, *expected = [part.strip() for part in line.removeprefix("case ").split("|")]
            found.append(Case(name, **dict(part.split(" ", 1) for part in expected)))
        elif line and not line.startswith("#"):
            found[-1].lines += (line,)
    return found
