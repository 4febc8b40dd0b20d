"""A run in the browser: started, followed live to its end without a reload, stopped, tried again,
compared."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from runs.tests.browser.conftest import Visit
from runs.tests.browser.house import House
from runs.tests.launching import wait_for

DETAIL = re.compile(r"/runs/([0-9a-f-]{36})$")


def status_of(page: Page) -> Locator:
    return page.get_by_test_id("run-head").get_by_test_id("run-status")


def fill_in(page: Page, dataset: str, seed: int) -> None:
    page.get_by_role("combobox", name="Dataset").select_option(dataset)
    page.get_by_test_id("advanced").locator("summary").click()
    page.get_by_role("textbox", name="Seed").fill(str(seed))


def start_async(page: Page, dataset: str, seed: int) -> str:
    """Start a run from the form; its id."""
    page.goto("/runs/new")
    fill_in(page, dataset, seed)
    page.get_by_role("checkbox", name="Run Async").check()
    page.get_by_test_id("run-local").click()
    page.wait_for_url(DETAIL)
    found = DETAIL.search(page.url)
    assert found
    return found[1]


def test_from_pending_to_completed_without_a_reload(visit: Visit, house: House, dataset: str):
    before = house.submit(dataset, ["wait", "go"])  # takes the only slot
    house.wait(before, "running")
    seed = house.script(
        ["say", "first words"],
        ["plan", 6],
        ["measure", 1, {"loss": 3.5, "learning_rate": 1e-4}],
        ["measure", 2, {"loss": 3.25, "learning_rate": 9e-5}],
        ["wait", "more"],
        ["say", "<b>more</b> words"],
        ["measure", 3, {"loss": 1.125, "learning_rate": 8e-5}],
        ["wait", "end"],
        ["say", "last words"],
        ["complain", "a warning"],
    )
    page = visit("/")
    run = start_async(page, dataset, seed)
    expect(status_of(page)).to_have_text("pending")
    expect(page.get_by_test_id("live-state")).to_have_text("live")
    page.evaluate("window.stayed = true")

    house.tell(before, "go")

    expect(status_of(page)).to_have_text("running")
    log, chart = page.get_by_test_id("log-stdout"), page.get_by_test_id("chart-loss")
    expect(log).to_contain_text("first words")
    expect(chart.get_by_test_id("latest")).to_contain_text("3.25")
    expect(page.get_by_test_id("progress").get_by_role("progressbar")).to_have_attribute(
        "value", "2"
    )
    drawn = chart.locator("canvas").screenshot()

    house.tell(run, "more")

    expect(log).to_contain_text("<b>more</b> words")
    expect(chart.get_by_test_id("latest")).to_contain_text("1.125")
    expect(page.get_by_test_id("progress").get_by_role("progressbar")).to_have_attribute(
        "value", "3"
    )
    wait_for(lambda: chart.locator("canvas").screenshot() != drawn, "the new point")
    expect(status_of(page)).to_have_text("running")

    house.tell(run, "end")

    expect(status_of(page)).to_have_text("completed")
    expect(log).to_contain_text("last words")
    expect(page.get_by_test_id("events").get_by_role("listitem")).to_have_count(3)
    # the buttons are those of a completed training
    expect(page.get_by_test_id("extend")).to_be_visible()
    expect(page.get_by_test_id("progress")).to_be_hidden()
    assert page.evaluate("window.stayed") is True


def test_a_completed_training_is_extended(visit: Visit, house: House, dataset: str):
    run = house.submit(dataset, ["checkpoint", 5], ["say", "done"])
    house.wait(run)
    page = visit(f"/runs/{run}")
    expect(page.get_by_test_id("extend-start")).to_be_hidden()

    page.get_by_test_id("extend").click()
    page.get_by_test_id("extend-amount").fill("20")
    page.get_by_test_id("extend-unit").select_option("max_steps")
    page.get_by_test_id("extend-start").click()

    page.wait_for_url(lambda url: not url.endswith(run))
    expect(page.get_by_test_id("resume-from")).to_have_attribute("href", f"/runs/{run}")
    expect(status_of(page)).to_have_text("completed")


def test_a_running_training_is_cancelled_and_tried_again(visit: Visit, house: House, dataset: str):
    page = visit("/")
    run = start_async(page, dataset, house.script(["say", "begun"], ["wait", "never"]))
    expect(page.get_by_test_id("log-stdout")).to_contain_text("begun")

    page.get_by_test_id("cancel").click()

    expect(page.get_by_test_id("messages").locator(".success")).to_be_visible()
    expect(status_of(page)).to_have_text("cancelled")
    expect(page.get_by_test_id("run-reason")).to_contain_text("local")

    page.get_by_test_id("retry").click()

    page.wait_for_url(lambda url: not url.endswith(run))
    expect(page.get_by_test_id("retry-of")).to_have_attribute("href", f"/runs/{run}")
    expect(status_of(page)).to_have_text("running")
    page.get_by_test_id("cancel").click()
    expect(status_of(page)).to_have_text("cancelled")


def test_a_failed_run_says_why_and_shows_its_errors(visit: Visit, house: House, dataset: str):
    last = "tunix: memory: the model does not fit; lower batch_size."
    run = house.submit(
        dataset, ["complain", "\x1b[31mred\x1b[0m <script>alert(1)</script>"], ["leave", 13, last]
    )
    house.wait(run)

    page = visit(f"/runs/{run}")

    expect(status_of(page)).to_have_text("failed")
    expect(page.get_by_test_id("run-reason")).to_contain_text("does not fit")
    expect(page.get_by_test_id("log-stderr")).to_contain_text("red <script>alert(1)</script>")
    expect(page.get_by_test_id("log-stderr").locator(".ansi-red")).to_have_count(1)


def test_the_log_follows_until_one_scrolls_up(visit: Visit, house: House, dataset: str):
    run = house.submit(
        dataset,
        *(["say", f"line {number}"] for number in range(300)),
        ["wait", "more"],
        ["say", "new"],
    )
    page = visit(f"/runs/{run}")
    log, follow = page.get_by_test_id("log-stdout"), page.get_by_test_id("follow-stdout")
    expect(log).to_contain_text("line 299")
    at_end = "(box) => box.scrollHeight - box.scrollTop - box.clientHeight < 24"
    wait_for(lambda: log.evaluate(at_end), "the end of the log")
    expect(follow).to_have_attribute("aria-pressed", "true")

    log.evaluate("(box) => (box.scrollTop = 0)")
    expect(follow).to_have_attribute("aria-pressed", "false")
    house.tell(run, "more")
    expect(log).to_contain_text("new")
    assert not log.evaluate(at_end)

    follow.click()
    wait_for(lambda: log.evaluate(at_end), "the end of the log")
    page.get_by_role("searchbox", name="Search stdout").fill("line 29")
    expect(log.locator(".is-match")).to_have_count(11)
    house.wait(run)


def test_a_dry_run_and_the_check_before_it(visit: Visit, house: House, dataset: str):
    """The whole path needs no training: form, check beside it, dry run, history, filter, clone."""
    page = visit("/runs/new")
    expect(page.get_by_test_id("run-dry")).to_be_disabled()  # no dataset is chosen
    fill_in(
        page,
        dataset,
        house.script(
            [
                "say",
                '{"total_steps": 7, "tokens": 123, "sentences": ["Seven steps."], "warnings": []}',
            ]
        ),
    )
    page.get_by_test_id("check").click()
    preflight = page.get_by_test_id("preflight")
    expect(preflight.get_by_test_id("run-status")).to_have_text("completed")
    expect(preflight.get_by_role("list").get_by_role("listitem")).to_have_count(1)
    assert page.url.endswith("/runs/new")

    page.get_by_role("textbox", name="Tags").fill("only-dry")
    page.get_by_test_id("run-dry").click()

    page.wait_for_url(DETAIL)
    expect(status_of(page)).to_have_text("completed")
    expect(page.get_by_test_id("stdout")).to_be_visible()
    page.get_by_test_id("manifest").click()
    assert "preset:tiny-llama" in page.locator("body").inner_text()
    page.goto("/?tag=only-dry&mode=dry-run")
    expect(page.get_by_test_id("run-row")).to_have_count(1)
    page.get_by_test_id("run-row").get_by_role("link", name="Clone").click()
    expect(page.get_by_role("combobox", name="Dataset")).to_have_value(dataset)


def test_what_is_wrong_is_said_beside_the_field(visit: Visit, dataset: str):
    page = visit("/runs/new")
    page.get_by_role("combobox", name="Dataset").select_option(dataset)
    rate = page.get_by_role("textbox", name="Learning rate")
    for typed in ("2", "0,0001"):  # a number field of the browser would send 1.0 for the second
        rate.clear()
        rate.press_sequentially(typed)
        page.get_by_test_id("run-dry").click()

        expect(rate).to_have_attribute("aria-invalid", "true")
        expect(rate).to_have_value(typed)
    expect(page.get_by_role("alert").first).to_be_visible()


def test_the_page_waits_for_a_run_in_the_request(visit: Visit, house: House, dataset: str):
    page = visit("/runs/new")
    fill_in(page, dataset, house.script(["wait", "go"]))
    page.get_by_role("checkbox", name="Run Async").uncheck()
    # Playwright's own clicks and looks wait for the answer, which is what is waited for here.
    said, pressed_again = page.evaluate("""() => new Promise((done) => {
          const find = (id) => document.querySelector(`[data-testid=${id}]`);
          const [button, executing] = ["run-local", "executing"].map(find);
          button.click();
          setTimeout(() => done([executing.checkVisibility(), !button.disabled]), 100);
        })""")
    assert (said, pressed_again) == (True, False)
    [run] = wait_for(
        lambda: (
            house.ask("GET", "/api/tunix/runs", params={"dataset_key": dataset})["data"] or None
        ),
        "the row",
    )
    house.tell(run["run_id"], "go")
    page.wait_for_url(DETAIL)
    expect(status_of(page)).to_have_text("completed")


@pytest.fixture
def sweep(house: House, dataset: str) -> list[str]:
    """Two completed trainings with the dataset's name as tag, the newest first."""
    runs = []
    for rate in (1e-4, 3e-4):
        measured = [["measure", step, {"loss": 3 - step * rate * 1e3}] for step in range(1, 6)]
        runs.append(house.submit(dataset, *measured, learning_rate=rate, tags=[dataset]))
    for run in runs:
        assert house.wait(run) == "completed"
    return runs[::-1]


