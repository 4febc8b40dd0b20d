"""Screenshots of every page: light, dark and on a phone, in docs/screenshots/ (`make screenshots`).

    python -m docs.screenshots [--house FOLDER] [--only NAME ...]

The house is one of its own, and everything in it is real: dry runs, and trainings of a tiny model
on additions, one of which runs out of time. ``--house`` keeps it in a folder, and finds what an
earlier call has put there. Pages of data alone (``--only upload diff``) need no training.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from datasets.examples.arithmetic import generate
from runs.tests.browser.conftest import ARGUMENTS, EXECUTABLES
from runs.tests.browser.house import ROOT, House

PICTURES = ROOT / "docs" / "screenshots"
LOOKS: dict[str, dict[str, Any]] = {
    "": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "light"},
    "-dark": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "dark"},
    "-phone": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "light",
        "is_mobile": True,
        "has_touch": True,
    },
}
COLOURS = 256  # of a picture's palette: pages have few, and the file is a third
LIVE_STEPS = 35  # of the training that is under way while its page is looked at
TRAINING: dict[str, Any] = {
    "dataset_key": "arithmetic-v1",
    "model_id": "preset:tiny-llama",
    "dry_run": False,
    "num_epochs": 1,
    "batch_size": 32,
    "max_seq_length": 128,
    "learning_rate": 3e-3,
    "warmup_ratio": 0.1,
    "eval_every_steps": 20,
    "exact_match_examples": 40,
    "exact_match_max_tokens": 32,
}
NOTES = """## Does a higher rate pay?

Same data, same steps; only the **learning rate** differs.

