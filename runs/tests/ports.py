"""Ports of loopback for the servers that tests start. Standard library only."""

import socket


class HeldPort:
    """A port that nobody else is given, from now until ``close``, whether or not a server listens
    on it.

    The socket is bound and never listens: a connection is refused while no server is there. A
    server may bind the same port beside it, as `manage.py web` does (SO_REUSEPORT, same user); a
    stranger who asks for any port gets another one.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            self._socket.setsockopt(socket.SOL_SOCKET, option, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]
        self.address = f"127.0.0.1:{self.number}"
        self.url = f"http://{self.address}"

    def close(self) -> None:
        self._socket.close()
