"""Which addresses are of the public Internet, and which can never be reached."""

import ipaddress
import socket
from urllib.parse import urlsplit

# RFC 4291; whatever lies outside has a special purpose
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_DOCUMENTATION = ipaddress.ip_network("3fff::/20")  # RFC 9637, which Python 3.11 does not know
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214: these 32 bits stand before an IPv4 address


def problem_with(url: str, *, allow_private: bool) -> str | None:
    """Return why nothing can ever be sent to ``url``, as far as its text tells; None where it may
    work.

    A port may not exist, a literal address not be public.
    """
    if "\\" in url:  # programs read what follows differently
        return "The address must not hold backslashes."
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        return "The port must lie between 1 and 65535."
    host = (parts.hostname or "").rstrip(".")
    try:
        # inet_aton reads whatever curl would take for an IPv4 address: 127.1, 2130706433,
        # 0x7f000001.
        address = host if ":" in host else socket.inet_ntoa(socket.inet_aton(host))
        public = is_public(address)
    except ValueError:
        return f"The host {host!r} is not an address."
    except OSError:  # a name
        public = host != "localhost" and not host.endswith(".localhost")
    if public or allow_private:
        return None
    return f"The host {host!r} is not a public address; TUNIX_WEBHOOK_ALLOW_PRIVATE allows it."


def is_public(address: str) -> bool:
    """Return whether ``address`` is a unicast address of the public Internet, as is the IPv4
    address that it may embed."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv4Address):
        return parsed.is_global and not parsed.is_multicast
    embedded = _embedded(parsed)
    if embedded is not None and not is_public(str(embedded)):
        return False
    translated = parsed.ipv4_mapped is not None or parsed in _NAT64
    return translated or (
        parsed in _GLOBAL_UNICAST and parsed.is_global and parsed not in _DOCUMENTATION
    )


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address to which packets for ``address`` may be translated or tunnelled."""
    if found := address.ipv4_mapped or address.sixtofour:
        return found
    if address in _NAT64 or (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
