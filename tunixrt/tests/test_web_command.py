"""``manage.py web``: says in a sentence why it cannot listen."""

import socket

import pytest
from django.core.management import CommandError, call_command


@pytest.mark.parametrize("reusing", [False, True])
def test_a_port_that_is_taken_is_said_in_a_sentence(settings, reusing: bool):
    """Also when another server of the kind listens there, which would let us share the port with it."""
    with socket.socket() as other:
        if reusing:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings.BIND = f"127.0.0.1:{other.getsockname()[1]}"

        with pytest.raises(CommandError, match=r"^Cannot listen on 127\.0\.0\.1:\d+: Address already in use\. .*TUNIXRT_BIND"):
            call_command("web")


@pytest.mark.parametrize("address", ["192.0.2.1:8000", "no-such-host.invalid:8000"])
def test_an_address_that_is_not_ours_is_said_in_a_sentence(settings, address: str):
    settings.LOCAL_MODE = False
    settings.BIND = address

    with pytest.raises(CommandError, match=f"^Cannot listen on {address}: "):
        call_command("web")
