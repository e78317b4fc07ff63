"""Golden transcripts of Multi-Paxos. Rewrite with --rewrite-golden, then read the diff."""

from pathlib import Path

import pytest
from transcript import play

GOLDEN = sorted((Path(__file__).parent / "golden" / "paxos").glob("*.txt"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_transcript(path, request):
    text = path.read_text()
    played = play(text)
    if request.config.getoption("--rewrite-golden"):
        path.write_text(played)
    assert played == path.read_text()


def test_there_are_transcripts():
    assert len(GOLDEN) >= 9
