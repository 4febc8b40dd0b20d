"""A new version of datasets by a recipe: its examples one after another, and what became of them.

Memory does not grow with the datasets: what an operation has to know of all examples is in arrays
of a few bytes an example and in temporary files.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from datasets.cleaning.choosing import Sample
from datasets.cleaning.combining import Mix
from datasets.cleaning.items import Item, Work
from datasets.cleaning.operation import StepReport
from datasets.cleaning.recipe import Recipe, check_parents, parse_recipe
from datasets.examples.kinds import Part, parts_of
from datasets.examples.schema import ExampleData
from datasets.models import Dataset
from datasets.storage.storing import Erased
from tunixrt.refusals import Refusal

# What a dry run reads at most: a second or a few of work, whatever the size of the datasets.
SAMPLE_EXAMPLES = 5_000
SAMPLE_BLOCK = 100
SAMPLE_BYTES = 32 * 1024 * 1024
SHOWN_FIRST = 5


class NothingLeft(Refusal):
    code = "nothing_left"


class Derivation:
    """What a recipe makes of datasets. ``examples`` may be read several times, one after
    another; the reports are of the last time."""

    def __init__(self, recipe: Recipe, parents: Sequence[Dataset], work: Work):
        self.recipe = recipe
        self.parents = list(parents)
        self._work = work
        self._reports: list[StepReport] = []

    def examples(self) -> Iterator[tuple[ExampleData, str]]:
        """Yield every example with its part. Raise NothingLeft at the end if there was none, and
        what the operations raise (Refusal)."""
        left = False
        for item in self.items():
            left = True
            yield item.example, item.split
        if not left:
            raise NothingLeft(self._what_left_nothing())

    def items(self) -> Iterator[Item]:
        keys = [parent.dataset_key for parent in self.parents]
        self._work.read = self._work.erased = self._work.archived = 0
        self._reports = [
            StepReport(step.operation, step.model_dump(mode="json", exclude={"operation"}), keys)
            for step in self.recipe.steps
        ]
        items = self._source()
        for step, report in zip(self.recipe.steps, self._reports, strict=True):
            came = items if isinstance(step, Mix) else _counted(items, report)
            items = _went(step.apply(came, self._work, report), report)
        return self._not_erased(items)

    def _not_erased(self, items: Iterator[Item]) -> Iterator[Item]:
        """Leave out what an operation has made the same as an erased example, and count it."""
        erased = Erased.read()
        for item in items:
            if item.example in erased:
                self._work.erased += 1
            else:
                yield item

    def _source(self) -> Iterator[Item]:
        for parent in range(len(self.parents)):
            yield from self._work.items(parent)

    def _what_left_nothing(self) -> str:
        for number, report in enumerate(self._reports, start=1):
            if report.came and not report.went:
                return f"No example is left: step {number} ({report.operation}) left out the last."
        return "No example is left: the datasets hold none."

    def report(self, *, texts: bool = True) -> dict[str, Any]:
        """Return what became of the examples, step by step. Without their ``texts`` it may be kept,
        also when an example is erased."""
        return {
            "examples_read": self._work.read,
            "erased": self._work.erased,
            "archived": self._work.archived,
            "steps": [report.as_dict(texts=texts) for report in self._reports],
        }

    def provenance(self) -> dict[str, Any]:
        """Return what the new version records about its origin."""
        return {
            "source": "recipe",
            "recipe": self.recipe.as_json(),
            "parents": [
                {"dataset_key": parent.dataset_key, "fingerprint": parent.fingerprint}
                for parent in self.parents
            ],
        }


def _counted(items: Iterator[Item], report: StepReport) -> Iterator[Item]:
    for item in items:
        report.came += 1
        yield item


def _went(items: Iterator[Item], report: StepReport) -> Iterator[Item]:
    for item in items:
        report.went += 1
        yield item


def derive(
    recipe: Recipe | dict[str, Any] | str,
    parents: Sequence[Dataset],
    *,
    progress: Callable[[], None] = lambda: None,
) -> Derivation:
    """Return what ``recipe`` makes of ``parents``; nothing is read yet.

    Args:
        progress: called every few hundred examples of every pass; it may raise to stop the work.

    Raises:
        InvalidRecipe
    """
    recipe = recipe if isinstance(recipe, Recipe) else parse_recipe(recipe)
    check_parents(recipe, list(parents))
    return Derivation(recipe, parents, Work(list(parents), progress))


def dry_run(recipe: Recipe | dict[str, Any] | str, parents: Sequence[Dataset]) -> dict[str, Any]:
    """Return what the recipe would do, with the first examples of every step, and store nothing.

    Of more than ``SAMPLE_EXAMPLES`` examples it reads blocks spread evenly over the datasets, and
    never more than ``SAMPLE_BYTES``. It says so: numbers are then those of the sample, and
    duplicates of examples outside of it are not found. Raise InvalidRecipe, and what the operations
    refuse.
    """
    recipe = recipe if isinstance(recipe, Recipe) else parse_recipe(recipe)
    check_parents(recipe, list(parents))
    total = sum(parent.size for parent in parents)
    blocks = None
    if total > SAMPLE_EXAMPLES:
        blocks = [_blocks(parent.size, total) for parent in parents]
    work = Work(list(parents), blocks=blocks, bytes_left=SAMPLE_BYTES)
    made = Derivation(recipe, parents, work)
    left = held_out = 0
    first: list[dict[str, Any]] = []
    for item in made.items():
        left += 1
        held_out += item.split == "held_out"
        if len(first) < SHOWN_FIRST:
            first.append(
                {
                    "dataset": parents[item.parent].dataset_key,
                    "position": item.position,
                    "split": item.split,
                    "parts": [_part(part) for part in parts_of(item.example)],
                }
            )
    sampled = blocks is not None or work.is_cut
    return made.report() | {
        "recipe": recipe.as_json(),
        "sampled": sampled,
        "examples": total,
        "left": left,
        "left_held_out": held_out,
        "first": first,
        "warnings": _warnings(recipe, left, sampled=sampled),
    }


def _blocks(size: int, total: int) -> list[range]:
    """Return the positions of a dataset to read, so that all datasets together give the sample."""
    share = max(SAMPLE_BLOCK, SAMPLE_EXAMPLES * size // total)
    if size <= share:
        return [range(size)]
    count = share // SAMPLE_BLOCK
    starts = (place * size // count for place in range(count))
    return [range(start, start + SAMPLE_BLOCK) for start in starts]


SHOWN_TEXT = 1_000


def _part(part: Part) -> dict[str, Any]:
    return {
        "title": part.title,
        "messages": [
            {"role": message.role, "content": message.content[:SHOWN_TEXT]}
            for message in part.messages[:10]
        ],
    }


def _warnings(recipe: Recipe, left: int, *, sampled: bool) -> list[str]:
    warnings = []
    if not left:
        warnings.append("No example would be left.")
    if sampled and any(
        isinstance(step, Mix) or (isinstance(step, Sample) and step.n is not None)
        for step in recipe.steps
    ):
        warnings.append("Numbers of examples that the recipe asks for are scaled to the sample.")
    return warnings
