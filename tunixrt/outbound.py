"""One POST to an address that somebody named, never to a private one unless allowed.

libcurl resolves the name, tries every address in turn (RFC 8305), and asks before each connection whether it may be made: what
is checked is the address that is connected to. Redirects are not followed, proxies of the environment are not used.
"""

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Sequence

import pycurl

ANSWER_MAX_BYTES = 64 << 10  # of an answer's body, which nobody reads


class OutboundError(Exception):
    """No answer came; says why in a sentence."""


def post(url: str, body: bytes, headers: dict[str, str], *, timeout: float, allow_private: bool) -> int:
    """POST ``body`` and return the status code of the answer. ``timeout``: seconds for everything, from the name's resolution to
    the answer's last byte. Raises OutboundError."""
    refused: list[str] = []
    received = 0

    def open_socket(purpose: int, address: tuple[int, int, int, tuple[str, int]]) -> socket.socket | int:
        family, kind, protocol, (host, *_) = address
        if not allow_private and not is_public(host):
            refused.append(host)
            return int(pycurl.SOCKET_BAD)
        return sockets.enter_context(socket.socket(family, kind, protocol))  # curl works with a duplicate

    def discard(data: bytes) -> int:
        nonlocal received
        received += len(data)
        return len(data) if received <= ANSWER_MAX_BYTES else 0  # less than was given ends the transfer

    curl = pycurl.Curl()
    with contextlib.ExitStack() as sockets, contextlib.closing(curl):
        curl.setopt(pycurl.NOSIGNAL, True)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.FOLLOWLOCATION, False)
        curl.setopt(pycurl.TIMEOUT_MS, int(timeout * 1000))
        curl.setopt(pycurl.OPENSOCKETFUNCTION, open_socket)
        curl.setopt(pycurl.WRITEFUNCTION, discard)
        certificates = ssl.get_default_verify_paths()  # the system's, or what SSL_CERT_FILE and SSL_CERT_DIR name
        if certificates.cafile:
            curl.setopt(pycurl.CAINFO, certificates.cafile)
        if certificates.capath:
            curl.setopt(pycurl.CAPATH, certificates.capath)
        try:
            curl.setopt(pycurl.URL, url.encode())
            curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in headers.items()] + ["Expect:"])
            curl.setopt(pycurl.POSTFIELDS, body)
            curl.perform()
        except (pycurl.error, ValueError) as error:
            status = curl.getinfo(pycurl.RESPONSE_CODE)
            if status and received > ANSWER_MAX_BYTES:
                return int(status)
            if refused:
                raise OutboundError(not_public(refused)) from error
            raise OutboundError(str(error.args[-1])) from error
        return int(curl.getinfo(pycurl.RESPONSE_CODE))


def not_public(addresses: Sequence[str]) -> str:
    """Return why no connection to ``addresses`` was made, as a sentence."""
    what = "is not a public address" if len(addresses) == 1 else "are not public addresses"
    return f"{', '.join(addresses)} {what}; TUNIX_WEBHOOK_ALLOW_PRIVATE allows it."


_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # RFC 4291; whatever lies outside has a special purpose
_DOCUMENTATION = ipaddress.ip_network("3fff::/20")  # RFC 9637, which Python 3.11 does not know
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214: these 32 bits stand before an IPv4 address


def is_public(address: str) -> bool:
    """Return whether ``address`` is a unicast address of the public Internet, as is the IPv4 address that it may embed."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv4Address):
        return parsed.is_global and not parsed.is_multicast
    embedded = _embedded(parsed)
    if embedded is not None and not is_public(str(embedded)):
        return False
    translated = parsed.ipv4_mapped is not None or parsed in _NAT64
    return translated or (parsed in _GLOBAL_UNICAST and parsed.is_global and parsed not in _DOCUMENTATION)


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address to which packets for ``address`` may be translated or tunnelled."""
    if found := address.ipv4_mapped or address.sixtofour:
        return found
    if address in _NAT64 or (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
