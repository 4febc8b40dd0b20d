"""How long checking a request for a run takes:  python -m benchmarks.validation [--before COMMIT]

The yardstick of docs/adr/0010-one-reader.md. Nothing is stored and nothing is served: this is
``clean_request`` alone, beside a serializer of Django REST framework with the same strict fields,
and beside ``clean_request`` of another commit. Each measurement is the least of several rounds, in
turns, in microseconds of processor time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.idle import checkout

ROOT = Path(__file__).resolve().parents[1]

ROUNDS, CALLS = 7, 2000
SMALL = {"dataset_key": "sums-v1", "model_id": "preset:tiny-llama"}
LARGE = SMALL | {
    "output_dir": "team/best", "dry_run": False, "name": "best of all", "tags": ["one", "two"],
    "notes": "the good one", "priority": 5, "timeout_seconds": 3600.0, "auto_retry": 2,
    "client_request_id": "0c5b", "learning_rate": 1e-4, "num_epochs": 5, "batch_size": 16,
    "max_seq_length": 1024, "seed": 7, "max_steps": 1000, "lora_rank": 8, "lora_alpha": 16.0,
    "lora_targets": ["q_proj", "v_proj"], "packing": True, "too_long": "split",
    "lr_schedule": "linear", "warmup_ratio": 0.1, "weight_decay": 0.01, "max_grad_norm": 0.5,
    "gradient_accumulation_steps": 4, "gradient_checkpointing": True, "dtype": "bfloat16",
}  # fmt: skip
WRONG = LARGE | {"num_epochs": "3", "learning_rate": 2, "tags": "one", "unknown": 1}
REQUESTS = {"small": SMALL, "large": LARGE, "wrong": WRONG}


def least(call: Callable[[], object]) -> float:
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(CALLS):
            call()
        found.append((time.process_time() - start) / CALLS * 1e6)
    return min(found)


def measure_here(readers: list[str]) -> None:
    """Print the microseconds of each reader and request as JSON. Runs in a tree of either commit,
    so it uses what both have."""
    import django  # noqa: PLC0415 - in the process that is measured

    django.setup()
    from runs.services.run_requests import InvalidRequest, clean_request  # noqa: PLC0415

    def read(data: dict[str, Any]) -> None:
        try:
            clean_request(data)
        except InvalidRequest:
            pass

    found = {}
    for reader in readers:
        call = read if reader == "clean_request" else serializer_reader()
        found[reader] = {
            name: least(lambda call=call, data=data: call(data))  # type: ignore[misc]
            for name, data in REQUESTS.items()
        }
    print(json.dumps(found))


def serializer_reader() -> Callable[[dict[str, Any]], None]:
    """Return a reader that checks types and ranges by a serializer with strict fields, and the rest
    by the functions that ``clean_request`` uses."""
    from rest_framework import serializers  # noqa: PLC0415

    from runs.services import run_requests as ours  # noqa: PLC0415
    from runs.spec.kinds import SFT  # noqa: PLC0415

    def strict(field: type, *types: type) -> type:
        def to_internal_value(self: Any, value: Any) -> Any:
            if type(value) not in types:
                self.fail("invalid")
            return value

        return type(f"Strict{field.__name__}", (field,), {"to_internal_value": to_internal_value})

    def by(clean: Callable[[Any], Any]) -> type:
        def to_internal_value(self: Any, value: Any) -> Any:
            try:
                return clean(value)
            except ValueError as error:
                raise serializers.ValidationError([str(error)]) from error

        return type("By", (serializers.Field,), {"to_internal_value": to_internal_value})

    text = strict(serializers.CharField, str)
    whole = strict(serializers.IntegerField, int)
    number = strict(serializers.FloatField, int, float)
    truth = strict(serializers.BooleanField, bool)
    null: dict[str, Any] = {"required": False, "allow_null": True, "default": None}
    fields: dict[str, Any] = {
        "dataset_key": text(max_length=256), "model_id": by(ours.resolve_model)(),
        "output_dir": by(ours.clean_output_dir)(**null), "kind": text(default="sft"),
        "dry_run": truth(default=True), "smoke": truth(default=False),
        "preflight": serializers.ChoiceField(["quick", "full"], default="quick"),
        "name": by(ours.clean_name)(**null), "tags": by(ours.clean_tags)(**null),
        "notes": by(ours.clean_notes)(**null), "webhook_url": text(**null),
        "priority": whole(min_value=-100, max_value=100, default=0),
        "timeout_seconds": number(min_value=1, max_value=31_536_000, **null),
        "auto_retry": whole(min_value=0, max_value=10, default=0),
        "client_request_id": by(ours.clean_client_request_id)(**null),
    }  # fmt: skip
    for name, one in SFT.parameters.items():
        options: dict[str, Any] = {"default": one.default, "allow_null": one.nullable}
        if one.type is list:
            choice = serializers.ChoiceField(one.choices)
            fields[name] = serializers.ListField(child=choice, **options)
        elif one.choices:
            fields[name] = serializers.ChoiceField(one.choices, **options)
        elif one.type is bool:
            fields[name] = truth(default=one.default)
        else:
            options |= {"min_value": one.minimum, "max_value": one.maximum}
            fields[name] = (whole if one.type is int else number)(**options)
    serializer = type("RunSerializer", (serializers.Serializer,), fields)
    return lambda data: serializer(data=data).is_valid()


def ask(tree: Path, *readers: str) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as var:
        own = {"TUNIXRT_ENV_FILE": os.devnull, "TUNIXRT_VAR_DIR": var, "DATABASE_URL": ""}
        own |= {"DJANGO_SETTINGS_MODULE": "tunixrt.settings", "PYTHONPATH": str(tree)}
        printed = subprocess.run(
            [sys.executable, __file__, "--here", *readers],
            cwd=tree,
            env=os.environ | own,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    return dict(json.loads(printed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--before", metavar="COMMIT", help="compare with this commit")
    parser.add_argument("--here", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        measure_here(given.here)
        return
    found = ask(ROOT, "clean_request", "serializer")
    rows = {"this tree": found["clean_request"], "DRF serializer": found["serializer"]}
    if given.before:
        with checkout(given.before) as tree:
            rows[given.before] = ask(tree, "clean_request")["clean_request"]
        again = ask(ROOT, "clean_request")["clean_request"]
        rows["this tree"] = {
            name: min(value, again[name]) for name, value in rows["this tree"].items()
        }
    print("| µs a request | " + " | ".join(REQUESTS) + " |\n|" + " --- |" * (len(REQUESTS) + 1))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[key]:.1f}" for key in REQUESTS) + " |")


if __name__ == "__main__":
    main()
