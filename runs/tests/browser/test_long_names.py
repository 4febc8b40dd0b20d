"""Names as long as they may be, without a place to break: no page becomes wider than the window, on
a phone or a wide screen."""

import json
from urllib.parse import quote

import pytest

from runs.tests.browser.conftest import Visit
from runs.tests.browser.house import House

LONG = "W" * 200
ODD = f"line\nfeed {LONG}"[:200]
NOTES = f"{LONG}\n\n`{LONG}`\n\n# {LONG}\n\n| {LONG} | b |\n|---|---|\n| 1 | {LONG} |"
SCREENS = ((390, 844), (1440, 900))
# Opens what is folded, and names what is wider than it may be: the page, and every box that would
# scroll to the side. Some scroll on purpose: a comparison, which has a column for each run, tables
# of the admin, a history of which all columns are shown.
CHARTS_FIT = """() => [...document.querySelectorAll(".uplot")].every(
    (chart) => chart.getBoundingClientRect().right <= innerWidth
)"""
TOO_WIDE = """(all) => {
  for (const one of document.querySelectorAll("details")) one.open = true;
  const found = [];
  const by = document.documentElement.scrollWidth - innerWidth;
  if (by > 0) {
    const right = (one) => one.getBoundingClientRect().right;
    const wider = (one, other) => (right(other) > right(one) ? other : one);
    const widest = [...document.querySelectorAll("body *")].reduce(wider);
    found.push(`the page, by ${by} pixels: ${widest.cloneNode(false).outerHTML}`);
  }
  for (const box of document.querySelectorAll("body *")) {
    if (all || !/auto|scroll/.test(getComputedStyle(box).overflowX)) continue;
    const by = box.scrollWidth - box.clientWidth;
    if (by <= 1) continue;
    if (box.querySelector(":scope > .compare")) continue;
    if (box.closest("#changelist, .queue-table")) continue;
    found.push(`a box, by ${by} pixels: ${box.cloneNode(false).outerHTML}`);
  }
  return found;
}"""
PAGES = {
    "history": "/",
    "history-columns": (
        "/?columns=dataset,model,mode,status,started,duration,loss,owner,host,outcome,notes"
    ),
    "history-filtered": "/?q={q}",
    "history-error": "/?q={long}:x",
    "detail": "/runs/{run}",
    "detail-failed": "/runs/{failed}",
    "detail-dry": "/runs/{dry}",
    "samples": "/runs/{run}/samples",
    "views": "/runs/views",
    "start": "/runs/new?clone={run}",
    "compare": "/runs/compare?ids={run},{failed}",
    "chosen": "/runs/chosen?do=delete&ids={run},{failed}",
    "chosen-tag": "/runs/chosen?do=tag&ids={run}",
    "datasets": "/datasets",
    "datasets-none": "/datasets?q={long}none",
    "dataset": "/datasets/{dataset}",
    "tokens": "/datasets/{dataset}/tokens",
    "traces": "/traces",
    "traces-none": "/traces?q={long}none",
    "traces-no-word": "/traces?words={long}none",
    "trace": "/traces/{trace}",
    "password": "/password",
    "my-tokens": "/tokens",
    "api": "/api",
    "no-page": "/{long}",
    "no-run": "/runs/{long}",
    "admin-queue": "/admin/runs/host/queue/",
    "admin-runs": "/admin/runs/run/",
    "admin-run": "/admin/runs/run/{run}/change/",
    "admin-events": "/admin/runs/runevent/",
    "admin-tags": "/admin/runs/runtag/",
    "admin-series": "/admin/runs/metricseries/",
    "admin-datasets": "/admin/datasets/dataset/",
    "admin-dataset": "/admin/datasets/dataset/{dataset_pk}/change/",
    "admin-traces": "/admin/datasets/trace/",
    "admin-trace": "/admin/datasets/trace/{trace}/change/",
    "admin-users": "/admin/auth/user/",
    "admin-tokens": "/admin/tunixrt/apitoken/",
    "admin-log": "/admin/admin/logentry/",
}


