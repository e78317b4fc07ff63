"""CRC-32C: the vectors of RFC 3720 B.4, and every implementation against a bit-by-bit one."""

import ast
import importlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumd_fastpath import crc, reference

ISCSI_READ = bytes.fromhex(
    "01c000000000000000000000000000001400000000000400000000140000001828000000000000000200000000000000"
)
VECTORS = [
    (b"", 0x00000000),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
    (ISCSI_READ, 0xD9963A56),
]
ALL = [crc.crc32c, crc.crc32c_table, reference.crc32c]


def bit_by_bit(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 * (register & 1))
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize("function", [*ALL, bit_by_bit])
@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_rfc_3720_vectors(function, data, expected):
    assert function(data) == expected


@given(data=st.binary(max_size=200))
def test_all_agree_with_bit_by_bit(data):
    assert {function(data) for function in ALL} == {bit_by_bit(data)}


# Around the lengths where the three-lane loops (3 * 256 and 3 * 4096 bytes) begin and end, at every alignment.
@pytest.mark.parametrize("size", [767, 768, 769, 1535, 1536, 12287, 12288, 12289, 12288 + 768 + 13, 3 * 12288 + 5])
def test_long_buffers_at_any_alignment(size):
    data = bytes((i * 131 + (i >> 8) * 29) & 0xFF for i in range(size + 8))
    for offset in range(8):
        piece = data[offset : offset + size]
        expected = reference.crc32c(piece)
        assert crc.crc32c(memoryview(data)[offset : offset + size]) == expected
        assert crc.crc32c_table(piece) == expected


@given(data=st.binary(max_size=2000), cut=st.integers(0, 2000))
def test_a_seed_continues(data, cut):
    for function in ALL:
        assert function(data[cut:], function(data[:cut])) == function(data)


def test_takes_any_contiguous_buffer():
    assert crc.crc32c(bytearray(b"123456789")) == crc.crc32c(memoryview(b"123456789")) == 0xE3069283
    with pytest.raises(TypeError):
        crc.crc32c("123456789")
    with pytest.raises(OverflowError):
        crc.crc32c(b"", 1 << 32)


def test_implementation_is_named():
    assert crc.implementation() in ("sse4.2", "armv8", "table")


@pytest.mark.parametrize("name", ["crc", "wire", "udp"])
def test_every_name_in_the_stub_exists(name):
    module = importlib.import_module(f"quorumd_fastpath.{name}")
    stub = ast.parse(Path(module.__file__).with_name(f"{name}.pyi").read_text())
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            owner = getattr(module, node.name)
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    assert hasattr(owner, member.name), f"{node.name}.{member.name}"
                elif isinstance(member, ast.AnnAssign):
                    assert hasattr(owner, member.target.id), f"{node.name}.{member.target.id}"
        elif isinstance(node, ast.FunctionDef):
            assert hasattr(module, node.name), node.name
        elif isinstance(node, ast.AnnAssign):
            assert hasattr(module, node.target.id), node.target.id