def test_keys_choose_and_compare(visit: Visit, dataset: str, sweep: list[str]):
    page = visit(f"/?tag={dataset}")
    page.keyboard.press("?")
    expect(page.get_by_test_id("keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("keys")).to_be_hidden()

    for key in "jxjxk":
        page.keyboard.press(key)
    expect(page.locator(":focus")).to_have_attribute("href", f"/runs/{sweep[0]}")
    page.keyboard.press("c")

    page.wait_for_url("**/runs/compare?*")
    table = page.get_by_test_id("compare-table")
    expect(table.get_by_role("columnheader")).to_have_count(3)
    expect(table.get_by_test_id("differs-learning_rate")).to_be_visible()
    expect(table.get_by_test_id("differs-batch_size")).to_have_count(0)
    expect(page.get_by_test_id("same-data")).to_have_class(re.compile("success"))
    expect(page.get_by_test_id("curves").locator("canvas")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_test_id("csv").click()
    assert download.value.path().read_text().count("\n") == 3


def test_search_by_key_and_by_the_filter_language(visit: Visit, dataset: str, sweep: list[str]):
    page = visit("/")
    page.keyboard.press("/")
    page.keyboard.type(f"tag:{dataset} loss<2 status:completed")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("q=tag"))
    expect(page.get_by_test_id("run-row")).to_have_count(1)
    expect(page.get_by_test_id("run-row")).to_have_attribute("data-run-id", sweep[0])

    search = page.get_by_role("searchbox")
    search.fill("gemma statsu:failed")
    search.press("Enter")
    expect(page.get_by_test_id("caret").locator("mark")).to_have_text("s")
    search.fill(f"tag:{dataset} status:failed")
    search.press("Enter")
    expect(page.get_by_test_id("runs-empty")).to_be_visible()
    page.goto(f"/?tag={dataset}")
    page.get_by_role("combobox", name="Status").select_option("completed")
    page.get_by_test_id("filter").click()
    expect(page.get_by_test_id("run-row")).to_have_count(2)


def test_the_history_shows_what_goes_on_without_a_reload(visit: Visit, house: House, dataset: str):
    run = house.submit(
        dataset, ["plan", 4], ["measure", 1, {"loss": 2.0}], ["wait", "go"], tags=[dataset]
    )
    page = visit(f"/?tag={dataset}")
    row = page.get_by_test_id("run-row")
    expect(row.get_by_test_id("run-status")).to_have_text("running")
    page.evaluate("window.stayed = true")
    row.get_by_test_id("expand").click()
    expect(page.get_by_test_id("essentials")).to_be_visible()

    house.tell(run, "go")

    expect(row.get_by_test_id("run-status")).to_have_text("completed")
    expect(page.get_by_test_id("essentials")).to_be_visible()  # what was opened stays open
    assert page.evaluate("window.stayed") is True


def test_chosen_runs_are_tagged_and_deleted(visit: Visit, dataset: str, sweep: list[str]):
    page = visit(f"/?tag={dataset}")
    for box in page.get_by_test_id("choose").all():
        box.check()
    page.get_by_test_id("bulk-tag").click()
    page.get_by_role("textbox", name="Add tags").fill("looked-at")
    page.get_by_test_id("do").click()
    page.goto("/?tag=looked-at")
    expect(page.get_by_test_id("run-row")).to_have_count(2)

    page.get_by_test_id("choose").first.check()
    page.get_by_test_id("bulk-delete").click()
    expect(page.get_by_test_id("chosen-run")).to_have_count(1)
    expect(page.get_by_test_id("freed")).to_be_visible()
    page.get_by_test_id("do").click()
    expect(page.get_by_test_id("run-row")).to_have_count(1)


def test_columns_are_chosen_and_a_view_is_kept(visit: Visit, house: House, dataset: str):
    house.run_dry(dataset, tags=[dataset])
    page = visit(f"/?tag={dataset}")
    page.get_by_test_id("choose-columns").click()
    page.get_by_test_id("column-batch_size").check()
    page.get_by_test_id("column-model").uncheck()
    page.get_by_test_id("show-columns").click()
    page.wait_for_url(re.compile("columns="))
    expect(page.get_by_role("columnheader", name="Batch size")).to_have_count(1)
    expect(page.get_by_role("columnheader", name="Model")).to_have_count(0)

    page.get_by_test_id("keep-view").click()
    page.get_by_test_id("views").get_by_role("textbox", name="Name").fill("small batches")
    page.get_by_test_id("save-view").click()
    page.goto("/")
    page.get_by_test_id("view").filter(has_text="small batches").click()

    expect(page.get_by_test_id("run-row")).to_have_count(1)
    expect(page.get_by_role("columnheader", name="Batch size")).to_have_count(1)


def test_two_people_act_on_one_run(visit: Visit, house: House, dataset: str):
    run = house.submit(dataset, ["say", "hi"])
    house.wait(run)
    first, second = visit(f"/runs/{run}"), visit(f"/runs/{run}")
    first.once("dialog", lambda dialog: dialog.accept())
    first.get_by_test_id("trash").click()
    first.wait_for_url(f"{house.url}/")

    second.get_by_test_id("pin").click()

    expect(second.get_by_role("heading", level=1)).to_be_visible()
    expect(second.get_by_test_id("error")).to_have_attribute("data-status", "404")
