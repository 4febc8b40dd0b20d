"""Ending with the process that started this one, for programs that must not outlive a terminal."""

import ctypes
import os
import signal
from argparse import ArgumentParser

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def add_end_with(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--end-with",
        type=int,
        metavar="PID",
        help="stop when the process PID ends, which must be the parent (make serve)",
    )


def end_with(pid: int) -> None:
    """Ask for SIGTERM when the parent ends, which is expected to be ``pid``; at once if it has
    ended. This survives ``exec``."""
    if (
        ctypes.CDLL(None, use_errno=True).prctl(
            PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0
        )
        != 0
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != pid:
        os.kill(os.getpid(), signal.SIGTERM)
