// What the charts of a run and the comparison of runs share: colours, numbers, axes, and which points get a dot.

const NOT_FINITE = { NaN: NaN, Infinity: Infinity, "-Infinity": -Infinity };
const EDGE = 10; // pixels between the labels of an axis and the edge of the canvas
const NARROWEST = 50; // pixels of a vertical axis: half of the first label below it fits there
const TIME_LABEL = 90; // pixels that a label of the time axis may take
// uPlot's templates for the labels of a time axis: from so many seconds between two of them on, the label and what is added where
// year, month or day changes. https://github.com/leeoniya/uPlot/tree/master/docs#axis--grid-opts
const TIME_LABELS = [
  [31536000, "{YYYY}", null, null, null, null, null, null, 1],
  [2419200, "{YYYY}-{MM}", null, null, null, null, null, null, 1],
  [86400, "{MM}-{DD}", "\n{YYYY}", null, null, null, null, null, 1],
  [60, "{HH}:{mm}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
  [0.001, "{HH}:{mm}:{ss}.{fff}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
];

/** A value of the API as a number: what is not finite comes as text. */
export function number(raw) {
  return typeof raw === "string" ? NOT_FINITE[raw] : raw;
}

/** Whether a value has a place on the axis. */
export function hasPlace(value, logarithmic) {
  return Number.isFinite(value) && !(logarithmic && value <= 0);
}

/** What a logarithmic axis leaves out, in a sentence; empty if nothing. `columns`: values of every curve. */
export function leftOut(columns, logarithmic) {
  const values = columns.flat().filter((value) => Number.isFinite(value));
  const count = logarithmic ? values.filter((value) => value <= 0).length : 0;
  if (!count) return "";
  return `Not shown: ${count.toLocaleString("en")} of ${values.length.toLocaleString("en")} points are 0 or less, and have no place on a logarithmic axis.`;
}

/** uPlot's `points.filter`: dots for points that no line reaches, since both neighbours are gaps. */
export function isolated(plot, place, show) {
  if (show) return null; // every point has its dot
  const values = plot.data[place];
  const known = [...values.keys()].filter((index) => values[index] !== undefined); // undefined: only another curve has a point here
  const alone = known.filter((index, at) => values[index] !== null && (values[known[at - 1]] ?? null) === null && (values[known[at + 1]] ?? null) === null);
  return alone.length ? alone : null;
}

/** uPlot's `size` of a vertical axis: as wide as its widest label. */
function asWideAsLabels(plot, labels, axisIndex, cycle) {
  const axis = plot.axes[axisIndex];
  if (cycle > 1) return axis._size; // measured already
  plot.ctx.font = axis.font[0];
  const widths = (labels ?? []).map((label) => plot.ctx.measureText(label ?? "").width / devicePixelRatio);
  return Math.max(NARROWEST, Math.ceil(Math.max(0, ...widths) + axis.ticks.size + axis.gap + EDGE));
}

/** uPlot's options of both axes. `format` makes labels of values; moments are UTC, as everywhere on the pages. */
export function axes(format, { time = false } = {}) {
  const line = () => colour("--ink-2");
  const grid = { stroke: () => colour("--rule"), width: 1 };
  const labels = (_, ticks) => ticks.map((tick) => (tick === null ? "" : format(tick)));
  return {
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    padding: [null, time ? TIME_LABEL / 2 : null, null, null], // half of the last label
    axes: [
      { stroke: line, grid, ticks: grid, ...(time && { values: TIME_LABELS, space: TIME_LABEL }) },
      { stroke: line, grid, ticks: grid, size: asWideAsLabels, values: labels },
    ],
  };
}

/** A moment in seconds since the epoch: `2026-01-31 12:00:00 UTC`. */
export function moment(seconds) {
  return `${new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

let probe = null;

/** A colour of the style sheet as the canvas understands it. */
export function colour(variable) {
  if (!probe) {
    probe = document.createElement("span");
    probe.hidden = true;
    document.body.append(probe);
  }
  probe.style.color = `var(${variable})`;
  return getComputedStyle(probe).color;
}

/** How values of a metric are written. */
export function formatOf(name) {
  return name === "memory_bytes" ? bytes : short;
}

function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(3).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(5)));
}

function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let place = 0;
  while (Math.abs(count) >= 1000 && place < units.length - 1) {
    count /= 1000;
    place++;
  }
  return `${Number(count.toPrecision(3))} ${units[place]}`;
}

/** A labelled control of the bar above a chart. */
export function control(label, element) {
  const wrapped = document.createElement("label");
  wrapped.append(label, " ", element);
  return wrapped;
}
