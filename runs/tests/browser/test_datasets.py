"""Datasets in the browser: uploaded with what is wrong by line, looked at, searched."""

import json
import re
from pathlib import Path

from playwright.sync_api import Page, expect

from runs.tests.browser.conftest import Visit
from runs.tests.browser.house import House


def upload(page: Page, file: Path, name: str) -> None:
    page.goto("/datasets/new")
    form = page.get_by_test_id("upload-form")
    form.locator("input[type=file]").set_input_files(file)
    form.get_by_role("textbox", name="Name").fill(name)
    form.get_by_role("textbox", name="Held out").fill("1")
    form.get_by_test_id("upload").click()


def test_a_file_becomes_a_dataset_that_can_be_trained_on(visit: Visit, tmp_path: Path):
    file = tmp_path / "sums.jsonl"
    file.write_text(
        "".join(
            json.dumps({"prompt": f"{n} + 1 = ?", "completion": str(n + 1)}) + "\n"
            for n in range(12)
        )
    )
    page = visit("/")

    upload(page, file, "uploaded")

    page.wait_for_url(re.compile("/datasets/uploaded-v1$"))
    expect(page.get_by_test_id("example-row")).to_have_count(10)
    page.goto("/datasets?q=uploaded-v1")
    expect(page.get_by_test_id("dataset-row")).to_have_count(1)
    page.goto("/runs/new?dataset=uploaded-v1")
    expect(page.get_by_role("combobox", name="Dataset")).to_have_value("uploaded-v1")


def test_bad_lines_are_named_and_nothing_is_stored(visit: Visit, house: House, tmp_path: Path):
    file = tmp_path / "bad.jsonl"
    file.write_text(
        '{"prompt": "1 + 1 = ?", "completion": "2"}\nnot json\n{"prompt": 3, "completion": "4"}\n'
    )
    page = visit("/")

    upload(page, file, "bad")

    expect(page.locator("#bad-lines")).to_be_in_viewport()
    lines = page.get_by_test_id("bad-line")
    expect(lines).to_have_count(2)
    assert [line.get_by_role("cell").first.inner_text() for line in lines.all()] == ["2", "3"]
    assert house.client.get("/api/datasets/bad-v1").status_code == 404


def test_the_columns_of_a_table_are_given_a_meaning(visit: Visit, tmp_path: Path):
    file = tmp_path / "fragen.csv"
    file.write_text("frage,antwort\n" + "".join(f"{n} + 1?,{n + 1}\n" for n in range(25)))
    page = visit("/")

    upload(page, file, "columns")

    page.wait_for_url(re.compile("/datasets/imports/[-0-9a-f]+/mapping$"))
    page.get_by_role("combobox", name="Question").select_option("frage")
    page.get_by_role("combobox", name="Answer").select_option("antwort")
    page.get_by_test_id("mapping-show").click()
    page.wait_for_url(re.compile("prompt=frage"))
    expect(page.get_by_test_id("preview")).to_have_count(20)
    expect(page.get_by_test_id("message-assistant").first).to_contain_text("1")
    page.get_by_test_id("mapping-import").click()
    expect(page.get_by_test_id("import-result")).to_contain_text("25 examples")  # by itself
    page.get_by_role("link", name="columns-v1").click()
    expect(page.get_by_test_id("example-row")).to_have_count(10)


def test_a_file_of_the_server_is_chosen_and_its_columns_given_a_meaning(visit: Visit, house: House):
    folder = house.data / "sums"
    folder.mkdir()
    (folder / "fragen.csv").write_text("frage,antwort\n1 + 1?,2\n2 + 1?,3\n")
    page = visit("/datasets/new")

    page.get_by_test_id("server-files").click()
    for name in (str(house.data), "sums", "fragen.csv"):
        page.get_by_test_id("server-file").get_by_role("link", name=name).click()
    expect(page.get_by_role("textbox", name="Or a file on the server")).to_have_value(
        str(folder / "fragen.csv")
    )
    page.get_by_role("textbox", name="Name").fill("of-the-server")
    page.get_by_test_id("upload").click()

    page.wait_for_url(re.compile("/datasets/imports/[-0-9a-f]+/mapping$"))
    page.get_by_role("combobox", name="Question").select_option("frage")
    page.get_by_role("combobox", name="Answer").select_option("antwort")
    page.get_by_test_id("mapping-import").click()
    expect(page.get_by_test_id("import-result")).to_contain_text("2 examples")


def test_the_provenance_leads_from_a_dataset_to_its_import_and_runs(
    visit: Visit, house: House, dataset: str
):
    run = house.run_dry(dataset)
    page = visit(f"/datasets/{dataset}")

    page.get_by_role("link", name="Provenance").click()

    expect(page.get_by_test_id("sources").get_by_role("link", name="Import of")).to_be_visible()
    link = page.get_by_test_id("results").locator(f'a[href="/runs/{run}"]')
    expect(link).to_be_visible()
    page.get_by_test_id("sources").get_by_role("link", name="Import of").click()
    expect(page.get_by_test_id("import-result")).to_contain_text("3 examples")


def test_an_example_is_archived_and_erased(visit: Visit, house: House):
    trace = house.ask(
        "POST", "/api/traces", json={"prompt": "Who am I?", "final_answer": "Nobody you know"}
    )["id"]
    house.ask(
        "POST",
        "/api/datasets",
        json={"name": "personal", "version": "v1", "trace_ids": [trace]},
    )
    page = visit(f"/traces/{trace}")

    page.get_by_test_id("archive").click()
    expect(page.get_by_test_id("is-archived")).to_be_visible()
    page.get_by_test_id("to-erase").click()
    expect(page.get_by_test_id("affected-dataset")).to_have_text("personal-v1")
    page.get_by_role("spinbutton", name="Number of examples").fill("1")
    page.get_by_test_id("erase-submit").click()

    expect(page.get_by_test_id("complete")).to_be_visible()
    page.goto(f"/traces/{trace}")
    expect(page.get_by_test_id("erased")).to_be_visible()
    expect(page.get_by_text("Nobody you know")).to_have_count(0)


def test_an_import_is_followed_and_cancelled(visit: Visit, house: House, tmp_path: Path):
    lines = '{"prompt": "1 + 1", "completion": "2"}\n' * 3
    done = house.import_later("followed", lines)
    page = visit(f"/datasets/imports/{done}")
    expect(page.get_by_test_id("import-result")).to_contain_text("3 examples")
    page.goto("/datasets/imports")
    expect(page.get_by_test_id("import-row").first).to_contain_text("followed-v1")

    draft = house.keep_draft("forgotten")
    page.goto(f"/datasets/imports/{draft}/mapping")
    page.get_by_role("button", name="Forget this file").click()
    expect(page.get_by_test_id("import-state")).to_have_text("cancelled")


def test_a_dataset_leads_to_its_runs_and_its_traces(visit: Visit, house: House, dataset: str):
    run = house.run_dry(dataset)
    page = visit(f"/datasets/{dataset}")
    page.get_by_test_id("dataset-runs").click()
    expect(page.get_by_test_id("run-row")).to_have_attribute("data-run-id", run)

    page.goto(f"/datasets/{dataset}")
    page.get_by_test_id("example-row").first.get_by_role("link").first.click()
    expect(page.get_by_test_id("final-answer")).to_be_visible()
