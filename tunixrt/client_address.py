"""From where a request comes."""

from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str:
    return address_in(request.META)


def address_in(environ: Mapping[str, Any]) -> str:
    """Return the client's address. Behind a proxy that is the last entry of X-Forwarded-For, which
    the proxy added; the client may have sent others."""
    if settings.TUNIXRT_BEHIND_PROXY and (
        named := environ.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
    ):
        return str(named)
    return str(environ.get("REMOTE_ADDR", ""))


def client_network(address: str) -> str:
    """Return what tells one client from another: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, IPv6Address):
        return (
            str(parsed.ipv4_mapped)
            if parsed.ipv4_mapped
            else str(ip_network((parsed, 64), strict=False))
        )
    return str(parsed)


def lies_in(address: str, networks: list[str]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return any(parsed in ip_network(network) for network in networks)
