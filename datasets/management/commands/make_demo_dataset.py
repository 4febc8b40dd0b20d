from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from datasets.examples import arithmetic
from datasets.management.acting_user import acting_user, add_user_argument
from datasets.services.datasets import create_dataset, get_dataset
from datasets.services.refusals import DatasetNotFound
from datasets.services.traces import create_traces


class Command(BaseCommand):
    help = (
        "Make the dataset arithmetic-v1: worked two-digit additions, with a held-out part of pairs"
        " never shown in training."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_user_argument(parser)

    def handle(self, *args: Any, user: str | None, **options: Any) -> None:
        key = f"{arithmetic.NAME}-{arithmetic.VERSION}"
        try:
            dataset = get_dataset(key)
            verb = "is there already"
        except DatasetNotFound:
            by = acting_user(user)
            shown, held_out = arithmetic.generate()
            traces = create_traces(items=[*shown, *held_out], by=by)
            ids = [trace.id for trace in traces]
            dataset = create_dataset(
                name=arithmetic.NAME,
                version=arithmetic.VERSION,
                trace_ids=ids,
                held_out_ids=ids[len(shown) :],
                description=(
                    "Two-digit additions with worked steps; no held-out pair is in the training"
                    " part, in either order."
                ),
                provenance={"source": "generator", "generator": "datasets.arithmetic", "seed": 0},
                by=by,
            )
            verb = "made"
        self.stdout.write(
            f"{key} {verb}: {dataset.size - dataset.held_out_size} examples to train on,"
            f" {dataset.held_out_size} held out."
        )
