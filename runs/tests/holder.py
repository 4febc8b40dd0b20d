"""Holds a Python program at a moment that a test names; nothing in the program knows of it.
Standard library only.

A moment is an audit event (https://docs.python.org/3/library/audit_events.html): ``os.fork 2`` is
just before the second fork, ``os.link keeper.json`` just before a link of that name is made,
``os.rename /4`` just before something gets the name ``4``. Whoever gets there writes its pid into
``<folder>/held`` and goes on once ``<folder>/go`` is there.
"""

from __future__ import annotations

import os
import time
from typing import Any


class Holder:
    """An audit hook."""

    def __init__(self, folder: str, moment: str):
        self.folder = folder
        self.event, self.detail = moment.split(" ")
        self.seen = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != self.event:
            return
        self.seen += 1
        paths = [
            os.fspath(argument) for argument in arguments if isinstance(argument, str | os.PathLike)
        ]
        if self.detail == str(self.seen) or any(
            f"/{path}".endswith(f"/{self.detail.lstrip('/')}") for path in paths
        ):
            self.event = ""  # once, and none of what follows
            self.hold()

    def hold(self) -> None:
        held = os.path.join(self.folder, "held")
        with open(held + ".new", "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        os.rename(held + ".new", held)
        while not os.path.exists(os.path.join(self.folder, "go")):
            time.sleep(0.005)
