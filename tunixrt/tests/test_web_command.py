"""``manage.py web``: says in a sentence why it cannot listen."""

import os
import pwd
import socket
import subprocess
import sys

import pytest
from django.core.management import CommandError, call_command

from tunixrt import listeners


@pytest.mark.parametrize("reusing", [False, True])
def test_a_port_that_is_taken_is_said_in_a_sentence(settings, reusing: bool):
    """Also when another server of the kind listens there, which would let us share the port with
    it."""
    with socket.socket() as other:
        if reusing:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings.TUNIXRT_BIND = f"127.0.0.1:{other.getsockname()[1]}"

        with pytest.raises(
            CommandError,
            match=r"^Cannot listen on 127\.0\.0\.1:\d+: Address already in use\. .*TUNIXRT_BIND",
        ):
            call_command("web")


LISTENER = """
import os, socket, sys
with socket.socket() as listening:
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    if os.fork() == 0:  # as servers do: it has the socket too
        sys.stdin.read()
        os._exit(0)
    print(listening.getsockname()[1], flush=True)
    sys.stdin.read()
    os.wait()
"""


@pytest.mark.parametrize("where", ["127.0.0.1", "0.0.0.0"])
def test_whose_process_has_the_port_is_said(settings, where: str):
    settings.TUNIXRT_LOCAL_MODE = False
    command = [sys.executable, "-c", LISTENER, "a\x1b[31mserver"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        settings.TUNIXRT_BIND = f"{where}:{port}"

        with pytest.raises(CommandError) as refused:
            call_command("web")

        other.communicate()
    user = pwd.getpwuid(os.getuid()).pw_name
    assert f"It is used by process {other.pid} of user {user}: {sys.executable} -c " in str(
        refused.value
    )
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        (["--name", "word " * 100], "word …"),
        (["--name", "x" * 500], "--name …"),
        (["--name", "short"], " --name short"),
    ],
)
def test_a_long_command_is_cut_at_a_word(settings, arguments: list[str], end: str):
    command = [sys.executable, "-c", "exec(input())", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdin.write(f"exec({LISTENER!r})\n")
        other.stdin.flush()
        port = int(other.stdout.readline())

        said = listeners.who_listens("127.0.0.1", port)

        other.communicate()
    assert said is not None
    assert said.endswith(end)
    shown = said.partition(": ")[2]
    assert len(shown) <= listeners.COMMAND_CHARACTERS
    assert " ".join(command).startswith(shown.removesuffix("…").rstrip())


def test_a_command_of_one_long_word_is_cut_within_it():
    assert listeners._shorten("x" * 11, 10) == "x" * 9 + "…"
    assert listeners._shorten("x" * 10, 10) == "x" * 10


def test_of_a_process_that_cannot_be_seen_the_user_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(listeners, "has_open", lambda pid, target: False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        said = listeners.who_listens("127.0.0.1", other.getsockname()[1])

    assert said == f"a process of user {pwd.getpwuid(os.getuid()).pw_name}"


def test_addresses_of_the_kernels_table_can_be_read():
    with socket.socket(socket.AF_INET6) as other:
        try:
            other.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        other.listen()

        assert f"process {os.getpid()} of user" in str(
            listeners.who_listens("::1", other.getsockname()[1])
        )
        assert listeners.who_listens("127.0.0.1", other.getsockname()[1]) is None


@pytest.mark.parametrize("address", ["192.0.2.1:8000", "no-such-host.invalid:8000"])
def test_an_address_that_is_not_ours_is_said_in_a_sentence(settings, address: str):
    settings.TUNIXRT_LOCAL_MODE = False
    settings.TUNIXRT_BIND = address

    with pytest.raises(CommandError, match=f"^Cannot listen on {address}: "):
        call_command("web")
