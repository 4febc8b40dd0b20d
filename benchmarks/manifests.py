"""Processor time of writing a manifest, with and without remembered sections:
``python -m benchmarks.manifests``. The manifests differ in their ``run_id`` alone, as those of one
dataset, model and set of parameters do. Of all rounds the least counts.
"""

from __future__ import annotations

import time
import uuid

from runs.spec import manifest
from runs.spec.kinds import DEFAULT_KIND, KINDS

ROUNDS, COUNT = 5, 200


def main() -> None:
    remembered = _milliseconds()
    manifest._dump_section = manifest._dump_section.__wrapped__  # type: ignore[assignment]
    print(f"remembered {remembered:.3f} ms, written again {_milliseconds():.3f} ms")


def _milliseconds() -> float:
    _write()
    return min(_round() for _ in range(ROUNDS))


def _round() -> float:
    began = time.process_time()
    for _ in range(COUNT):
        _write()
    return 1000 * (time.process_time() - began) / COUNT


def _write() -> None:
    manifest.dump_manifest(
        manifest.build_manifest(
            run_id=str(uuid.uuid4()),
            kind=KINDS[DEFAULT_KIND],
            dataset={"key": "set-7", "path": "dataset.jsonl"},
            model={"id": "preset:tiny-llama", "revision": None},
            training={},
        )
    )


if __name__ == "__main__":
    main()
