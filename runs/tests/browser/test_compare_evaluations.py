"""Evaluations are chosen in the list and compared: without JavaScript, and without a serious
violation of WCAG 2.2 AA."""

import json
from typing import Any

from playwright.sync_api import expect

from runs.tests.browser.conftest import Visit
from runs.tests.browser.house import House
from runs.tests.browser.test_look import STILL, violations

QUESTIONS = 36


def add_quiz(house: House, name: str) -> str:
    """Upload prompts with a column; the dataset's key."""
    lines = (
        json.dumps({"prompt": f"What is {number} + {number}?", "final_answer": str(2 * number),
                    "meta": {"level": "hard" if number % 4 == 0 else "easy"}}) + "\n"
        for number in range(QUESTIONS)
    )  # fmt: skip
    answer = house.ask(
        "POST",
        "/api/datasets/ingest",
        files={"file": (f"{name}.jsonl", "".join(lines))},
        data={"name": name, "version": "v1", "kind": "prompt"},
    )
    return str(answer["dataset_key"])


def evaluate(house: House, dataset: str, scores: list[Any], text: str, **fields: Any) -> str:
    """Have an evaluation made whose outputs say ``text``; its id at its end."""
    asked = {
        "dataset_key": dataset,
        "model_id": "preset:tiny-llama",
        "seed": house.script(["answer", {"exact_match": scores}, {"text": text}]),
        "reuse": False,
    }
    run = str(house.ask("POST", "/api/tunix/evaluations", json=asked | fields)["run_id"])
    assert house.wait(run) == "completed"
    return run


def test_evaluations_are_chosen_and_compared(visit: Visit, house: House):
    dataset = add_quiz(house, "compared")
    base = evaluate(house, dataset, [1, 0, 0], "The sum is one more.", name="the base")
    tuned = evaluate(house, dataset, [1, 1, 0], "The sum is two more.", name="tuned on sums")
    page = visit("/evaluations", java_script_enabled=False)
    for run in (base, tuned):
        page.locator(f"input[name=ids][value='{run}']").check()
    page.get_by_test_id("compare").click()

    newest_last = page.get_by_test_id("score-B")
    expect(newest_last).to_contain_text("12")
    expect(page.get_by_test_id("differs-seed")).to_be_visible()
    page.goto(f"/evaluations/compare?ids={base},{tuned}")
    expect(page.get_by_test_id("score-B")).to_contain_text("+33.3 points")
    page.get_by_role("combobox", name="Show").select_option("B right, A wrong (12)")
    page.get_by_test_id("show").click()
    first = page.get_by_test_id("question").first
    expect(first).to_contain_text("B right, A wrong")
    expect(first.locator("del")).to_have_text("one")
    expect(first.locator("ins")).to_have_text("two")
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_test_id("question")).to_have_count(2)
    page.get_by_role("combobox", name="By column").select_option("level")
    page.get_by_role("button", name="Group").click()
    expect(page.get_by_test_id("slices")).to_contain_text("easy")
    expect(page.get_by_test_id("too-few")).to_have_count(2)

    seen = visit("about:blank", **STILL)
    for path in (page.url, "/evaluations", f"/evaluations/{tuned}"):
        found = violations(seen, path)
        assert not found, "\n".join(found)
