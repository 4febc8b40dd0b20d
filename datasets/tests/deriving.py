"""Datasets and recipes that the tests of cleaning share."""

from collections.abc import Iterable, Sequence
from typing import Any

from datasets.cleaning.derivation import Derivation, derive
from datasets.models import Dataset
from datasets.services.datasets import create_dataset
from datasets.services.traces import create_traces


def dataset_of(
    *examples: dict[str, Any], name: str = "sums", version: str = "v1", held_out: Iterable[int] = ()
) -> Dataset:
    """A dataset of these examples; ``held_out``: their places."""
    ids = [trace.id for trace in create_traces(items=examples, by=None)]
    return create_dataset(
        name=name,
        version=version,
        trace_ids=ids,
        held_out_ids=[ids[place] for place in held_out],
        by=None,
    )


def qa(question: str, answer: str = "yes", **meta: Any) -> dict[str, Any]:
    return {"prompt": question, "final_answer": answer, "meta": meta}


def chat(*texts: str, **fields: Any) -> dict[str, Any]:
    """A conversation of the user and the assistant in turns."""
    roles = ("user", "assistant")
    return {
        "messages": [
            {"role": roles[place % 2], "content": text} for place, text in enumerate(texts)
        ],
        **fields,
    }


def made(parents: Dataset | Sequence[Dataset], *steps: dict[str, Any]) -> Derivation:
    """A derivation whose examples have been read."""
    derivation = derive(
        {"steps": list(steps)}, [parents] if isinstance(parents, Dataset) else parents
    )
    derivation.results = list(derivation.examples())
    return derivation


def questions(derivation: Derivation) -> list[str]:
    return [example.prompt for example, _ in derivation.results]


def step(derivation: Derivation, number: int = 0) -> dict[str, Any]:
    """What a step reports."""
    return derivation.report()["steps"][number]
