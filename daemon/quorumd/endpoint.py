"""host:port as written in configs and on the command line. A leaf: imports nothing of ours."""

import ipaddress
import re
import socket
from typing import NamedTuple

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


class Endpoint(NamedTuple):
    """A host (name, IPv4 or IPv6 without brackets) and a UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def family(self) -> int | None:
        """4 or 6; None for a name other than localhost."""
        try:
            return ipaddress.ip_address(numeric(self.host)).version
        except ValueError:
            return None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost counts as reachable."""
        return self.family is not None and ipaddress.ip_address(numeric(self.host)).is_loopback

    def resolve(self, family: int = 0) -> str:
        """The numeric address: of a name that of the resolver's first answer, which may take seconds. Raises OSError.

        Everybody who binds or sends asks here: localhost is one address, whatever /etc/hosts says first. family: the
        only one asked for, AF_INET or AF_INET6; 0: either. A numeric address is what it is.
        """
        if self.family is not None:
            return numeric(self.host)
        try:
            return str(socket.getaddrinfo(self.host, self.port, family, socket.SOCK_DGRAM)[0][4][0])
        except UnicodeError as error:  # a label too long for a name
            raise OSError(f"{self.host}: {error}") from None


def numeric(host: str) -> str:
    """`host`, with localhost and its subdomains (RFC 6761) as the address that they always are."""
    return "127.0.0.1" if host.lower() == "localhost" or host.lower().endswith(".localhost") else host


def family_of(host: str) -> socket.AddressFamily:
    """Of a numeric address, as `Endpoint.resolve` gives it."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def parse_endpoint(text: str) -> Endpoint:
    """`host:port` or `[ipv6]:port`. Raises ValueError("what; remedy")."""
    host, colon, port_text = text.rpartition(":")
    if not colon or not port_text.isascii() or not port_text.isdigit():
        raise ValueError(f"{text!r} has no port; write host:port, such as 127.0.0.1:7101")
    if not 1 <= int(port_text) <= 65535:
        raise ValueError(f"port {port_text} is out of range; give 1 to 65535")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if bracketed != (address is not None and address.version == 6) or "%" in host:
        raise ValueError(f'{text!r} is no IPv6 address; write it in brackets and quotes, such as "[::1]:7101"')
    if address is None and (not _HOST_NAME.fullmatch(host) or host.rpartition(".")[2].isdigit()):
        raise ValueError(f"{host!r} is neither a host name nor an IP address; write host:port, such as 127.0.0.1:7101")
    if address is not None and (address.is_unspecified or address.is_multicast):
        raise ValueError(f"{host} is no address that others can send to; give the host's own address")
    return Endpoint(str(address) if address else host, int(port_text))