- `1e-3` learns evenly
- `3e-3` is there earlier
"""


# --- what is in the house -------------------------------------------------------------------------


def furnish_data(house: House) -> None:
    subprocess.run(
        [sys.executable, "manage.py", "make_demo_dataset"],
        cwd=ROOT,
        env=house.whole_environment(),
        check=True,
    )
    shown, held_out = generate(training=400, held_out=40, seed=1)
    sums = [
        {"prompt": one["prompt"], "completion": one["final_answer"]} for one in shown + held_out
    ]
    about = {
        "name": "sums-only",
        "held_out": "40",
        "description": "The same additions, without their steps.",
    }
    # the second version: some answers in words, some left out, some more
    changed = [
        line | {"completion": f"It is {line['completion']}."} if place % 50 == 0 else line
        for place, line in enumerate(sums[7:])
    ]
    more = [{"prompt": f"{n} + {n} = ?", "completion": str(2 * n)} for n in range(500, 512)]
    for version, rows in (("v1", sums), ("v2", changed + more)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        house.ask(
            "POST",
            "/api/datasets/ingest",
            files={"file": ("sums-only.jsonl", lines)},
            data=about | {"version": version},
        )


def furnish_runs(house: House) -> dict[str, str]:
    """Return the ids of what the pictures show, by name."""
    ids = {}
    for name, fields in (
        ("dry", {"max_seq_length": 128}),
        ("hub", {"model_id": "google/gemma-2b-it"}),
        ("impossible", {"model_id": "openai-community/gpt2"}),
    ):
        ids[name] = house.run_dry("arithmetic-v1", **fields)
    for name, fields in (
        ("slow", {"learning_rate": 1e-3, "max_steps": 80, "tags": ["rates"]}),
        ("fast", {"max_steps": 80, "tags": ["rates", "baseline"], "notes": NOTES}),
        ("plain", {"dataset_key": "sums-only-v1", "max_steps": 60, "tags": ["no-steps"]}),
        (
            "wild",
            {
                "learning_rate": 1.0,
                "max_grad_norm": None,
                "max_steps": 60,
                "warmup_ratio": 0.0,
                "tags": ["rates"],
            },
        ),
        ("timeout", {"timeout_seconds": 25.0, "num_epochs": 4}),
    ):
        ids[name] = str(
            house.ask("POST", "/api/tunix/run", params={"mode": "async"}, json=TRAINING | fields)[
                "run_id"
            ]
        )
    ids["cancelled"] = str(
        house.ask("POST", "/api/tunix/run", params={"mode": "async"}, json=TRAINING)["run_id"]
    )
    house.ask("POST", f"/api/tunix/runs/{ids['cancelled']}/cancel")
    for name in ("slow", "fast", "plain", "wild", "timeout"):
        print(f"{name}: {house.wait(ids[name], patience=900)}")
    ids["retried"] = str(house.ask("POST", f"/api/tunix/runs/{ids['timeout']}/retry")["run_id"])
    time.sleep(15)
    house.ask("POST", f"/api/tunix/runs/{ids['retried']}/cancel")
    print(f"retried: {house.wait(ids['retried'], patience=900)}")
    traces = house.ask("GET", "/api/traces", params={"q": generate()[0][0]["prompt"]})["data"]
    ids["trace"] = next(trace["id"] for trace in traces if trace["steps"])
    return ids


def tidy(house: House) -> None:
    """Delete the runs that taking pictures has left behind."""
    for left in (
        {"mode": "dry-run", "tag": "rates"},
        {"status": "cancelled", "tag": "long"},
        {"status": "cancelled", "tag": "rates"},
    ):
        for run in house.ask("GET", "/api/tunix/runs", params=left)["data"]:
            house.ask("DELETE", f"/api/tunix/runs/{run['run_id']}")


def start_live(house: House) -> tuple[str, str]:
    """Start a training that is well under way, and one that waits for its slot."""
    live, pending = (
        str(
            house.ask("POST", "/api/tunix/run", params={"mode": "async"}, json=TRAINING | fields)[
                "run_id"
            ]
        )
        for fields in (
            {"num_epochs": 3, "tags": ["long"], "notes": "The long one."},
            {"tags": ["rates"]},
        )
    )
    house.wait(live, "running")
    while (house.ask("GET", f"/api/tunix/runs/{live}").get("step") or 0) < LIVE_STEPS:
        time.sleep(1)
    return live, pending


# --- the pictures ---------------------------------------------------------------------------------


def nothing(page: Page) -> None:
    """Leave the page as it opens."""


def with_curves(page: Page) -> None:
    page.locator("canvas").first.wait_for()


def logarithmic(page: Page) -> None:
    page.get_by_role("checkbox", name="Logarithmic").check()
    with_curves(page)


def at_the_log(page: Page) -> None:
    with_curves(page)
    page.get_by_test_id("log-stdout").scroll_into_view_if_needed()


def chosen(page: Page) -> None:
    for box in page.get_by_test_id("choose").all()[3:5]:
        box.check()
    page.get_by_test_id("expand").nth(4).click()


def keys(page: Page) -> None:
    page.keyboard.press("?")


def check_first(page: Page) -> None:
    page.get_by_test_id("check").click()
    page.get_by_test_id("preflight").get_by_test_id("run-status").wait_for(timeout=180_000)
    page.evaluate("scrollTo(0, 0)")


def bad_upload(page: Page) -> None:
    lines = b'{"prompt": "1+1=?", "completion": "2"}\nnot JSON\n{"prompt": 3, "completion": "4"}\n'
    form = page.get_by_test_id("upload-form")
    form.locator("input[type=file]").set_input_files(
        {"name": "sums.jsonl", "mimeType": "application/jsonl", "buffer": lines}
    )
    form.get_by_role("textbox", name="Name").fill("sums")
    form.get_by_test_id("upload").click()
    page.get_by_test_id("bad-lines").wait_for()


def slow_upload(page: Page) -> None:
    lines = b"".join(
        b'{"prompt": "%d + 1 = ?", "completion": "%d"}\n' % (n, n + 1) for n in range(90_000)
    )
    form = page.get_by_test_id("upload-form")
    form.locator("input[type=file]").set_input_files(
        {"name": "sums.jsonl", "mimeType": "application/jsonl", "buffer": lines}
    )
    form.get_by_role("textbox", name="Name").fill("more-sums")
    line = page.context.new_cdp_session(page)
    speed = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": len(lines) / 20}
    line.send("Network.enable")
    line.send("Network.emulateNetworkConditions", {"offline": False, **speed})
    form.get_by_test_id("upload").click()
    progress = page.get_by_test_id("upload-progress")
    progress.get_by_text(re.compile("[3-9][0-9] % of")).wait_for()
    progress.scroll_into_view_if_needed()


def columns(page: Page) -> None:
    rows = b"frage;antwort;stars\n" + b"".join(b"%d + 1?;%d;5\n" % (n, n + 1) for n in range(30))
    form = page.get_by_test_id("upload-form")
    form.locator("input[type=file]").set_input_files(
        {"name": "sums.csv", "mimeType": "text/csv", "buffer": rows}
    )
    form.get_by_role("textbox", name="Name").fill("sums")
    form.get_by_test_id("upload").click()
    page.get_by_role("combobox", name="Question").select_option("frage")
    page.get_by_role("combobox", name="Answer").select_option("antwort")
    page.get_by_test_id("mapping-show").click()
    page.get_by_test_id("preview").first.wait_for()


def keep_views(page: Page) -> None:
    for name, address in (
        ("Learning rates", "/?tag=rates"),
        ("Failed this week", "/?q=status%3Afailed%2Ctimeout+after%3Aweek"),
    ):
        page.goto(address)
        page.get_by_test_id("keep-view").click()
        page.get_by_role("textbox", name="Name").fill(name)
        page.get_by_test_id("save-view").click()
    page.goto("/runs/views")


@dataclass(frozen=True)
class Picture:
    """``path`` may name what is in the house: ``/runs/{fast}``."""

    path: str
    prepare: Callable[[Page], None] = nothing
    from_afar: bool = False  # as a client on another machine
    only_data: bool = False  # shows nothing of runs

    @property
    def beside_a_training(self) -> bool:
        """Is it to show a training under way?"""
        admin = self.path in ("/admin/runs/host/queue/", "/admin/runs/run/")
        return (
            "{live}" in self.path or admin or (self.path == "/" and self.prepare is not keep_views)
        )


PAGES = {
    "history": Picture("/"),
    "history-chosen": Picture("/", chosen),
    "history-keys": Picture("/", keys),
    "history-filter-error": Picture("/?q=llama+statsu:failed"),
    "history-empty": Picture("/?q=tag:nobody-has-this"),
    "live": Picture("/runs/{live}", with_curves),
    "live-log": Picture("/runs/{live}", at_the_log),
    "detail": Picture("/runs/{fast}", with_curves),
    "detail-timeout": Picture("/runs/{timeout}", with_curves),
    "detail-dry-run": Picture("/runs/{impossible}"),
    "compare": Picture("/runs/compare?ids={slow},{fast},{wild}", logarithmic),
    "start": Picture("/runs/new?clone={fast}", check_first),
    "samples": Picture("/runs/{fast}/samples"),
    "views": Picture("/", keep_views),
    "delete": Picture("/runs/chosen?do=delete&ids={slow},{plain},{live}"),
    "datasets": Picture("/datasets"),
    "dataset": Picture("/datasets/arithmetic-v1"),
    "upload": Picture("/datasets/new", bad_upload, only_data=True),
    "upload-progress": Picture("/datasets/new", slow_upload, only_data=True),
    "mapping": Picture("/datasets/new", columns, only_data=True),
    "imports": Picture("/datasets/imports", only_data=True),
    "diff": Picture("/datasets/sums-only-v1/diff?to=sums-only-v2", only_data=True),
    "clean": Picture("/datasets/arithmetic-v1/clean"),
    "lineage": Picture("/datasets/arithmetic-v1/lineage"),
    "traces": Picture("/traces"),
    "trace": Picture("/traces/{trace}"),
    "look": Picture("/traces/{trace}/look?model_id=preset:tiny-llama"),
    "uses": Picture("/traces/{trace}/uses"),
    "erase": Picture("/erasures/new?trace={trace}"),
    "not-found": Picture("/runs/00000000-0000-4000-8000-000000000000"),
    "login": Picture("/login", from_afar=True),
    "admin": Picture("/admin/"),
    "admin-queue": Picture("/admin/runs/host/queue/"),
    "admin-runs": Picture("/admin/runs/run/"),
    "admin-run": Picture("/admin/runs/run/{timeout}/change/"),
}


def take(browser: Browser, house: House, name: str, picture: Picture, ids: dict[str, str]) -> None:
    """One page in every look."""
    for look, options in LOOKS.items():
        if picture.from_afar:
            options = options | {"extra_http_headers": {"X-Forwarded-For": "192.0.2.1"}}
        context = browser.new_context(base_url=house.url, reduced_motion="reduce", **options)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(picture.path.format(**ids))
        picture.prepare(page)
        page.wait_for_timeout(700)  # curves are drawn, fonts are there
        taken = Image.open(BytesIO(page.screenshot()))
        taken.convert("RGB").quantize(
            COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        ).save(PICTURES / f"{name}{look}.png", optimize=True)
        context.close()
    print(name, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--house", type=Path, help="a folder in which the house is kept")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PAGES,
        default=list(PAGES),
        metavar="NAME",
        help="only these pages",
    )
    options = parser.parse_args()
    folder = options.house or Path(tempfile.mkdtemp(prefix="tunixrt-screenshots-"))
    folder.mkdir(exist_ok=True)
    PICTURES.mkdir(exist_ok=True)
    house = House(folder.resolve(), TUNIX_COMMAND="", TUNIX_SLOTS="1")
    try:
        if not house.ask("GET", "/api/datasets")["data"]:
            furnish_data(house)
        known = folder / "ids.json"
        if not known.exists() and not all(PAGES[name].only_data for name in options.only):
            known.write_text(json.dumps(furnish_runs(house)))
        ids = json.loads(known.read_text()) if known.exists() else {}
        # What needs the only slot comes first.
        later = [name for name in options.only if PAGES[name].beside_a_training]
        with sync_playwright() as playwright:
            executable = next(filter(None, map(shutil.which, EXECUTABLES)), None)
            browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
            for name in options.only:
                if name not in later:
                    take(browser, house, name, PAGES[name], ids)
            tidy(house)
            if later:
                live, pending = start_live(house)
                for name in later:
                    take(browser, house, name, PAGES[name], ids | {"live": live})
                for run in (pending, live):
                    house.ask("POST", f"/api/tunix/runs/{run}/cancel")
                    house.wait(run, patience=300)
            browser.close()
    finally:
        house.close()
        if options.house is None:
            shutil.rmtree(folder)
    size = sum(path.stat().st_size for path in PICTURES.glob("*.png"))
    print(
        f"{len(list(PICTURES.glob('*.png')))} pictures, {size / 1e6:.1f} MB, in"
        f" {PICTURES.relative_to(ROOT)}"
    )


if __name__ == "__main__":
    main()
