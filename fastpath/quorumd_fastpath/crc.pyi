from typing import Literal

from typing_extensions import Buffer

def crc32c(data: Buffer, seed: int = 0) -> int:
    """CRC-32C of `data`, continuing from the finished CRC `seed`: crc32c(b, crc32c(a)) == crc32c(a + b)."""

def crc32c_table(data: Buffer, seed: int = 0) -> int:
    """The same without processor instructions: what a machine that lacks them runs."""

def implementation() -> Literal["sse4.2", "armv8", "table"]:
    """How this process computes."""
