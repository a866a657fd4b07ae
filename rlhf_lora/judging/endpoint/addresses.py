"""Where a request may go, once the host's name was looked up.

The look-up and the connection are one: what was checked is what is connected to, so that a name that leads elsewhere a
moment later leads nowhere. Machines of a local network are fine; the addresses at which a cloud hands out credentials, and
what else never is a model server, are refused (server-side request forgery).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

METADATA = {
    ipaddress.ip_address(address)
    for address in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "fd00:42::42")
}
"""Of clouds, beside 169.254.169.254, which is link-local."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Refused(Exception):
    """An address that nothing is sent to, in words."""


async def look_up(host: str, port: int, *, plain_text: bool) -> list[str]:
    """The addresses of a host, in the system's order.

    Args:
        plain_text: the connection has no TLS and may therefore not leave this machine.

    Raises:
        OSError: there is no such host. Refused: one of its addresses is not for us.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if why := refusal(address, plain_text=plain_text):
            raise Refused(f"{host} leads to {address}, {why}")
    return addresses


def refusal(address: str, *, plain_text: bool) -> str:
    """Why nothing is sent to an address; empty where something may be."""
    ip = unwrapped(ipaddress.ip_address(address.partition("%")[0]))
    if ip in METADATA or ip.is_link_local:
        return "where a cloud hands out credentials, or a link-local address"
    if ip.is_unspecified or ip.is_multicast or (ip.is_reserved and not ip.is_loopback):
        return "which is no address of a server"
    if plain_text and not ip.is_loopback:
        return "another machine, and http can be read on the way"
    return ""


def unwrapped(ip: Address) -> Address:
    """The IPv4 address that an IPv6 one only wraps: mapped, 6to4, or NAT64."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in NAT64:
            return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        return ip.ipv4_mapped or ip.sixtofour or ip
    return ip
