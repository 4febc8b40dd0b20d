"""Curves as they are drawn: inside their figures, with a dot for what no line reaches, with whole
labels, in UTC."""

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from runs.tests.browser.conftest import Visit
from runs.tests.browser.house import House

# Every text that is written onto a canvas, and how much of it lies outside on one side.
RECORD = """
window.written = [];
const fillText = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
  const width = this.measureText(text).width;
  const before = { right: width, end: width, center: width / 2 }[this.textAlign] ?? 0;
  const left = this.getTransform().transformPoint({ x, y }).x - before;
  window.written.push({ text, outside: Math.max(0, -left, left + width - this.canvas.width) });
  return fillText.apply(this, arguments);
};
"""
FITS = """() => [...document.querySelectorAll(".charts-grid figure")].every((figure) => {
  const outer = figure.getBoundingClientRect();
  const inner = figure.querySelector("canvas").getBoundingClientRect();
  const within = inner.left >= outer.left - 1 && inner.right <= outer.right + 1;
  return within && inner.width > outer.width - 2;
})"""
# How many pixels of a canvas have the colour of a series.
PAINTED = """(canvas, variable) => {
  const probe = document.createElement("span");
  probe.style.color = `var(${variable})`;
  document.body.append(probe);
  const wanted = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const near = (at) =>
    [0, 1, 2].every((part) => Math.abs(data[at + part] - wanted[part]) < 3) && data[at + 3] > 250;
  let count = 0;
  for (let at = 0; at < data.length; at += 4) count += near(at);
  return count;
}"""
START = 1767225600  # 2026-01-01 00:00:00 UTC, the year before in New York


def measured(
    house: House, dataset: str, *records: tuple[int, dict[str, Any]], **fields: Any
) -> str:
    """A run that measured these values, a second apart."""
    run = house.submit(
        dataset, *(["measure", step, values, START + step] for step, values in records), **fields
    )
    assert house.wait(run) == "completed"
    return run


def visit_recorded(visit: Visit, path: str, **options: Any) -> Page:
    page = visit("about:blank", **options)
    page.add_init_script(RECORD)
    page.goto(path)
    return page


def painted(chart: Locator) -> int:
    count: int = chart.locator("canvas").evaluate(PAINTED, "--series-1")
    return count


@pytest.fixture
def curves(house: House, dataset: str) -> str:
    """A run with five charts; its losses stand alone between what is not a number, and its learning
    rate begins at 0."""
    values = [2.0, "NaN", 4.0, "NaN", 8.0]
    return measured(
        house,
        dataset,
        *(
            (
                step,
                {
                    "loss": loss,
                    "learning_rate": step - 1,
                    "grad_norm": 0.0,
                    "tokens_per_second": 1e6 * step,
                    "memory_bytes": 1e9,
                },
            )
            for step, loss in enumerate(values, 1)
        ),
    )


def test_every_chart_stays_inside_its_figure(visit: Visit, curves: str):
    page = visit(f"/runs/{curves}")
    charts = page.get_by_test_id("charts")
    expect(charts.locator("figure")).to_have_count(5)
    page.wait_for_function(FITS)
    for change in (
        lambda: page.get_by_label("Logarithmic").check(),
        lambda: charts.get_by_role("combobox").select_option("time"),
        lambda: page.set_viewport_size({"width": 900, "height": 900}),
        lambda: page.get_by_label("Logarithmic").uncheck(),
        lambda: page.set_viewport_size({"width": 390, "height": 844}),
    ):
        change()
        expect(charts.locator("canvas")).to_have_count(5)
        page.wait_for_function(FITS)


def test_a_point_between_gaps_is_a_dot(visit: Visit, curves: str):
    page = visit(f"/runs/{curves}")
    chart = page.get_by_test_id("chart-loss")
    expect(chart.locator("canvas")).to_be_visible()
    page.wait_for_function(FITS)
    assert painted(chart) > 3 * 5  # three dots, their edges not counted


def test_what_a_logarithmic_axis_leaves_out_is_said(visit: Visit, curves: str):
    page = visit(f"/runs/{curves}")
    rate, norm = (
        page.get_by_test_id(f"chart-{name}").get_by_test_id("not-shown")
        for name in ("learning_rate", "grad_norm")
    )
    expect(rate).to_be_empty()
    page.get_by_label("Logarithmic").check()
    expect(rate).to_contain_text("1 of 5 points")
    # nothing is left, and that is no reason to stop drawing
    expect(norm).to_contain_text("5 of 5 points")
    expect(page.get_by_test_id("chart-loss").get_by_test_id("not-shown")).to_be_empty()
    page.get_by_label("Logarithmic").uncheck()
    expect(norm).to_be_empty()


def test_moments_are_utc_wherever_one_is(visit: Visit, curves: str):
    page = visit_recorded(visit, f"/runs/{curves}", timezone_id="America/New_York")
    charts = page.get_by_test_id("charts")
    expect(charts.locator("canvas")).to_have_count(5)
    page.evaluate("window.written = []")
    charts.get_by_role("combobox").select_option("time")
    page.wait_for_function("written.length > 0")
    page.wait_for_function(FITS)
    assert [one for one in page.evaluate("written") if one["outside"] > 0] == []
    texts = " ".join(one["text"] for one in page.evaluate("written"))
    assert "00:00:0" in texts
    assert "2026-01-01" in texts
    assert "19:00" not in texts
    page.get_by_test_id("chart-loss").locator(".u-over").hover()
    expect(page.get_by_test_id("chart-loss").locator(".u-legend")).to_contain_text(
        "2026-01-01 00:00:0"
    )
    expect(page.get_by_test_id("time-zone")).to_contain_text("UTC")


def test_labels_of_a_comparison_are_whole(visit: Visit, house: House, dataset: str, curves: str):
    other = measured(
        house,
        dataset,
        (1, {"tokens_per_second": 1_000_000.0, "loss": "NaN"}),
        (3, {"loss": -1.0}),
        (5, {"loss": 3.0}),
    )
    page = visit_recorded(visit, f"/runs/compare?ids={curves},{other}")
    shown = page.get_by_test_id("curves")
    for metric in ("tokens_per_second", "memory_bytes", "loss"):
        page.get_by_test_id("metric").select_option(metric)
        expect(shown.locator("canvas")).to_have_count(1)
        page.wait_for_function("written.length > 0")
        assert [one for one in page.evaluate("written") if one["outside"] > 0] == []
    page.get_by_label("Logarithmic").check()
    expect(shown.get_by_test_id("not-shown")).to_contain_text("1 of 5 points")
    assert re.search(r"[1-9]", " ".join(one["text"] for one in page.evaluate("written")))
