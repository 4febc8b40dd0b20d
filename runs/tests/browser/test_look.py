"""What every page looks like to everybody: light and dark, from a phone to a wide screen, without a
serious violation of WCAG 2.2 AA (axe-core), and with nothing wider than the window."""

import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from runs.tests.browser.conftest import Visit
from runs.tests.browser.house import House
from runs.tests.launching import wait_for

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
# All rules once; in the dark only colours are different, and on a phone what lies where.
LOOKS = {
    "light, wide": (
        "light",
        (1440, 900),
        {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]},
    ),
    "dark, phone": (
        "dark",
        (390, 844),
        {
            "type": "rule",
            "values": [
                "color-contrast",
                "link-in-text-block",
                "target-size",
                "scrollable-region-focusable",
            ],
        },
    ),
}
STILL = {"reduced_motion": "reduce"}  # a colour on its way to another is neither
AXE_RUN = """async (rules) => {
  document.querySelectorAll("details").forEach((one) => (one.open = true));
  const options = { runOnly: rules, resultTypes: ["violations"], preload: false };
  const { violations } = await axe.run(document, options);
  const reasons = (any) => any.map(({ message }) => message).join("; ");
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .flatMap(({ id, nodes }) => nodes.map(({ html, any }) => `${id}: ${html} ${reasons(any)}`));
}"""


def violations(page: Page, path: str) -> list[str]:
    """What axe finds on a page, light on a wide screen and dark on a phone, with everything
    unfolded."""
    page.goto(path)
    page.evaluate(AXE)
    found = []
    for look, (scheme, (width, height), rules) in LOOKS.items():
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": height})
        found += [f"{path} ({look}): {violation}" for violation in page.evaluate(AXE_RUN, rules)]
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if wide > 0:
            found.append(f"{path} ({look}) is {wide} pixels wider than the window")
    return found


@pytest.fixture(scope="module")
def furnished(house: House) -> Iterator[dict[str, str]]:
    """Runs of every kind and what else there is to see: a name for each, and its id or key."""
    dataset = house.add_dataset("look", size=12)
    measured = [
        ["measure", step, {"loss": 1 / step, "learning_rate": 1e-4, "eval_loss": 2 / step}]
        for step in range(1, 5)
    ]
    coloured = [
        "say",
        "\x1b[31mred\x1b[0m \x1b[33;1myellow\x1b[0m \x1b[44mon blue\x1b[0m \x1b[2mdim\x1b[0m",
    ]
    failed = house.submit(dataset, ["leave", 13, "tunix: memory: too large"], tags=["look"])
    completed = house.submit(
        dataset,
        *measured,
        coloured,
        ["checkpoint", 4],
        tags=["look", "second"],
        notes=(
            "# Notes\n\nwith [a link](https://example.org), `code`, > a quotation\n\n| a | b"
            " |\n|---|---|\n| 1 | 2 |"
        ),
    )
    for run in (failed, completed):
        house.wait(run)
    retried = str(house.ask("POST", f"/api/tunix/runs/{failed}/retry")["run_id"])
    extended = str(
        house.ask("POST", f"/api/tunix/runs/{completed}/extend", json={"max_steps": 5})["run_id"]
    )
    for run in (retried, extended):
        house.wait(run)
    running = house.submit(dataset, ["plan", 9], *measured, coloured, ["wait", "go"])
    pending = house.submit(dataset, tags=["look"])
    try:
        cancelled = house.submit(dataset)
        house.ask("POST", f"/api/tunix/runs/{cancelled}/cancel")
        house.wait(running, "running")
        failed_import = house.import_later("look-bad", "nothing\n" * 3)
        wait_for(
            lambda: house.ask("GET", f"/api/datasets/imports/{failed_import}")["state"] == "failed",
            "the import",
        )
        trace = house.ask("GET", "/api/traces", params={"limit": 1})["data"][0]["id"]
        house.manage(
            "make_token", "local", "--name", "what the token is for", "--days", "30", "--read-only"
        )
        yield {
            "dataset": dataset,
            "other": house.add_dataset("look-other", size=3),
            "dry": house.run_dry(dataset),
            "impossible": house.run_dry(dataset, model_id="openai-community/gpt2"),
            "failed": failed,
            "completed": completed,
            "retried": retried,
            "extended": extended,
            "running": running,
            "pending": pending,
            "cancelled": cancelled,
            "trace": trace,
            "failed_import": failed_import,
            "draft": house.keep_draft("look-columns"),
            "data": str(house.data),
        }
    finally:  # the slot is free again, also for the other tests when this fails
        for run in (pending, running):
            house.ask("POST", f"/api/tunix/runs/{run}/cancel")
            house.wait(run)


