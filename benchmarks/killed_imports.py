"""Kill imports at random moments: ``python -m benchmarks.killed_imports --kills 200``.

Files of different sizes are imported by processes of their own, as the attendant starts them, and
by the command, as a server imports within a request. Every process is killed (SIGKILL) at a random
moment, some imports are cancelled. In the end each import must be complete, with the fingerprint
of the same file imported without a kill, or must have left nothing: no dataset, no item, no trace,
no folder, no lock.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from typing import TYPE_CHECKING

import django

from benchmarks.databases import new_system, on_each_database, parser_for

if TYPE_CHECKING:
    pass


def main() -> int:
    parser = parser_for("benchmarks.killed_imports", __doc__ or "")
    parser.add_argument("--kills", type=int, default=200, help="on each database")
    parser.add_argument("--seed", type=int, default=1)
    return on_each_database(prove, parser.parse_args())


def prove(database: str, arguments: argparse.Namespace) -> None:
    with new_system(database, "kills", durable=False) as (folder, environment):
        os.environ.update(environment)
        django.setup()
        from benchmarks.import_kills import Proof  # noqa: PLC0415 - models need the settings

        found = Proof(random.Random(arguments.seed), folder, arguments.kills).run()
        print(json.dumps({"database": database, "seed": arguments.seed} | found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
