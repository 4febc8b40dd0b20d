"""Whose process listens on a TCP port of this machine, as /proc shows it."""

import pwd
import socket
import sys
from pathlib import Path

from runs.runfolder.processes import Process, has_open, live_processes

LISTENING = "0A"  # net/tcp_states.h
COMMAND_CHARACTERS = 200


def who_listens(address: str, port: int) -> str | None:
    """Return the process that listens there in words: its number, user and command, as far as this
    process may see them."""
    for inode, uid in _sockets(address, port):
        user = _user_name(uid)
        holders = [
            process for process in live_processes() if has_open(process.pid, f"socket:[{inode}]")
        ]
        if not holders:
            return f"a process of user {user}"
        # its children share the socket
        first = min(holders, key=lambda process: (process.start_time, process.pid))
        return f"process {first.pid} of user {user}{_command(first)}"
    return None


def _sockets(address: str, port: int) -> list[tuple[str, int]]:
    """Return inode and user id of the sockets that listen on the address, or on all addresses
    (proc(5), /proc/net/tcp)."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue  # no IPv6 here
        for fields in map(str.split, lines):
            local, local_port = fields[1].split(":")
            everywhere = {address, _readable(local)} & {"0.0.0.0", "::"}
            if (
                fields[3] == LISTENING
                and int(local_port, 16) == port
                and (everywhere or _readable(local) == address)
            ):
                found.append((fields[9], int(fields[7])))
    return found


def _readable(hexadecimal: str) -> str:
    """Return an address of the table, which shows each 32 bits as a number in the machine's byte
    order."""
    words = [int(hexadecimal[start : start + 8], 16) for start in range(0, len(hexadecimal), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _command(process: Process) -> str:
    try:
        words = (
            Path(f"/proc/{process.pid}/cmdline")
            .read_bytes()
            .decode(errors="replace")
            .replace("\0", " ")
            .strip()
        )
    except OSError:
        return ""
    shown = "".join(character if character.isprintable() else "?" for character in words)
    return f": {_shorten(shown, COMMAND_CHARACTERS)}" if shown else ""


def _shorten(text: str, longest: int) -> str:
    """Shorten at a word where there is one, and show by an ellipsis that something is left out."""
    if len(text) <= longest:
        return text
    words = text[: longest - 1].rpartition(" ")[0]
    return f"{words} …" if words else f"{text[: longest - 1]}…"
