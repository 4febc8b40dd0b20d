"""Send one POST to an address given by a user or an operator, never to a private one unless
allowed.

libcurl resolves the name, tries every address in turn (RFC 8305), and asks before each connection
whether it may be made: what is checked is the address that is connected to. Redirects are not
followed, proxies of the environment are not used.
"""

import contextlib
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

import pycurl

from tunixrt.addresses import is_public

ANSWER_MAX_BYTES = 64 << 10  # of an answer's body that nothing is read of


class OutboundError(Exception):
    """No answer came; says why in a sentence."""


class AddressRefused(OutboundError):
    """The address is none that may be connected to, however often one tries."""


@dataclass(frozen=True)
class Reply:
    """An answer. ``cut``: its body is longer than what was taken of it."""

    status: int
    body: bytes
    cut: bool = False


def post(
    url: str, body: bytes, headers: dict[str, str], *, timeout: float, allow_private: bool
) -> int:
    """POST ``body`` and return the status code of the answer. ``timeout``: seconds for everything,
    from the name's resolution to the answer's last byte. Raise OutboundError."""
    reply = exchange(
        url,
        body,
        headers,
        timeout=timeout,
        allow_private=allow_private,
        most_bytes=ANSWER_MAX_BYTES,
    )
    return reply.status


def exchange(
    url: str,
    body: bytes,
    headers: dict[str, str],
    *,
    timeout: float,
    allow_private: bool,
    most_bytes: int,
) -> Reply:
    """POST ``body`` and return the answer, with at most ``most_bytes`` of its body. Raise
    OutboundError."""
    refused: list[str] = []
    received = bytearray()

    def open_socket(
        purpose: int, address: tuple[int, int, int, tuple[str, int]]
    ) -> socket.socket | int:
        family, kind, protocol, (host, *_) = address
        if not allow_private and not is_public(host):
            refused.append(host)
            return int(pycurl.SOCKET_BAD)
        # curl works with a duplicate
        return sockets.enter_context(socket.socket(family, kind, protocol))

    def take(data: bytes) -> int:
        received.extend(data)
        # less than was given ends the transfer
        return len(data) if len(received) <= most_bytes else 0

    curl = pycurl.Curl()
    with contextlib.ExitStack() as sockets, contextlib.closing(curl):
        curl.setopt(pycurl.NOSIGNAL, True)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.FOLLOWLOCATION, False)
        curl.setopt(pycurl.TIMEOUT_MS, int(timeout * 1000))
        curl.setopt(pycurl.OPENSOCKETFUNCTION, open_socket)
        curl.setopt(pycurl.WRITEFUNCTION, take)
        # the system's, or what SSL_CERT_FILE and SSL_CERT_DIR name
        certificates = ssl.get_default_verify_paths()
        if certificates.cafile:
            curl.setopt(pycurl.CAINFO, certificates.cafile)
        if certificates.capath:
            curl.setopt(pycurl.CAPATH, certificates.capath)
        try:
            curl.setopt(pycurl.URL, url.encode())
            curl.setopt(
                pycurl.HTTPHEADER,
                [f"{name}: {value}" for name, value in headers.items()] + ["Expect:"],
            )
            curl.setopt(pycurl.POSTFIELDS, body)
            curl.perform()
        except (pycurl.error, ValueError) as error:
            status = curl.getinfo(pycurl.RESPONSE_CODE)
            if status and len(received) > most_bytes:
                return Reply(int(status), bytes(received[:most_bytes]), cut=True)
            if refused:
                raise AddressRefused(not_public(refused)) from error
            raise OutboundError(str(error.args[-1])) from error
        return Reply(int(curl.getinfo(pycurl.RESPONSE_CODE)), bytes(received))


def not_public(addresses: Sequence[str]) -> str:
    """Return why no connection to ``addresses`` was made, as a sentence."""
    what = "is not a public address" if len(addresses) == 1 else "are not public addresses"
    return f"{', '.join(addresses)} {what}; TUNIX_WEBHOOK_ALLOW_PRIVATE allows it."
