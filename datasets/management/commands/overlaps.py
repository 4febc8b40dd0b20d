from argparse import ArgumentParser
from typing import Any

from datasets.comparison.overlaps import compute_overlap, sentence
from datasets.management.acting_user import acting_user, add_user_argument
from datasets.services.datasets import get_dataset
from tunixrt.commands import Command as TunixrtCommand


class Command(TunixrtCommand):
    help = (
        "Compute which examples of OTHER (its held-out part, if it has one) stand in what a model"
        " learns from DATASET, and store it. The same key twice compares the parts of one dataset."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("dataset", metavar="DATASET", help="key of the dataset to learn from")
        parser.add_argument("other", metavar="OTHER", nargs="+", help="key of a dataset to compare")
        add_user_argument(parser)

    def handle(self, *args: Any, dataset: str, other: list[str], **options: Any) -> None:
        by = acting_user(options["user"])
        learnt = get_dataset(dataset)
        for key in dict.fromkeys(other):
            found = compute_overlap(learnt, get_dataset(key), by=by)
            self.stdout.write(sentence(found))
            for row in found.examples[:10]:
                self.stdout.write(
                    f"  {row['kind']}: example {row['position'] + 1:,} of {key}, example"
                    f" {row['dataset_position'] + 1:,} of {dataset}"
                    + (f" ({row['containment']:.2f})" if row["kind"] == "ngram" else "")
                )
