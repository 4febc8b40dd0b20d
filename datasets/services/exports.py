"""Write the examples of a dataset: lines, Parquet, files for training programs."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from datasets.examples.kinds import example_line, training_line
from datasets.files import parquet
from datasets.models import Dataset, DatasetItem
from datasets.storage.rows import READ_BATCH
from tunixrt.refusals import NotHere


def export_lines(dataset: Dataset, *, in_full: bool = False) -> Iterator[bytes]:
    """Yield the dataset's lines in its training format, or with all fields of its examples, in
    order, without examples whose content was erased. Read in short queries by position: constant
    memory, and no transaction stays open while a slow reader takes its time."""
    start = 0
    while True:
        chunk = list(
            DatasetItem.objects.filter(dataset_id=dataset.pk, position__gte=start)
            .select_related("trace")
            .order_by("position")[:READ_BATCH]
        )
        for item in chunk:
            if item.trace.erased_at is not None:
                continue
            yield (
                example_line(item.trace, item.split)
                if in_full
                else training_line(item.trace_id, item.trace, item.split)
            )
        if len(chunk) < READ_BATCH:
            return
        start = chunk[-1].position + 1


def export_parquet(dataset: Dataset) -> Iterator[bytes]:
    """Yield a Parquet file with all fields of the dataset's examples, piece by piece. Raise
    NotHere."""
    if not parquet.is_installed():
        raise NotHere(f"Parquet needs a package that is not installed here: {parquet.INSTALL}")
    return parquet.write(export_lines(dataset, in_full=True), dataset.kind)


def write_jsonl(dataset: Dataset, path: Path) -> int:
    """Write the export to ``path``, which appears complete or not at all. Return the number of
    lines. Raise OSError."""
    count = 0
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            for line in export_lines(dataset):
                file.write(line)
                count += 1
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    return count
