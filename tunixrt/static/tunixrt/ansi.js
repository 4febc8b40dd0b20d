// One line of a terminal as elements. Colours become classes; everything else that a terminal would obey is shown, not obeyed.

const SPANS_MAX = 400; // in one line; a line with more colours keeps the last one to its end
const COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
const SEQUENCE = /\x1b\[([\d;:]*)([A-Za-z])|\x1b\][^\x07\x1b]{0,500}(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** What a terminal would show of a line after its carriage returns: a progress bar is its last state. */
export function fold(line) {
  let end = line.length;
  while (end && line[end - 1] === "\r") end--;
  const start = line.lastIndexOf("\r", end - 1) + 1;
  return start === 0 && end === line.length ? line : line.slice(start, end);
}

/** Put `text` (one line, folded) into `element`. Text only: nothing of it is ever markup. */
export function paint(element, text) {
  element.textContent = "";
  if (text.search(SEQUENCE) < 0) {
    element.textContent = text;
    return;
  }
  let style = plain();
  let start = 0;
  let spans = 0;
  const put = (piece, extra) => {
    if (!piece) return;
    const classes = extra ? [extra] : classesOf(style);
    if (!classes.length || spans >= SPANS_MAX) {
      element.append(piece);
      return;
    }
    const span = document.createElement("span");
    span.className = classes.join(" ");
    span.textContent = piece;
    element.append(span);
    spans++;
  };
  for (const match of text.matchAll(SEQUENCE)) {
    put(text.slice(start, match.index));
    start = match.index + match[0].length;
    if (match[2] === "m") style = restyle(style, match[1]);
    else if (match[2] === "K") continue; // "erase the line", sent before a progress bar is drawn again
    else put(visible(match[0]), "log-control");
  }
  put(text.slice(start));
}

/** A line without its colours, as it is searched and copied. */
export function plainText(text) {
  return text.replace(SEQUENCE, (all, _, letter) => (letter === "m" || letter === "K" ? "" : visible(all)));
}

function visible(text) {
  let shown = "";
  for (const character of text) {
    const code = character.codePointAt(0);
    if (code < 0x20) shown += String.fromCodePoint(0x2400 + code);
    else if (code === 0x7f) shown += "\u2421";
    else if (code < 0xa0 && code > 0x7f) shown += `\u27e8${code.toString(16)}\u27e9`;
    else if (code >= 0x202a && code <= 0x2069 || code === 0x61c || code === 0x200e || code === 0x200f) shown += `\u27e8${code.toString(16)}\u27e9`;
    else shown += character;
  }
  return shown;
}

function plain() {
  return { fg: "", bg: "", bold: false, dim: false, italic: false, underline: false, strike: false, inverse: false };
}

function classesOf(style) {
  const [fg, bg] = style.inverse ? [style.bg || "inverse", style.fg || "inverse"] : [style.fg, style.bg];
  const classes = [];
  if (fg) classes.push(`ansi-${fg}`);
  if (bg) classes.push(`ansi-on-${bg}`);
  for (const name of ["bold", "dim", "italic", "underline", "strike"]) if (style[name]) classes.push(`ansi-${name}`);
  return classes;
}

function restyle(old, parameters) {
  const codes = parameters.split(/[;:]/).map(Number);
  let style = { ...old };
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i];
    if (code === 0) style = plain();
    else if (code === 1) style.bold = true;
    else if (code === 2) style.dim = true;
    else if (code === 3) style.italic = true;
    else if (code === 4) style.underline = true;
    else if (code === 7) style.inverse = true;
    else if (code === 9) style.strike = true;
    else if (code === 22) style.bold = style.dim = false;
    else if (code === 23) style.italic = false;
    else if (code === 24) style.underline = false;
    else if (code === 27) style.inverse = false;
    else if (code === 29) style.strike = false;
    else if (code >= 30 && code <= 37) style.fg = COLOURS[code - 30];
    else if (code >= 90 && code <= 97) style.fg = COLOURS[code - 90];
    else if (code === 39) style.fg = "";
    else if (code >= 40 && code <= 47) style.bg = COLOURS[code - 40];
    else if (code >= 100 && code <= 107) style.bg = COLOURS[code - 100];
    else if (code === 49) style.bg = "";
    else if (code === 38 || code === 48) {
      const colour = codes[i + 1] === 5 ? fromTable(codes[i + 2]) : codes[i + 1] === 2 ? nearest(codes[i + 2], codes[i + 3], codes[i + 4]) : "";
      style[code === 38 ? "fg" : "bg"] = colour;
      i += codes[i + 1] === 5 ? 2 : codes[i + 1] === 2 ? 4 : 1;
    }
  }
  return style;
}

function fromTable(index) {
  if (index < 16) return COLOURS[index % 8];
  if (index >= 232) return nearest(...Array(3).fill((index - 232) * 10 + 8));
  const level = (n) => (n ? n * 40 + 55 : 0);
  return nearest(level(Math.floor((index - 16) / 36)), level(Math.floor((index - 16) / 6) % 6), level((index - 16) % 6));
}

/** The nearest of the eight colours: those are readable on our grounds, light and dark; a free choice need not be. */
function nearest(red, green, blue) {
  const high = Math.max(red, green, blue);
  if (!(high - Math.min(red, green, blue) > 40)) return high > 110 ? "white" : "black";
  const bright = [red, green, blue].map((part) => part > high * 0.6);
  return COLOURS[bright[0] + 2 * bright[1] + 4 * bright[2]];
}