PAGES = {
    "history": "/?q=tag:look",
    "history-empty": "/?q=nothing-has-this-name",
    "history-error": "/?q=statsu:failed",
    "detail-dry": "/runs/{dry}",
    "detail-impossible": "/runs/{impossible}",
    "detail-failed": "/runs/{failed}",
    "detail-completed": "/runs/{completed}",
    "detail-retried": "/runs/{retried}",
    "detail-extended": "/runs/{extended}",
    "detail-running": "/runs/{running}",
    "detail-pending": "/runs/{pending}",
    "samples": "/runs/{completed}/samples",
    "views": "/runs/views",
    "start": "/runs/new",
    "start-clone": "/runs/new?clone={completed}",
    "compare": "/runs/compare?ids={completed},{failed}",
    "compare-none": "/runs/compare?ids=",
    "chosen-delete": "/runs/chosen?do=delete&ids={completed},{running}",
    "chosen-tag": "/runs/chosen?do=tag&ids={completed}",
    "datasets": "/datasets",
    "datasets-empty": "/datasets?q=nothing-has-this-name",
    "dataset": "/datasets/{dataset}",
    "token-lengths": "/datasets/{dataset}/tokens",
    "clean": "/datasets/{dataset}/clean?operation=near_duplicates",
    "diff": "/datasets/{dataset}/diff?to={other}",
    "upload": "/datasets/new",
    "imports": "/datasets/imports",
    "import-failed": "/datasets/imports/{failed_import}",
    "import-draft": "/datasets/imports/{draft}",
    "mapping": "/datasets/imports/{draft}/mapping",
    "server-files": "/datasets/files?folder={data}",
    "lineage": "/datasets/{dataset}/lineage",
    "traces": "/traces",
    "traces-empty": "/traces?q=nothing-has-this-name",
    "traces-by-words": "/traces?words=what+is",
    "traces-no-words": "/traces?words=%3F",
    "trace": "/traces/{trace}",
    "uses": "/traces/{trace}/uses",
    "look": "/traces/{trace}/look?dataset={dataset}&model_id=preset:tiny-llama",
    "erase": "/erasures/new?trace={trace}",
    "not-found": f"/runs/{uuid4()}",
    "no-page": "/nothing-here",
    "password": "/password",
    "tokens": "/tokens",
    "api": "/api",
    "admin": "/admin/",
    "admin-queue": "/admin/runs/host/queue/",
    "admin-runs": "/admin/runs/run/",
    "admin-run": "/admin/runs/run/{completed}/change/",
    "admin-events": "/admin/runs/runevent/",
    "admin-datasets": "/admin/datasets/dataset/",
    "admin-empty": "/admin/runs/webhookdelivery/",
}


@pytest.mark.parametrize("name", PAGES)
def test_no_page_has_a_serious_violation(visit: Visit, furnished: dict[str, str], name: str):
    found = violations(visit("about:blank", **STILL), PAGES[name].format(**furnished))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", ["/login", "/admin/login/"])
def test_nor_has_a_login(visit: Visit, path: str):
    """Who comes through a proxy is not on this machine, and is asked who it is."""
    page = visit("about:blank", extra_http_headers={"X-Forwarded-For": "192.0.2.1"}, **STILL)
    found = violations(page, path)
    assert not found, "\n".join(found)
    expect(page.get_by_role("textbox").first).to_be_visible()


def test_people_without_staff_status_change_their_password(visit: Visit):
    admin = visit("/admin/auth/user/add/")
    name, old, new = f"person-{uuid4().hex[:8]}", "an old pass phrase", "a new pass phrase"
    admin.locator("#id_username").fill(name)
    for field in ("#id_password1", "#id_password2"):
        admin.locator(field).fill(old)
    admin.locator("input[name=_save]").click()
    page = visit("/login", extra_http_headers={"X-Forwarded-For": "192.0.2.1"}, **STILL)
    page.locator("#id_username").fill(name)
    page.locator("#id_password").fill(old)
    page.get_by_role("button", name="Log in").click()

    assert not violations(page, "/password")
    page.goto("/")  # as wide as a phone
    page.locator(".who").click()
    page.locator("#id_old_password").fill(old)
    for field in ("#id_new_password1", "#id_new_password2"):
        page.locator(field).fill(new)
    page.locator("main form button").click()

    expect(page.get_by_test_id("messages")).to_contain_text("Your password is changed")


def test_dark_mode_follows_the_system(visit: Visit):
    page = visit("/")
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(map(int, re.findall(r"\d+", ground)[:3])))
    assert grounds[0] > 600
    assert grounds[1] < 150


def test_the_keyboard_reaches_the_content_first(visit: Visit):
    page = visit("/")
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    expect(focused).to_have_attribute("href", "#main")
    expect(focused).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator(":focus")).to_have_attribute("id", "main")
