"""Why a service refuses."""

from collections.abc import Sequence
from typing import Any

from datasets.examples.schema import Errors
from tunixrt.refusals import Conflict, Missing, Refusal

NAMED_IDS = 20  # unknown ids named in a sentence
LISTED_IDS = 1_000  # unknown ids listed in an answer


class DatasetNotFound(Missing):
    def __init__(self, key: str):
        self.key = key
        super().__init__(f"Dataset not found: {key}")


class DatasetExists(Conflict):
    def __init__(self, key: str, *, under_way: bool = False):
        self.key = key
        super().__init__(
            f"Dataset {key} is being imported: choose another name or version, or cancel the"
            " import."
            if under_way
            else f"Dataset {key} exists already. Datasets never change: choose another name or"
            " version."
        )


class UnknownTraces(Refusal):
    def __init__(self, ids: Sequence[Any]):
        self.ids = [str(item) for item in ids]
        more = f" and {len(ids) - NAMED_IDS} more" if len(ids) > NAMED_IDS else ""
        sentence = f"Unknown trace ids: {', '.join(self.ids[:NAMED_IDS])}{more}."
        super().__init__(sentence, messages={"trace_ids": [sentence]})

    @property
    def extra(self) -> dict[str, Any]:
        return {"unknown_trace_ids": self.ids[:LISTED_IDS]}


class InvalidDataset(Refusal):
    """``errors``: field → what is wrong with it."""

    def __init__(self, errors: Errors):
        self.errors = errors
        super().__init__(messages=errors)


class InvalidTraces(Refusal):
    """``errors``: place in the list → field → what is wrong with it; the first hundred places."""

    NAMED = 100

    def __init__(self, errors: dict[int, Errors], count: int):
        self.errors = errors
        self.count = count
        places = {
            f"[{place}].{name}": reasons
            for place, found in errors.items()
            for name, reasons in found.items()
        }
        super().__init__(messages=places)

    @property
    def of_the_first(self) -> Refusal:
        """The same for a client that sent one trace, not a list."""
        return Refusal(messages=self.errors[0])
