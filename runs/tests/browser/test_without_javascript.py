"""Everything that reads or acts works without JavaScript."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from runs.tests.browser.conftest import Visit
from runs.tests.browser.house import House
from runs.tests.browser.test_runs import DETAIL, start_async, status_of


@pytest.fixture
def page(visit: Visit) -> Page:
    return visit("/", java_script_enabled=False)


def test_a_run_is_started_read_and_cancelled(page: Page, house: House, dataset: str):
    seed = house.script(*(["say", f"line {number}"] for number in range(2000)), ["wait", "never"])
    run = start_async(page, dataset, seed)
    house.wait(run, "running")
    while (
        "line 1999"
        not in house.ask("GET", f"/api/tunix/runs/{run}/logs?stream=stdout&tail_lines=1")["text"]
    ):
        pass
    page.get_by_test_id("refresh").click()

    expect(status_of(page)).to_have_text("running")
    log = page.get_by_test_id("stdout")
    expect(log).to_contain_text("line 1999")  # the end of it
    assert "line 0\n" not in log.inner_text()
    page.get_by_test_id("cancel").click()
    expect(page.get_by_test_id("messages").locator(".success")).to_be_visible()
    house.wait(run)
    page.reload()
    expect(status_of(page)).to_have_text("cancelled")
    page.get_by_test_id("retry").click()
    page.wait_for_url(DETAIL)
    page.get_by_test_id("cancel").click()
    assert house.wait(page.url.rpartition("/")[2]) == "cancelled"


def test_runs_are_found_compared_and_deleted(page: Page, house: House, dataset: str):
    for rate in (1e-4, 2e-4, 3e-4):
        house.run_dry(dataset, learning_rate=rate, tags=[dataset])
    page.get_by_role("searchbox").fill(f"tag:{dataset}")
    page.get_by_test_id("filter").click()
    expect(page.get_by_test_id("run-row")).to_have_count(3)
    page.get_by_test_id("expand").first.click()
    expect(page.get_by_test_id("essentials-page").first).to_be_visible()
    for box in page.get_by_test_id("choose").all()[:2]:
        box.check()
    page.get_by_test_id("compare").click()
    expect(page.get_by_test_id("differs-learning_rate")).to_be_visible()

    page.go_back()
    page.get_by_test_id("bulk-delete").click()
    expect(page.get_by_test_id("chosen-run")).to_have_count(2)
    page.get_by_test_id("do").click()
    expect(page.get_by_test_id("run-row")).to_have_count(1)


def test_a_dry_run_is_started(page: Page, dataset: str):
    page.goto("/runs/new")
    page.get_by_role("combobox", name="Dataset").select_option(dataset)
    page.get_by_test_id("check").click()
    page.wait_for_url("**/runs/new#preflight")  # the answer is in view, however long the form
    expect(page.locator("#preflight-title")).to_be_in_viewport()
    expect(page.get_by_test_id("preflight").get_by_test_id("run-status")).to_have_text("completed")
    page.get_by_role("checkbox", name="Run Async").uncheck()
    page.get_by_test_id("run-dry").click()
    page.wait_for_url(DETAIL)
    expect(status_of(page)).to_have_text("completed")


def test_columns_are_given_a_meaning(page: Page, tmp_path: Path):
    file = tmp_path / "fragen.csv"
    file.write_text("frage,antwort\n1 + 1?,2\n")
    page.goto("/datasets/new")
    form = page.get_by_test_id("upload-form")
    form.locator("input[type=file]").set_input_files(file)
    form.get_by_role("textbox", name="Name").fill("columns-plainly")
    form.get_by_test_id("upload").click()
    page.wait_for_url(re.compile("/mapping$"))
    page.get_by_role("combobox", name="Question").select_option("frage")
    page.get_by_role("combobox", name="Answer").select_option("antwort")
    page.get_by_test_id("mapping-import").click()
    page.wait_for_url(re.compile("/datasets/imports/[-0-9a-f]+$"))
    expect(page.get_by_test_id("import-state")).to_be_visible()


def test_a_dataset_is_uploaded(page: Page, tmp_path: Path):
    file = tmp_path / "sums.jsonl"
    file.write_text(json.dumps({"prompt": "1 + 1 = ?", "completion": "2"}) + "\n")
    page.goto("/datasets/new")
    form = page.get_by_test_id("upload-form")
    form.locator("input[type=file]").set_input_files(file)
    form.get_by_role("textbox", name="Name").fill("uploaded-plainly")
    form.get_by_test_id("upload").click()
    page.wait_for_url(re.compile("/datasets/uploaded-plainly-v1$"))
    expect(page.get_by_test_id("example-row")).to_have_count(1)


def test_a_new_version_is_made_and_compared(page: Page, house: House, dataset: str):
    page.goto(f"/datasets/{dataset}")
    page.get_by_test_id("to-clean").click()
    page.get_by_role("combobox", name="Operation").select_option("sample")
    page.get_by_test_id("choose").click()
    page.get_by_role("textbox", name="N", exact=True).fill("2")
    page.get_by_test_id("add").click()
    page.get_by_test_id("preview").click()
    expect(page.get_by_test_id("left")).to_have_text("2")
    expect(page.get_by_test_id("report-example")).to_have_count(1)
    page.get_by_role("textbox", name="Version of the new dataset").fill("sampled")
    page.get_by_test_id("make").click()
    page.wait_for_url("**/datasets/imports/*")
    made = f"/api/datasets/imports/{page.url.rpartition('/')[2]}"
    while (state := house.ask("GET", made)["state"]) in ("pending", "running"):
        pass
    assert state == "completed"

    page.goto(f"/datasets/{dataset}/diff")
    page.get_by_test_id("candidate").first.click()
    expect(page.get_by_test_id("change-removed")).to_have_count(1)
    expect(page.get_by_test_id("counts")).to_contain_text("Removed")
