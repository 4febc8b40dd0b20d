// The curves of several runs over each other, on the same axes.
"use strict";

const box = document.getElementById("curves");
const ids = box.dataset.runs.split(",");
const POINTS = 600;
const NOT_FINITE = { NaN: null, Infinity: null, "-Infinity": null };
let plot = null;

function colour(place) {
  const swatch = document.querySelector(`.swatch-${place + 1}`);
  return getComputedStyle(swatch).backgroundColor;
}

function styled(name) {
  const probe = document.createElement("span");
  probe.hidden = true;
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

async function ask(address) {
  const answer = await fetch(address, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.json();
}

function control(label, element) {
  const wrapped = document.createElement("label");
  wrapped.append(`${label} `, element);
  return wrapped;
}

/** uPlot wants each place once, from left to right; what was measured last counts. */
function table({ steps, times, values }, byTime) {
  const rows = new Map();
  steps.forEach((step, index) => {
    const value = values[index];
    rows.set(byTime ? times[index] - times[0] : step, typeof value === "string" ? NOT_FINITE[value] : value);
  });
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
  box.replaceChildren(bar, place);
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
    if (log.checked) for (const one of tables) one[1] = one[1].map((value) => (value > 0 ? value : null));
    const grid = { stroke: () => styled("--rule"), width: 1 };
    const line = () => styled("--ink-2");
    plot?.destroy();
    plot = new uPlot(
      {
        width: place.clientWidth,
        height: 320,
        scales: { x: { time: false }, y: { distr: log.checked ? 3 : 1 } },
        axes: [{ stroke: line, grid, ticks: grid }, { stroke: line, grid, ticks: grid, size: 64 }],
        series: [
          { label: axis.value },
          ...having.map((index) => ({ label: ids[index].slice(0, 8), stroke: () => colour(index), width: 1.75, points: { show: tables[having.indexOf(index)][0].length < 3 }, value: (_, value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(5)))) })),
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
