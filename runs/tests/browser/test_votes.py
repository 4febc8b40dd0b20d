"""Votes in the browser: by keys, by buttons without JavaScript, and what the pages look like."""

import re

import pytest
from playwright.sync_api import Page, expect

from runs.tests.browser.conftest import Visit
from runs.tests.browser.house import House
from runs.tests.browser.test_look import STILL, violations

TEXTS = ("The answer is 2.\n\n#### 2", "I do not know. " * 40)


@pytest.fixture
def round_id(house: House, dataset: str) -> str:
    """A round of votes on three questions, on which two evaluations wrote different outputs."""
    runs = []
    for text in TEXTS:
        asked = {
            "dataset_key": dataset,
            "model_id": "preset:tiny-llama",
            "reuse": False,
            "seed": house.script(["answer", {"exact_match": [1, 0]}, {"text": text}]),
        }
        runs.append(str(house.ask("POST", "/api/tunix/evaluations", json=asked)["run_id"]))
    for run in runs:
        assert house.wait(run) == "completed"
    return str(house.ask("POST", "/api/tunix/votes", json={"evaluations": runs, "seed": 1})["id"])


def votes_of(house: House, round_id: str) -> list[int]:
    [voter] = house.ask("GET", f"/api/tunix/votes/{round_id}")["voter_counts"]
    return [voter[name] for name in ("first", "second", "tie", "skip")]


def progress(page: Page, done: int) -> None:
    expect(page.get_by_test_id("vote-progress")).to_contain_text(f"{done} of 3 questions")


def press(page: Page, key: str) -> None:
    """Press a key once the page's script is there, which shows the switch of the keys."""
    expect(page.get_by_role("checkbox", name="Use the keys")).to_be_visible()
    page.keyboard.press(key)


def test_a_key_votes_and_shows_the_next_question(visit: Visit, house: House, round_id: str):
    page = visit(f"/votes/{round_id}")
    outputs = page.get_by_test_id("vote-output")
    expect(outputs).to_have_count(2)
    better = 1 if outputs.nth(0).inner_text().startswith("The answer") else 2
    press(page, "Control+0")  # the browser's own
    page.keyboard.press("3")
    press(page, str(better))
    progress(page, 1)
    press(page, "0")
    progress(page, 2)
    page.get_by_test_id("previous").click()
    expect(page.get_by_test_id("choose-0")).to_have_attribute("aria-current", "true")
    press(page, "s")
    progress(page, 2)
    press(page, "0")
    expect(page.get_by_test_id("vote-end")).to_be_visible()

    assert votes_of(house, round_id) == [1, 0, 1, 1]
    page.get_by_role("link", name="Results").click()
    page.get_by_role("textbox", name="Name").fill(f"liked-{round_id[:8]}")
    page.get_by_test_id("make-dataset").click()
    page.wait_for_url(re.compile(f"/datasets/liked-{round_id[:8]}-v1$"))
    expect(page.get_by_test_id("messages")).to_contain_text("of 1 pairs")


def test_keys_can_be_switched_off(visit: Visit, house: House, round_id: str):
    page = visit(f"/votes/{round_id}")
    page.get_by_role("checkbox", name="Use the keys").uncheck()
    page.keyboard.press("1")
    page.reload()
    expect(page.get_by_role("checkbox", name="Use the keys")).not_to_be_checked()
    progress(page, 0)
    assert house.ask("GET", f"/api/tunix/votes/{round_id}")["votes"] == 0


def test_buttons_vote_without_javascript(visit: Visit, house: House, round_id: str):
    page = visit(f"/votes/{round_id}", java_script_enabled=False)
    for number, key in enumerate(("0", "s", "0"), start=1):
        page.get_by_test_id(f"choose-{key}").click()
        progress(page, number)
    expect(page.get_by_test_id("vote-end")).to_be_visible()
    assert votes_of(house, round_id) == [0, 0, 2, 1]


def test_the_pages_are_for_everybody(visit: Visit, house: House, round_id: str):
    page = visit("/votes", **STILL)
    evaluation = house.ask("GET", f"/api/tunix/votes/{round_id}")["sides"][0]["run_id"]
    found = violations(page, f"/votes/{round_id}")
    page.get_by_test_id("choose-1").click()
    paths = ("/votes", f"/votes/{round_id}", f"/votes/{round_id}/results")
    for path in (*paths, f"/evaluations/{evaluation}"):
        found += violations(page, path)
    assert found == []
