// Charts of a run's metrics by uPlot: minimum and maximum of every bucket, so no spike and no NaN is lost; what comes live is
// added at the end. A drag zooms all charts and fetches the part in full; a double click goes back.

import { axes, colour, control, formatOf, hasPlace, isolated, leftOut, moment, number } from "./plots.js";

const POINTS = 1000;
const LIVE_POINTS_MAX = 4000; // then the whole is fetched again, in buckets
const SMOOTHED_MIN = 30; // fewer points, of an evaluation say, stay as they are
const OTHERS_MAX = 24;
const NAMES_PER_REQUEST = 40;
const HEIGHT = 220;
const GROUPS = [
  { title: "Loss", names: ["loss", "eval_loss"], labels: ["training", "held out"] },
  { title: "Learning rate", names: ["learning_rate"] },
  { title: "Gradient norm", names: ["grad_norm"] },
  { title: "Tokens per second", names: ["tokens_per_second"] },
  { title: "Memory", names: ["memory_bytes"] },
];

export class Charts {
  /** `box`: the element to fill; `api`: the run's address; `chain`: whether the run has ancestors to show. */
  constructor(box, api, fetchJson, { chain = false } = {}) {
    this.api = api;
    this.fetchJson = fetchJson;
    this.smoothing = 0;
    this.log = false;
    this.axis = "step";
    this.chain = false;
    this.range = null; // what is zoomed to, in steps or seconds
    this.series = new Map(); // name → {steps, times, values}
    this.recent = []; // what came live since the last fetch, with the offset behind it
    this.charts = new Map(); // title → {plot, group, box}
    this.build(box, chain);
    // Each figure, not the grid: figures share a row, so one is as wide as the row until the next one is there.
    this.observer = new ResizeObserver(() => this.resize());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.charts.forEach((chart) => chart.plot.redraw()));
  }

  build(box, chain) {
    box.classList.add("charts");
    const input = (type, properties, changed) => {
      const element = Object.assign(document.createElement("input"), { type, ...properties });
      element.addEventListener("input", () => changed(element));
      return element;
    };
    const smooth = input("range", { min: 0, max: 0.98, step: 0.02, value: 0 }, (element) => {
      this.smoothing = Number(element.value);
      this.draw();
    });
    const log = input("checkbox", {}, (element) => {
      this.log = element.checked;
      this.rebuild();
    });
    const axis = document.createElement("select");
    axis.append(new Option("step", "step"), new Option("time (UTC)", "time"));
    axis.addEventListener("change", () => {
      this.axis = axis.value;
      this.range = null;
      this.rebuild();
    });
    const bar = document.createElement("div");
    bar.className = "charts-bar";
    bar.append(control("Smoothing", smooth), control("Axis", axis), control("Logarithmic", log));
    if (chain) {
      const chained = input("checkbox", {}, (element) => {
        this.chain = element.checked;
        this.load();
      });
      bar.append(control("With earlier attempts", chained));
    }
    this.back = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: "Whole run", hidden: true });
    this.back.addEventListener("click", () => this.zoom(null));
    bar.append(this.back);
    this.empty = Object.assign(document.createElement("p"), { className: "none", textContent: "Nothing has been measured yet." });
    this.grid = Object.assign(document.createElement("div"), { className: "charts-grid" });
    box.replaceChildren(bar, this.empty, this.grid);
  }

  /** Fetch all curves; returns the byte of metrics.jsonl behind them, where the stream continues. Of several fetches under way the
   *  latest counts: an earlier one draws nothing, and returns what the latest returns. */
  load() {
    const loading = this.fetchCurves().then((found) => (this.loading === loading ? this.show(found) : this.loading));
    this.loading = loading;
    return loading;
  }

  async fetchCurves() {
    const chain = this.chain ? "&chain=1" : "";
    const zoom = this.range && this.axis === "step" ? `&from_step=${Math.max(0, Math.floor(this.range[0]))}&to_step=${Math.ceil(this.range[1])}` : "";
    const list = await this.fetchJson(`${this.api}/metrics?points=${POINTS}${chain}`);
    const names = list.data.map((series) => series.name);
    let offset = list.metrics_offset;
    const series = new Map();
    for (let start = 0; start < names.length; start += NAMES_PER_REQUEST) {
      const query = names.slice(start, start + NAMES_PER_REQUEST).map((name) => `&name=${encodeURIComponent(name)}`).join("");
      const answer = await this.fetchJson(`${this.api}/metrics?points=${POINTS}${chain}${zoom}${query}`);
      if (start === 0) offset = answer.metrics_offset;
      for (const { name, steps, times, values } of answer.data) series.set(name, { steps, times, values: values.map(number), fetched: steps.length });
    }
    return { series, attempts: list.attempts || [], offset, whole: !zoom };
  }

  show({ series, attempts, offset, whole }) {
    this.series = series;
    this.attempts = attempts;
    // What the stream told and the database did not have yet.
    this.recent = this.recent.filter((part) => part.offset > offset);
    if (whole) for (const part of this.recent) this.take(part.records);
    this.draw();
    return offset;
  }

  /** New measurements from the stream; `offset` is the byte of metrics.jsonl behind them. */
  add(records, offset) {
    this.recent.push({ records, offset });
    if (this.range && this.axis === "step") return; // zoomed: they are there when one goes back
    this.take(records);
    if ([...this.series.values()].some((series) => series.steps.length - series.fetched > LIVE_POINTS_MAX)) this.reload();
    this.drawSoon();
  }

  take(records) {
    for (const record of records) {
      for (const [name, raw] of Object.entries(record.values || {})) {
        let series = this.series.get(name);
        if (!series) this.series.set(name, (series = { steps: [], times: [], values: [], fetched: 0 }));
        if (series.steps.length && record.step <= series.steps[series.steps.length - 1]) continue; // known already
        series.steps.push(record.step);
        series.times.push(record.time);
        series.values.push(number(raw));
      }
    }
  }

  reload() {
    if (!this.reloading) this.reloading = this.load().finally(() => (this.reloading = null));
  }

  zoom(range) {
    this.range = range;
    this.back.hidden = !range;
    if (this.axis === "step") this.load();
    else this.draw();
  }

  drawSoon() {
    if (this.drawing) return;
    this.drawing = setTimeout(() => {
      this.drawing = null;
      this.draw();
    }, 300);
  }

  rebuild() {
    for (const { plot } of this.charts.values()) plot.destroy();
    this.charts.clear();
    this.observer.disconnect();
    this.grid.replaceChildren();
    this.back.hidden = !this.range;
    this.draw();
  }

  groups() {
    const known = new Set(GROUPS.flatMap((group) => group.names));
    const others = [...this.series.keys()].filter((name) => !known.has(name)).sort().slice(0, OTHERS_MAX);
    return [...GROUPS, ...others.map((name) => ({ title: name, names: [name] }))].filter((group) => group.names.some((name) => this.series.has(name)));
  }

  draw() {
    const groups = this.groups();
    this.empty.hidden = groups.length > 0;
    for (const group of groups) {
      const names = group.names.filter((name) => this.series.has(name));
      let chart = this.charts.get(group.title);
      if (chart && chart.names.length !== names.length) {
        chart.plot.destroy();
        this.observer.unobserve(chart.box);
        chart.box.remove();
        chart = null;
      }
      if (!chart) this.charts.set(group.title, (chart = this.create(group, names)));
      this.fill(chart);
    }
  }

  create(group, names) {
    const box = document.createElement("figure");
    const title = document.createElement("figcaption");
    title.append(Object.assign(document.createElement("bdi"), { textContent: group.title }));
    const latest = Object.assign(document.createElement("span"), { className: "latest" });
    latest.dataset.testid = "latest";
    title.append(" ", latest);
    box.append(title);
    box.dataset.testid = `chart-${names[0]}`;
    const place = GROUPS.findIndex((other) => other.title === group.title);
    const next = place < 0 ? null : [...this.grid.children].find((other) => Number(other.dataset.place) > place);
    box.dataset.place = place < 0 ? GROUPS.length : place;
    this.grid.insertBefore(box, next || null);
    this.observer.observe(box);
    const format = formatOf(names[0]);
    const timed = this.axis === "time";
    const series = [{ label: this.axis, value: (_, value) => (value === null ? "–" : timed ? moment(value) : String(value)) }];
    names.forEach((name, index) => {
      const label = group.labels ? group.labels[group.names.indexOf(name)] : name;
      const pen = () => colour(`--series-${(group.labels ? group.names.indexOf(name) : index) + 1}`);
      series.push({ label, stroke: pen, width: 1.5, spanGaps: false, points: { show: name === "eval_loss", filter: isolated, size: 7, fill: pen }, value: (_, value) => format(value) });
      series.push({ label: `${label}, as measured`, class: "as-measured", stroke: pen, width: 1, alpha: 0.3, points: { show: false }, value: (_, value) => format(value) });
    });
    const plot = new uPlot(
      {
        width: box.clientWidth || 400,
        height: HEIGHT,
        series,
        scales: { x: { time: timed }, y: { distr: this.log ? 3 : 1 } },
        ...axes(format, { time: timed }),
        cursor: { sync: { key: this.api }, drag: { x: true, y: false, setScale: false }, bind: { dblclick: () => () => this.zoom(null) } },
        legend: { live: true },
        hooks: {
          setSelect: [
            (self) => {
              if (self.select.width < 4) return;
              this.zoom([self.posToVal(self.select.left, "x"), self.posToVal(self.select.left + self.select.width, "x")]);
              self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            },
          ],
          draw: [(self) => this.drawMarks(self, names)],
        },
      },
      [[], ...series.slice(1).map(() => [])],
      box,
    );
    const notShown = Object.assign(document.createElement("p"), { className: "not-shown" });
    notShown.dataset.testid = "not-shown";
    box.append(notShown);
    return { plot, names, box, latest, notShown, format };
  }

  fill(chart) {
    const tables = chart.names.map((name) => {
      const { steps, times, values } = this.series.get(name);
      const xs = this.axis === "step" ? steps : times;
      const shown = values.map((value) => (hasPlace(value, this.log) ? value : null));
      return ascending(xs, this.smoothing && shown.length >= SMOOTHED_MIN ? smoothed(shown, this.smoothing) : shown, shown);
    });
    const last = chart.names.map((name) => this.series.get(name).values.at(-1)).map((value) => (Number.isFinite(value) ? chart.format(value) : String(value)));
    if (chart.latest.textContent !== last.join(" · ")) chart.latest.textContent = last.join(" · ");
    chart.notShown.textContent = leftOut(chart.names.map((name) => this.series.get(name).values), this.log);
    // null is a gap in the line, undefined only a place where the other curve has a point
    const data = tables.length > 1 ? uPlot.join(tables, tables.map(() => [2, 2, 2])) : tables[0];
    chart.names.forEach((_, index) => {
      chart.plot.setSeries(2 * index + 2, { show: this.smoothing > 0 });
    });
    chart.plot.setData(data, true);
    if (this.range && this.axis === "time") chart.plot.setScale("x", { min: this.range[0], max: this.range[1] });
  }

  /** What is not a number has no height: it is a mark at the top, where it happened; attempts are lines. */
  drawMarks(plot, names) {
    const { ctx } = plot;
    const { left, top, width, height } = plot.bbox;
    const size = 5 * devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    ctx.fillStyle = colour("--danger");
    for (const name of names) {
      const { steps, times, values } = this.series.get(name);
      const xs = this.axis === "step" ? steps : times;
      values.forEach((value, index) => {
        if (Number.isFinite(value)) return;
        const x = plot.valToPos(xs[index], "x", true);
        ctx.beginPath();
        ctx.moveTo(x - size, top);
        ctx.lineTo(x + size, top);
        ctx.lineTo(x, top + 2 * size);
        ctx.fill();
      });
    }
    if (this.chain && this.axis === "step") {
      ctx.strokeStyle = colour("--ink-2");
      ctx.setLineDash([4, 4]);
      for (const attempt of this.attempts.slice(1)) {
        if (attempt.first_step === null) continue;
        const x = plot.valToPos(attempt.first_step, "x", true);
        ctx.beginPath();
        ctx.moveTo(x, top);
        ctx.lineTo(x, top + height);
        ctx.stroke();
      }
    }
    ctx.restore();
  }

  resize() {
    for (const { plot, box } of this.charts.values()) {
      const width = box.clientWidth;
      if (width && width !== plot.width) plot.setSize({ width, height: HEIGHT });
    }
  }

  /** Seconds that one step takes, by the latest ones; null if that cannot be said yet. */
  secondsPerStep() {
    const loss = this.series.get("loss");
    const count = loss ? loss.steps.length : 0;
    if (count < 3) return null;
    const from = Math.max(0, count - 20);
    const steps = loss.steps[count - 1] - loss.steps[from];
    const seconds = loss.times[count - 1] - loss.times[from];
    return steps > 0 && seconds > 0 ? seconds / steps : null;
  }

  close() {
    this.observer.disconnect();
    clearTimeout(this.drawing);
    for (const { plot } of this.charts.values()) plot.destroy();
  }
}

/** An average that forgets, corrected for its start: what it was at the beginning does not hang on to it. */
function smoothed(values, weight) {
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = sum * weight + value * (1 - weight);
    total = total * weight + (1 - weight);
    return sum / total;
  });
}

/** uPlot wants each place once, from left to right; a training may repeat itself. The last word counts. */
function ascending(xs, ...columns) {
  const rows = xs.map((x, index) => index).sort((a, b) => xs[a] - xs[b] || a - b);
  const kept = rows.filter((row, place) => place === rows.length - 1 || xs[rows[place + 1]] !== xs[row]);
  return [kept.map((row) => xs[row]), ...columns.map((column) => kept.map((row) => column[row]))];
}
