"""The keeper, held at a moment that a test names (``launching.Hold`` starts it).

    python -I -S -X utf8 held_keeper.py <folder> <moment> <run folder> <lock descriptor>

The program is the real one; nothing in it knows of the tests. A moment is an audit event of Python
(https://docs.python.org/3/library/audit_events.html): ``os.fork 2`` is just before the second fork, counted from the first
process on, and ``os.link keeper.json`` just before a link of that name is made. Whoever gets there writes its pid into
``<folder>/held`` and goes on once ``<folder>/go`` is there. Standard library only, as the keeper.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from runs import keeper


class Holder:
    def __init__(self, folder: str, moment: str):
        self.folder = folder
        self.event, self.detail = moment.split(" ")
        self.seen = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != self.event:
            return
        self.seen += 1
        names = [os.path.basename(argument) for argument in arguments if isinstance(argument, str)]
        if self.detail in (str(self.seen), *names):
            self.event = ""  # once, and none of what follows
            self.hold()

    def hold(self) -> None:
        held = os.path.join(self.folder, "held")
        with open(held + ".new", "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        os.rename(held + ".new", held)
        while not os.path.exists(os.path.join(self.folder, "go")):
            time.sleep(0.005)


if __name__ == "__main__":
    sys.addaudithook(Holder(os.path.abspath(sys.argv[1]), sys.argv[2]))
    sys.exit(keeper.main(sys.argv[3:]))
