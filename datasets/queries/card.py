"""The data card of a dataset: Markdown with the YAML front matter of Hugging Face's dataset cards.

What people wrote is escaped: it can neither end the front matter nor become markup.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml

from datasets.comparison.overlaps import known_about, overlaps_of, sentence
from datasets.models import Dataset, Kind

# The identifiers that Hugging Face knows, of the licences that data mostly have.
_LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0"),
    *("cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "odc-by", "odbl"),
    *("pddl", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense", "openrail"),
    *("cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0"),
)
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
)
_TASKS = {
    Kind.TRACE: ["text-generation", "question-answering"],
    Kind.CONVERSATION: ["text-generation"],
    Kind.PREFERENCE: ["text-generation", "reinforcement-learning"],
    Kind.PROMPT: ["text-generation", "reinforcement-learning"],
}
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*[A-Za-z0-9]")
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|~:@^=$\"'])")
_INVISIBLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
PARENTS_SHOWN = 50


class _Dumper(yaml.SafeDumper):
    """Writes text in double quotes, with escapes, unless it is a plain word."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _PLAIN.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def front_matter(dataset: Dataset) -> dict[str, Any]:
    """Return what the card says for programs."""
    found: dict[str, Any] = {"pretty_name": dataset.dataset_key}
    if dataset.licence:
        known = dataset.licence.strip().lower()
        found["license"] = known if known in _LICENCES else "other"
        if known not in _LICENCES:
            found["license_name"] = dataset.licence
    found |= {
        "size_categories": [
            next((name for limit, name in _SIZES if dataset.size < limit), "n>100M")
        ],
        "task_categories": _TASKS[Kind(dataset.kind)],
        "tags": ["tunixrt", dataset.format, dataset.kind],
        "dataset_info": {
            "splits": [
                {"name": name, "num_examples": count}
                for name, count in _splits(dataset)
                if count or name == "train"
            ]
        },
        "tunixrt": {
            "dataset_key": dataset.dataset_key,
            "fingerprint": dataset.fingerprint,
            "kind": dataset.kind,
            "format": dataset.format,
            "created_at": dataset.created_at.isoformat(),
        },
    }
    return found


def _splits(dataset: Dataset) -> list[tuple[str, int]]:
    return [
        ("train", dataset.size - dataset.held_out_size),
        ("held_out", dataset.held_out_size),
    ]


def data_card(dataset: Dataset) -> str:
    """Return the card as Markdown."""
    front = yaml.dump(
        front_matter(dataset), Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=2**31
    )
    return f"---\n{front}---\n\n" + "\n\n".join(_sections(dataset)) + "\n"


def _sections(dataset: Dataset) -> Iterator[str]:
    yield f"# {escaped(dataset.dataset_key)}"
    if dataset.description.strip():
        yield escaped(dataset.description, lines=True)
    yield _table(
        ("", ""),
        [
            ("Examples", f"{dataset.size:,}"),
            *((f"Of them {name.replace('_', ' ')}", f"{n:,}") for name, n in _splits(dataset)),
            ("Kind of examples", dataset.get_kind_display()),
            ("Training format", dataset.format),
            ("Licence", dataset.licence or "not stated"),
            ("Source", dataset.source or "not stated"),
            ("Created", dataset.created_at.isoformat(timespec="seconds")),
            ("Fingerprint", dataset.fingerprint),
        ],
    )
    yield from _statistics(dataset)
    yield from _provenance(dataset)
    yield from _overlaps(dataset)


def _statistics(dataset: Dataset) -> Iterator[str]:
    ranges = [
        (label, dataset.stats.get(name) or {})
        for label, name in (
            ("Prompt", "prompt_characters"),
            ("Answer", "answer_characters"),
            ("Whole example", "example_characters"),
        )
    ]
    rows = [
        (label, *(f"{found[name]:,}" for name in ("min", "mean", "max")))
        for label, found in ranges
        if found.keys() >= {"min", "mean", "max"}
    ]
    if rows:
        yield "## Lengths in characters"
        yield _table(("Part", "Least", "Mean", "Greatest"), rows)
    if roles := dataset.stats.get("roles"):
        yield "## Messages"
        yield _table(("Role", "Messages"), [(role, f"{n:,}") for role, n in roles.items()])


def _provenance(dataset: Dataset) -> Iterator[str]:
    provenance = dict(dataset.provenance)
    recipe = provenance.pop("recipe", None)
    for name in ("parents", "report"):
        provenance.pop(name, None)
    yield "## Provenance"
    if provenance:
        yield _table(
            ("", ""),
            [
                (
                    name.replace("_", " "),
                    value
                    if isinstance(value, str)
                    else json.dumps(value, ensure_ascii=False, sort_keys=True),
                )
                for name, value in provenance.items()
            ],
        )
    parents = list(dataset.parents.order_by("pk")[: PARENTS_SHOWN + 1])
    if parents:
        lines = [
            f"* {escaped(each.dataset_key)}, fingerprint {escaped(each.fingerprint)}"
            for each in parents[:PARENTS_SHOWN]
        ]
        if len(parents) > PARENTS_SHOWN:
            lines.append("* and more")
        yield "Made from:"
        yield "\n".join(lines)
    if recipe is not None:
        yield "By this recipe:"
        yield _code(recipe)


def _overlaps(dataset: Dataset) -> Iterator[str]:
    overlaps = overlaps_of(dataset)
    said = [sentence(overlap) for overlap in overlaps[:20]]
    said += known_about(dataset, overlaps)[1]
    if said:
        yield "## Overlap with sets for evaluation"
        yield "\n".join(f"* {escaped(one)}" for one in said)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head)]
    text = ["| " + " | ".join(cells) + " |" for cells in lines]
    text += ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in rows]
    return "\n".join(text)


def _code(value: Any) -> str:
    """Return JSON in a fence that nothing in it can end."""
    text = json.dumps(value, indent=2)
    text = text.replace("`", "\\u0060").replace("<", "\\u003c").replace("~", "\\u007e")
    return f"```json\n{text}\n```"


def escaped(text: str, *, lines: bool = False) -> str:
    """Return ``text`` so that Markdown shows it as it is: one line, or with ``lines`` paragraphs
    and line breaks."""
    text = _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\t", " "))
    text = re.sub("[\x85\u2028\u2029]", "\n", text)
    parts = [" ".join(line.split(" ")).strip() for line in text.split("\n")]
    shown = [_escaped_line(part) for part in parts]
    return "\n".join(shown).strip() if lines else " ".join(filter(None, shown))


def _escaped_line(line: str) -> str:
    # & first; backslashes do not reach into the entities that this makes
    marked = _MARKUP.sub(r"\\\1", line)
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
