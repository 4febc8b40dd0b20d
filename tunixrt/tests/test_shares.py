"""Shares are counted over processes, and end with the process that has them."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import LazySettings

from tunixrt.shares import AllTaken, OwnTaken, SharedFile, Shares
from tunixrt.tests.plugin import ROOT

HOLDER = """
import sys
from django.conf import settings
from pathlib import Path
settings.configure(TUNIXRT_WEB_SHARED=Path(sys.argv[1]))
from tunixrt.shares import SharedFile, Shares
releases = [Shares("things").take(client, total=3, each=2) for client in sys.argv[2:]]
with SharedFile("file").locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path, settings: LazySettings) -> Path:
    settings.TUNIXRT_WEB_SHARED = tmp_path / "shared"
    return tmp_path / "shared"


@pytest.fixture
def hold(folder: Path):
    """Have another process take shares, until it ends."""
    started: list[subprocess.Popen[str]] = []

    def take(*clients: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), *clients],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield take
    for process in started:
        process.kill()
        process.communicate()


def take(shares: Shares, client: str) -> Callable[[], None]:
    return shares.take(client, total=3, each=2)


@pytest.mark.parametrize("shared", [False, True])
def test_a_client_has_its_own_and_all_have_the_total(
    folder: Path, settings: LazySettings, shared: bool
):
    settings.TUNIXRT_WEB_SHARED = folder if shared else None
    shares = Shares("things")
    first, second = take(shares, "a"), take(shares, "a")
    with pytest.raises(OwnTaken):
        take(shares, "a")
    third = take(shares, "b")
    with pytest.raises(AllTaken) as taken:
        take(shares, "c")
    assert not isinstance(taken.value, OwnTaken)

    first()
    first()  # a share is given back once, however often it is said
    again = take(shares, "a")
    with pytest.raises(OwnTaken):
        take(shares, "a")
    for release in (second, third, again):
        release()
    for release in [take(shares, name) for name in ("a", "a", "b")]:
        release()


def test_what_another_process_has_counts(hold):
    hold("a", "b")
    shares = Shares("things")

    release = take(shares, "a")
    with pytest.raises(OwnTaken):
        take(shares, "a")
    with pytest.raises(AllTaken):
        take(shares, "c")
    release()
    take(shares, "c")()


def test_a_process_that_is_killed_leaves_no_share_taken(hold):
    holder = hold("a", "a", "b")
    with pytest.raises(AllTaken):
        take(Shares("things"), "c")

    holder.send_signal(signal.SIGKILL)
    holder.wait()

    shares = Shares("things")
    for release in [take(shares, name) for name in ("a", "a", "c")]:
        release()
    with SharedFile("file").locked():
        pass


def test_kinds_do_not_count_for_each_other(folder: Path):
    releases = [take(Shares("things"), "a") for _ in range(2)]

    releases.append(take(Shares("others"), "a"))
    for release in releases:
        release()


def test_where_there_are_none_none_is_taken(folder: Path):
    with pytest.raises(AllTaken):
        Shares("things").take("a", total=0, each=2)


def test_with_one_worker_nothing_is_written(folder: Path, settings: LazySettings):
    settings.TUNIXRT_WEB_SHARED = None
    take(Shares("things"), "a")()
    with SharedFile("file").locked():
        pass

    assert not folder.exists()
