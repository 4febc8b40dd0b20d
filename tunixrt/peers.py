"""Which account of this machine a connection comes from."""

import socket
import struct
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

PEER_UID = "tunixrt.peer_uid"  # the key of a request's environment under which the front says so

_SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
_NETLINK_SOCK_DIAG = 4  # linux/netlink.h
_ESTABLISHED = 1
_NO_COOKIE = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
# inet_diag_req_v2 up to its socket id: family, protocol, extensions, states
_REQUEST = struct.Struct("=BBBxI")
# inet_diag_msg: family, state, …, socket id, expires, queues, uid, inode
_ANSWER = struct.Struct("=BBBB48xIIIII")


def uid_of_peer(client: str, server: str) -> int | None:
    """Return the user id that owns the client's end of a TCP connection within this machine, or
    None.

    The kernel is asked for exactly this connection (sock_diag(7)). Only an established one counts:
    a socket that its program has closed has no owner, and the kernel calls it root's.

    Args:
        client, server: the connection's ends, ``host:port``.
    """
    try:
        (host, port), (server_host, server_port) = _split(client), _split(server)
        family = socket.AF_INET6 if host.version == 6 else socket.AF_INET
        ends = struct.pack("!HH16s16s", port, server_port, host.packed, server_host.packed)
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << _ESTABLISHED) + ends
        request += struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.send(
                _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, 1, 1, 0) + request
            )
            answer = kernel.recv(4096)
    except (OSError, ValueError):
        return None
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None
    _, state, _, _, _, _, _, uid, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    return uid if state == _ESTABLISHED and inode else None


def _split(end: str) -> tuple[IPv4Address | IPv6Address, int]:
    host, _, port = end.rpartition(":")
    return ip_address(host.strip("[]")), int(port)


@lru_cache(maxsize=1024)  # asked at every request
def is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
