"""How long the examples of a dataset are in tokens: which are counted, and their classes."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from datasets.examples.kinds import training_line
from datasets.models import Dataset
from runs.execution.looking import count_lengths

EXAMPLES_MAX = 5000  # that are counted of one dataset
BYTES_MAX = 64 * 1024**2  # of their lines
BATCH = 200
CLASSES_MAX = 24


def sample_lines(dataset: Dataset) -> Iterator[bytes]:
    """Yield the lines of all examples, or of EXAMPLES_MAX drawn at random; the same at each call.

    Their order is by chance as well, so that the first of them are a fair sample.
    """
    chance = random.Random(dataset.fingerprint)
    positions = chance.sample(range(dataset.size), min(dataset.size, EXAMPLES_MAX))
    size = 0
    for start in range(0, len(positions), BATCH):
        batch = positions[start : start + BATCH]
        items = dataset.items.filter(position__in=batch).select_related("trace")
        by_position = {item.position: item for item in items}
        for position in batch:
            item = by_position[position]
            if item.trace.erased_at is not None:
                continue
            line = training_line(item.trace_id, item.trace, item.split)
            size += len(line)
            if size > BYTES_MAX and size > len(line):
                return
            yield line


def in_classes(lengths: Sequence[tuple[int, int]], step: int) -> list[list[int]]:
    """Return ``[from, up to, examples]`` in at most CLASSES_MAX classes of equal width, of
    ``lengths`` in ascending steps: ``(from, examples)``."""
    if not lengths:
        return []
    end = lengths[-1][0] + step
    width = step
    while end > width * CLASSES_MAX:
        width *= 2
    counts: dict[int, int] = {}
    for length, count in lengths:
        counts[length // width] = counts.get(length // width, 0) + count
    return [
        [place * width, (place + 1) * width - 1, counts.get(place, 0)]
        for place in range(max(counts) + 1)
    ]


def measure_lengths(
    dataset: Dataset, *, model_id: str, prompt_style: str, max_seq_length: int
) -> dict[str, Any]:
    """Return how long the examples of a dataset are in the tokens of a model. Raise as
    ``count_lengths``."""
    counted = count_lengths(
        model_id=model_id,
        lines=sample_lines(dataset),
        prompt_style=prompt_style,
        max_seq_length=max_seq_length,
    )
    histogram = in_classes(counted.pop("lengths"), counted.pop("step"))
    return {"size": dataset.size, "histogram": histogram, **counted}
