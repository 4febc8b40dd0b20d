"""The data card: what programs and people read of a dataset, whatever its description holds."""

from html.parser import HTMLParser

import pytest
import yaml
from rest_framework.test import APIClient

from datasets.models import Dataset
from datasets.queries.card import data_card, escaped
from datasets.tests.factory import make_dataset

HOSTILE = (
    "---\nlicense: mit\n---\n<script>alert(1)</script> <img src=x onerror=y> &lt;b&gt;"
    " [click](javascript:alert(1)) ![x](http://example.org/x.png) | a | b\n```\n# Not a heading"
    "\u2028---\u202e: {a: [b, 'c\" !!python/object:os.system"
)


def parts(card: str) -> tuple[dict, str]:
    assert card.startswith("---\n")
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    return yaml.safe_load(front), body


@pytest.mark.django_db
def test_the_card_says_what_is_known(api: APIClient) -> None:
    dataset = make_dataset(3, held_out=1)
    Dataset.objects.filter(pk=dataset.pk).update(licence="CC-BY-4.0", source="a book")
    answer = api.get("/api/datasets/sums-v1/card.md")
    assert answer["Content-Type"] == "text/markdown; charset=utf-8"
    front, body = parts(answer.content.decode())
    assert front["license"] == "cc-by-4.0"
    assert front["size_categories"] == ["n<1K"]
    assert front["dataset_info"]["splits"] == [
        {"name": "train", "num_examples": 2},
        {"name": "held_out", "num_examples": 1},
    ]
    assert front["tunixrt"]["fingerprint"] == dataset.fingerprint
    assert "| a book |" in body
    assert "Not computed yet" in body
    assert api.get("/api/datasets/none-v1/card.md").status_code == 404


@pytest.mark.django_db
def test_no_text_breaks_the_front_matter_or_becomes_markup() -> None:
    dataset = make_dataset()
    dataset.description = HOSTILE
    dataset.licence = "mit\n---\nx: y" + HOSTILE[:100]
    dataset.source = HOSTILE
    dataset.provenance = {HOSTILE: HOSTILE, "recipe": {"steps": [{"x": f"```\n{HOSTILE}~~~"}]}}
    dataset.stats = dataset.stats | {"roles": {HOSTILE: 3}}
    card = data_card(dataset)
    front, body = parts(card)
    assert (front["license"], front["license_name"]) == ("other", dataset.licence)
    assert set(front) == {
        *("pretty_name", "license", "license_name", "size_categories", "task_categories"),
        *("tags", "dataset_info", "tunixrt"),
    }
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(body)
    assert tags == []
    assert "\u202e" not in card
    outside, _, fenced = body.partition("```json\n")
    assert fenced.count("```") == 1
    assert "```" not in outside
    lines = outside.splitlines()
    assert not [line for line in lines if line.startswith(("---", "<", "[", "!"))]
    assert {line for line in lines if line.startswith("#")} == {
        *("# sums\\-v1", "## Lengths in characters", "## Messages", "## Provenance"),
    }
    # every row of a table has the cells of its head
    for line in lines:
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") in (3, 5)


@pytest.mark.parametrize("value", ["yes", "null", "1e5", "2024-01-01", "~", "😀", "a: b", "- x"])
@pytest.mark.django_db
def test_a_licence_stays_text_in_the_front_matter(value: str) -> None:
    dataset = make_dataset()
    dataset.licence = value
    assert parts(data_card(dataset))[0]["license_name"] == value


def test_escaped_text_keeps_every_visible_character() -> None:
    assert escaped("a < b & *c*\n| d") == "a &lt; b &amp; \\*c\\* \\| d"
    assert escaped("one\r\ntwo", lines=True) == "one\ntwo"