@pytest.fixture(scope="module")
def long(house: House) -> dict[str, str]:
    """One of everything, called so."""
    account = LONG[:150]
    house.manage(
        "createsuperuser",
        "--noinput",
        "--username",
        account,
        "--email",
        "a@example.org",
        DJANGO_SUPERUSER_PASSWORD="quite another text",
    )
    token = house.manage("make_token", account).split()[-1]
    theirs = {"headers": {"Authorization": f"Token {token}"}}
    line = {"prompt": LONG, "completion": f"{LONG}\n{LONG}"}
    file = {"file": (f"{LONG}.jsonl", json.dumps(line) + "\n")}
    data = {"name": LONG, "version": "v1", "description": LONG}
    dataset = house.ask("POST", "/api/datasets/ingest", files=file, data=data, **theirs)[
        "dataset_key"
    ]

    def submit(number: int, *actions: list[object]) -> str:
        body = {
            "dataset_key": dataset, "model_id": "preset:tiny-llama", "dry_run": False,
            "seed": house.script(*actions), "tags": [f"{number}{LONG}"[:64], f"{LONG}"[:64]],
            "notes": NOTES, "output_dir": f"{LONG}/{number}{LONG}",
            "client_request_id": f"{number}{LONG}",
        }  # fmt: skip
        run = str(
            house.ask("POST", "/api/tunix/run", params={"mode": "async"}, json=body, **theirs)[
                "run_id"
            ]
        )
        house.wait(run)
        return run

    sample = dict.fromkeys(("prompt", "expected", "before", "after"), LONG)
    run = submit(
        1,
        [
            "put",
            "result.json",
            json.dumps({"samples": [sample], "loss_first": 2.0, "loss_last": 1.0}),
        ],
        ["measure", 1, {"loss": 2.0, LONG[:100]: 1.0}],
        ["say", LONG],
        ["put", f"checkpoints/{LONG}/{ODD}", "x"],
        ["put", ODD, "x"],
    )
    failed = submit(2, ["leave", 13, f"tunix: memory: {LONG}"])
    dry = str(
        house.ask(
            "POST",
            "/api/tunix/run",
            json={"dataset_key": dataset, "model_id": f"g{LONG}/{LONG}"[:250]},
            **theirs,
        )["run_id"]
    )
    house.client.get("/runs/new")  # a form, which brings the cookie
    view = {
        "name": LONG[:64],
        "query": f"owner={LONG}&q=tag:{LONG[:64]}",
        "csrfmiddlewaretoken": house.client.cookies["csrftoken"],
    }
    assert house.client.post("/runs/views", data=view).status_code == 302
    trace = house.ask("GET", "/api/traces", params={"limit": 1, "q": LONG})["data"][0]["id"]
    rows = house.client.get("/admin/datasets/dataset/").text
    return {
        "dataset": str(dataset), "run": run, "failed": failed, "dry": dry, "trace": trace,
        "long": LONG, "q": quote(f"tag:{LONG[:64]}"),
        "dataset_pk": rows.split("/admin/datasets/dataset/")[-1].split("/")[0],
    }  # fmt: skip


def test_no_page_is_wider_than_the_window(visit: Visit, long: dict[str, str]):
    page = visit("about:blank", reduced_motion="reduce")
    found = []
    for name, path in PAGES.items():
        page.goto(path.format(**long))
        for width, height in SCREENS:
            page.set_viewport_size({"width": width, "height": height})
            # charts are drawn again once they are told of the new width
            page.wait_for_function(CHARTS_FIT)
            found += [
                f"{name} at {width}: {one}"
                for one in page.evaluate(TOO_WIDE, name == "history-columns")
            ]
    assert not found, "\n".join(found)


def test_a_file_with_a_line_feed_in_its_name_is_downloaded(
    visit: Visit, house: House, long: dict[str, str]
):
    page = visit(f"/runs/{long['run']}")
    links = page.get_by_test_id("files").get_by_role("link").all()
    odd = [
        address for link in links if (address := link.get_attribute("href")) and "%0A" in address
    ]
    assert [house.client.get(address).text for address in odd[-1:]] == ["x"]
