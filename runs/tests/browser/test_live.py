"""A page that is kept up to date has one connection at a time: nothing of an earlier one acts on a
later one."""

import re

from playwright.sync_api import Page, Route, expect

from runs.tests.browser.conftest import Visit
from runs.tests.browser.house import House

LONG = 120_000  # milliseconds on the page's clock: longer than every timer of live.js
STREAM, STATUS, LOGS = (
    re.compile(r"/events\?"),
    re.compile(r"/status$"),
    re.compile(r"/logs\?.*offset="),
)


def look(page: Page, *, away: bool) -> None:
    """What the browser does when somebody goes to another tab or comes back."""
    page.evaluate(
        """(away) => {
          Object.defineProperty(document, "hidden", { configurable: true, value: away });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        away,
    )


def test_an_answer_that_comes_late_leaves_the_new_stream_alone(
    visit: Visit, house: House, dataset: str
):
    """A page asks, since it got no stream; hidden and shown again it opens one while an answer is
    still on its way. When that came, the page closed its new stream and went back to asking."""
    run = house.submit(
        dataset,
        ["say", "first"],
        ["wait", "more"],
        ["say", "second"],
        ["wait", "end"],
        ["say", "third"],
    )
    house.wait(run, "running")
    page = visit("about:blank")
    page.clock.install()
    held: list[Route] = []
    page.route(STREAM, lambda route: route.fulfill(status=204))  # no stream, for good
    page.route(STATUS, lambda route: held.append(route))  # noqa: PLW0108 - Playwright cannot wrap a built-in method
    with page.expect_request(STATUS):  # held: the page waits for this answer
        page.goto(f"/runs/{run}")
    state, log = page.get_by_test_id("live-state"), page.get_by_test_id("log-stdout")
    expect(state).to_have_text("by asking")
    page.unroute(STREAM)

    look(page, away=True)
    # given up, not answered
    with page.expect_event("requestfailed", lambda request: STATUS.search(request.url) is not None):
        look(page, away=False)
    expect(state).to_have_text("live")
    page.unroute(STATUS)
    asked: list[str] = []
    page.on(
        "request", lambda request: asked.append(request.url) if LOGS.search(request.url) else None
    )
    page.clock.run_for(LONG)

    house.tell(run, "more")
    expect(log).to_contain_text("second")
    expect(state).to_have_text("live")
    house.tell(run, "end")
    expect(log).to_contain_text("third")
    assert asked == []
    assert log.inner_text().count("second") == 1
    assert len(held) == 1


def test_a_hidden_page_gives_its_stream_back_and_takes_another(
    visit: Visit, house: House, dataset: str
):
    run = house.submit(
        dataset, ["say", "first"], ["wait", "more"], ["say", "second"], ["wait", "end"]
    )
    house.wait(run, "running")
    page = visit("about:blank")
    page.clock.install()
    with page.expect_request(STREAM):
        page.goto(f"/runs/{run}")
    log = page.get_by_test_id("log-stdout")
    expect(page.get_by_test_id("live-state")).to_have_text("live")
    expect(log).to_contain_text("first")

    look(page, away=True)
    with page.expect_event("requestfailed", lambda request: STREAM.search(request.url) is not None):
        page.clock.run_for(LONG)
    with page.expect_request(STREAM) as again:
        look(page, away=False)

    assert f"from=o{len('first') + 1}.e0" in again.value.url  # where it was
    house.tell(run, "more")
    expect(log).to_contain_text("second")
    assert log.inner_text().count("first") == 1
    house.tell(run, "end")
    house.wait(run)
