"""Checkpoints on a disk that fills up: a real file system of 900 kB, on which two of these
checkpoints fit."""

import os
import re
import subprocess
import sys

import pytest

from runs.trainer.errors import explain
from runs.trainer.launch import ROOT
from runs.trainer.tests.helpers import LAUNCH

MOUNT = """mount -t tmpfs -o size=900k tmpfs checkpoints || exit 77
"$@"; code=$?
ls checkpoints >listing
exit $code"""


def test_the_message_names_the_checkpoint_and_the_cause(make_run):
    run = make_run(num_epochs=8, checkpoint_every_steps=3, keep_last_checkpoints=100)
    (run.folder / "checkpoints").mkdir()
    namespace = (
        ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    )
    train = [sys.executable, "-I", "-u", str(LAUNCH), "train", "--config", "manifest.yaml"]
    try:
        ended = subprocess.run(
            [*namespace, "sh", "-c", MOUNT, "sh", *train],
            cwd=run.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("no `unshare` (util-linux) here: a full disk cannot be made")
    if ended.returncode == 77 or "unshare" in ended.stderr:
        pytest.skip(
            f"this machine does not let us mount a small file system: {ended.stderr.strip()}"
        )

    assert ended.returncode == 15, ended.stderr
    named = re.search(
        r"^tunix: storage: the checkpoint of step (\d+) could not be written",
        ended.stderr,
        re.MULTILINE,
    )
    assert named
    listing = (run.folder / "listing").read_text().split()
    assert f"{named[1]}.orbax-checkpoint-tmp" in listing, listing
    assert named[1] not in listing
    assert "No space left on device" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr  # or the row's last 10 kB would hold nothing else


ABANDONED = """
import asyncio
import sys
sys.path.append(sys.argv[1])
import tensorstore
from runs.trainer.loop import checkpoints
checkpoints._quiet()
promise, future = tensorstore.Promise.new()
async def write():
    await future
loop = asyncio.new_event_loop()
task = loop.create_task(write())
loop.run_until_complete(asyncio.sleep(0))
loop.close()
promise.set_result(None)
del task
class Other:
    def __del__(self):
        raise RuntimeError("something else")
Other()
"""


def test_a_write_that_was_given_up_says_nothing():
    """Other files of a checkpoint may still be on their way when the first one fails."""
    ended = subprocess.run(
        [sys.executable, "-I", "-c", ABANDONED, str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "loop" not in ended.stderr, ended.stderr
    assert "pending" not in ended.stderr
    assert "something else" in ended.stderr


@pytest.mark.parametrize("word", ["No space left on device", "Disk quota exceeded"])
def test_the_cause_is_told_wherever_a_library_puts_it(word):
    path = "/a/very/long/path" * 40
    for text in (
        f"Error writing {path}: {word}",
        f"{word}: {path}",
        f"{path}: {word}: {path}",
        f"x {path}\n{word}",
    ):
        assert word in str(explain(ValueError(text)))
        assert len(str(explain(ValueError(text)))) < 500
