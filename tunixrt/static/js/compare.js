// The curves of several runs over each other, on the same axes.

import { axes, control, formatOf, hasPlace, isolated, leftOut, number } from "../tunixrt/plots.js";

const box = document.getElementById("curves");
const ids = box.dataset.runs.split(",");
const POINTS = 600;
let plot = null;

function colour(place) {
  const swatch = document.querySelector(`.swatch-${place + 1}`);
  return getComputedStyle(swatch).backgroundColor;
}

async function ask(address) {
  const answer = await fetch(address, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.json();
}

/** uPlot wants each place once, from left to right; what was measured last counts. */
function table({ steps, times, values }, byTime) {
  const rows = new Map();
  steps.forEach((step, index) => rows.set(byTime ? times[index] - times[0] : step, number(values[index])));
  const xs = [...rows.keys()].sort((a, b) => a - b);
  return [xs, xs.map((x) => rows.get(x))];
}

async function start() {
  const known = await Promise.all(ids.map(async (id) => new Set((await ask(`/api/tunix/runs/${id}/metrics`)).data.map((series) => series.name))));
  const names = [...new Set(known.flatMap((found) => [...found]))].sort();
  if (!names.length) {
    box.replaceChildren(Object.assign(document.createElement("p"), { className: "muted", textContent: "Nothing has been measured yet." }));
    return;
  }
  const metric = document.createElement("select");
  for (const name of names) metric.append(new Option(name, name, name === "loss", name === "loss"));
  metric.dataset.testid = "metric";
  const axis = document.createElement("select");
  axis.append(new Option("step", "step"), new Option("seconds since its start", "time"));
  const log = Object.assign(document.createElement("input"), { type: "checkbox" });
  const bar = Object.assign(document.createElement("div"), { className: "charts-bar" });
  bar.append(control("Metric", metric), control("Axis", axis), control("Logarithmic", log));
  const place = document.createElement("div");
  const notShown = Object.assign(document.createElement("p"), { className: "not-shown" });
  notShown.dataset.testid = "not-shown";
  box.replaceChildren(bar, place, notShown);
  const curves = new Map();

  async function draw() {
    const name = metric.value;
    const having = ids.map((id, index) => index).filter((index) => known[index].has(name));
    const found = await Promise.all(
      having.map(async (index) => {
        const key = `${index} ${name}`;
        if (!curves.has(key)) curves.set(key, (await ask(`/api/tunix/runs/${ids[index]}/metrics?points=${POINTS}&name=${encodeURIComponent(name)}`)).data[0]);
        return curves.get(key);
      }),
    );
    if (name !== metric.value) return; // another was chosen meanwhile
    const tables = found.map((curve) => table(curve, axis.value === "time"));
    notShown.textContent = leftOut(tables.map(([, values]) => values), log.checked);
    for (const one of tables) one[1] = one[1].map((value) => (hasPlace(value, log.checked) ? value : null));
    const format = formatOf(name);
    plot?.destroy();
    plot = new uPlot(
      {
        width: place.clientWidth,
        height: 320,
        scales: { x: { time: false }, y: { distr: log.checked ? 3 : 1 } },
        ...axes(format),
        series: [
          { label: axis.value },
          ...having.map((index) => ({ label: ids[index].slice(0, 8), stroke: () => colour(index), width: 1.75, points: { show: false, filter: isolated, size: 7, fill: () => colour(index) }, value: (_, value) => format(value) })),
        ],
      },
      // null is a gap in the line, undefined only a place where another curve has a point
      uPlot.join(tables, tables.map(() => [2])),
      place,
    );
  }
  for (const element of [metric, axis, log]) element.addEventListener("change", draw);
  new ResizeObserver(() => plot?.setSize({ width: place.clientWidth, height: 320 })).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot?.redraw());
  await draw();
}

start().catch((error) => {
  console.error(error);
  box.replaceChildren(Object.assign(document.createElement("p"), { className: "muted", textContent: "The curves cannot be fetched now; reload the page to try again." }));
});
