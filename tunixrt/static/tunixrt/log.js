// The log of a run: opens at its last lines, follows while the reader is at the end, loads older lines on the way up.

import { fold, paint, plainText } from "./ansi.js";

const TAIL_LINES = 500;
const TAIL_BYTES = 256 * 1024;
const KEPT_LINES = 5000; // while following
const BLOCK_LINES = 100; // at least, in a part that is dropped at once
const LINES_MAX = 20000; // while reading back
const LINE_MAX = 10000; // characters of a line that are shown
const RESULTS_PART = 200; // lines found in one request
const RESULTS_MAX = 1000;
const LINES_AROUND = 200; // before a line that was found
const NEAR = 24; // pixels from the end that count as the end

export class LogView {
  /** `box`: the element to fill; `api`: the run's address; `stream`: stdout or stderr. */
  constructor(box, api, stream, fetchJson) {
    this.api = api;
    this.stream = stream;
    this.fetchJson = fetchJson;
    this.following = true;
    this.detached = false; // newer lines than those shown were passed over
    this.loading = false;
    this.turn = null; // changes when other lines are to be shown; an answer that was asked for before is dropped
    this.build(box);
    this.clear(0);
  }

  build(box) {
    box.classList.add("log");
    const make = (tag, className, properties = {}) => Object.assign(document.createElement(tag), { className, ...properties });
    this.search = make("input", "log-search", { type: "search", placeholder: "Search these lines" });
    this.search.setAttribute("aria-label", `Search ${this.stream}`);
    this.found = make("output", "log-found");
    this.previous = make("button", "quiet", { type: "button", textContent: "Previous", hidden: true });
    this.next = make("button", "quiet", { type: "button", textContent: "Next", hidden: true });
    this.wrap = make("button", "quiet", { type: "button", textContent: "Wrap lines" });
    this.wrap.setAttribute("aria-pressed", "true");
    this.toEnd = make("button", "quiet", { type: "button", textContent: "Follow" });
    this.toEnd.setAttribute("aria-pressed", "true");
    this.toEnd.dataset.testid = `follow-${this.stream}`;
    this.whole = make("button", "quiet", { type: "button", textContent: "Search the whole log", hidden: true });
    this.whole.dataset.testid = `search-${this.stream}`;
    this.results = make("ol", "log-results", { hidden: true });
    this.results.setAttribute("aria-label", `Lines of ${this.stream} that were found`);
    this.results.dataset.testid = `results-${this.stream}`;
    this.download = make("a", "button quiet", { href: `${this.api}/logs/${this.stream}`, textContent: "Download" });
    this.size = make("span", "log-size");
    const bar = make("div", "log-bar");
    bar.append(this.search, this.previous, this.next, this.whole, this.found, this.size, this.wrap, this.toEnd, this.download);
    this.view = make("div", "log-view is-wrapped", { tabIndex: 0 });
    this.view.setAttribute("role", "log");
    this.view.setAttribute("aria-live", "off");
    this.view.setAttribute("aria-label", this.stream);
    this.view.dataset.testid = `log-${this.stream}`;
    this.view.id = `log-${this.stream}`;
    this.found.setAttribute("role", "status");
    box.replaceChildren(bar, this.results, this.view);

    this.view.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.toEnd.addEventListener("click", () => (this.following ? this.follow(false) : this.jump()));
    this.wrap.addEventListener("click", () => {
      const wrapped = this.view.classList.toggle("is-wrapped");
      this.wrap.setAttribute("aria-pressed", String(wrapped));
    });
    this.search.addEventListener("input", () => this.find());
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.show(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") {
        this.search.value = "";
        this.find();
      }
    });
    this.previous.addEventListener("click", () => this.show(-1));
    this.next.addEventListener("click", () => this.show(1));
    this.whole.addEventListener("click", () => (this.searching ? this.searching.abort() : this.searchAll()));
  }

  clear(offset) {
    this.first = this.end = offset; // bytes of the file that are shown
    this.blocks = [{ offset, lines: 0 }]; // where parts begin and how many lines begin in them
    this.lines = []; // {raw, cut, element}
    this.open = false; // the last line has no end yet
    this.number = null; // of the first line
    this.matches = [];
    this.view.replaceChildren();
  }

  /** Load the end of the log; returns the byte behind it, where the stream continues. */
  async start() {
    const turn = (this.turn = {});
    const part = await this.fetchJson(`${this.api}/logs?stream=${this.stream}&tail_lines=${TAIL_LINES}&limit=${TAIL_BYTES}`);
    if (turn !== this.turn) return part.next_offset;
    this.clear(part.offset);
    this.number = part.offset === 0 ? 1 : null;
    this.append(part);
    this.detached = false;
    if (part.offset > 0) this.askForNumbers();
    return part.next_offset;
  }

  /** Counting the lines of a large file takes a while: the lines are there first. */
  async askForNumbers() {
    const { first, turn } = this;
    const part = await this.fetchJson(`${this.api}/logs?stream=${this.stream}&offset=${first}&limit=1&line_numbers=1`);
    if (turn !== this.turn || this.first !== first || part.first_line === null) return;
    this.number = part.first_line;
    this.lines.forEach((line, index) => this.mark(line, index));
  }

  mark(line, index) {
    if (this.number !== null) line.element.dataset.n = this.number + index;
  }

  /** More of the log: `{offset, next_offset, text}`, from the stream or from a poll. What is known already is passed over. */
  append(part) {
    if (this.detached || part.next_offset <= this.end || !part.text) return;
    if (part.offset > this.end && this.lines.length) {
      this.detach(); // a gap: never show lines side by side that are not
      return;
    }
    if (!this.following && this.lines.length >= LINES_MAX) {
      this.detach();
      return;
    }
    const pieces = part.text.split("\n");
    const added = [];
    pieces.forEach((piece, index) => {
      const isLast = index === pieces.length - 1;
      if (this.open) this.extend(this.lines[this.lines.length - 1], piece);
      else if (piece || !isLast) added.push(this.newLine(piece));
      this.open = isLast && (this.open || piece !== "");
    });
    this.view.append(...added);
    this.end = part.next_offset;
    this.account(part, pieces, added.length);
    this.trim();
    if (this.search.value) this.find();
    if (this.following) this.view.scrollTop = this.view.scrollHeight;
    this.size.textContent = bytes(this.end);
  }

  /** Blocks are what the top is cut by, so all but the first begin with a line, at a byte that is known for sure. */
  account(part, pieces, began) {
    const tail = pieces[pieces.length - 1];
    const block = this.blocks[this.blocks.length - 1];
    block.lines += began;
    if (pieces.length === 1 || tail.includes("\ufffd") || block.lines < BLOCK_LINES) return;
    const open = tail ? 1 : 0;
    block.lines -= open;
    this.blocks.push({ offset: part.next_offset - new TextEncoder().encode(tail).length, lines: open });
  }

  newLine(raw) {
    const line = { raw, cut: 0, element: document.createElement("div") };
    line.element.className = "log-line";
    this.lines.push(line);
    this.mark(line, this.lines.length - 1);
    this.draw(line);
    return line.element;
  }

  extend(line, more) {
    line.raw += more;
    this.draw(line);
  }

  draw(line) {
    // Of a progress bar the last state is enough, of an endless line its beginning.
    if (line.raw.length > LINE_MAX && line.raw.includes("\r")) line.raw = fold(line.raw) + (line.raw.endsWith("\r") ? "\r" : "");
    if (line.raw.length > LINE_MAX) {
      line.cut += line.raw.length - LINE_MAX;
      line.raw = line.raw.slice(0, LINE_MAX);
    }
    paint(line.element, fold(line.raw) || (line.raw ? "" : "\u200b"));
    if (line.cut) {
      const note = document.createElement("span");
      note.className = "log-cut";
      note.textContent = ` … ${line.cut.toLocaleString("en")} more characters: download the log to read them`;
      line.element.append(note);
    }
  }

  trim() {
    if (!this.following) return;
    while (this.blocks.length > 1 && this.lines.length - this.blocks[0].lines >= KEPT_LINES) {
      const { lines } = this.blocks.shift();
      for (const line of this.lines.splice(0, lines)) line.element.remove();
      if (this.number !== null) this.number += lines;
      this.first = this.blocks[0].offset;
    }
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.view;
    const atEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    if (atEnd !== this.following && !(atEnd && this.detached)) this.follow(atEnd);
    if (scrollTop < 200 && this.first > 0) this.loadOlder();
    if (atEnd && this.detached) this.loadNewer();
  }

  follow(on) {
    this.following = on;
    this.toEnd.setAttribute("aria-pressed", String(on));
    this.toEnd.textContent = on ? "Follow" : this.detached ? "Newer lines: to the end" : "To the end";
  }

  detach() {
    this.detached = true;
    this.follow(false);
  }

  async jump() {
    if (this.detached) {
      const started = this.start();
      const { turn } = this;
      await started;
      if (turn !== this.turn) return;
    }
    this.follow(true);
    this.view.scrollTop = this.view.scrollHeight;
  }

  async loadOlder() {
    if (this.loading) return;
    this.loading = true;
    const { turn } = this;
    try {
      const address = `${this.api}/logs?stream=${this.stream}&before=${this.first}&tail_lines=${TAIL_LINES}&limit=${TAIL_BYTES}&line_numbers=1`;
      const part = await this.fetchJson(address);
      if (turn === this.turn && part.next_offset === this.first) this.prepend(part);
    } finally {
      this.loading = false;
    }
  }

  /** Load what follows the lines that are shown, until the end of the log, from where the stream continues. */
  async loadNewer() {
    if (this.loading) return;
    this.loading = true;
    const { turn } = this;
    try {
      const part = await this.fetchJson(`${this.api}/logs?stream=${this.stream}&offset=${this.end}&limit=${TAIL_BYTES}`);
      if (turn !== this.turn) return;
      this.detached = false;
      const top = this.view.scrollTop;
      this.append(part);
      if (part.next_offset < part.size && part.text) this.detached = true;
      this.follow(this.following && !this.detached);
      this.view.scrollTop = top;
    } finally {
      this.loading = false;
    }
  }

  prepend(part) {
    const height = this.view.scrollHeight;
    const pieces = part.text.split("\n");
    const last = pieces.pop();
    const joined = last && this.lines.length;
    if (joined) {
      // The first line shown is the rest of one that began earlier.
      const line = this.lines[0];
      line.raw = last + line.raw;
      this.draw(line);
    } else if (last) pieces.push(last);
    const shown = this.lines;
    this.lines = [];
    this.number = part.first_line;
    const elements = pieces.map((piece) => this.newLine(piece));
    if (joined) this.blocks[0] = { offset: part.offset, lines: elements.length + this.blocks[0].lines };
    else this.blocks.unshift({ offset: part.offset, lines: elements.length });
    this.lines = this.lines.concat(shown);
    if (this.number !== null) this.lines.forEach((line, index) => this.mark(line, index));
    this.view.prepend(...elements);
    this.first = part.offset;
    this.view.scrollTop += this.view.scrollHeight - height;
    if (this.search.value) this.find();
  }

  // --- search

  find() {
    for (const line of this.matches) line.element.classList.remove("is-match", "is-current");
    const wanted = this.search.value.toLowerCase();
    this.matches = wanted ? this.lines.filter((line) => plainText(fold(line.raw)).toLowerCase().includes(wanted)) : [];
    for (const line of this.matches) line.element.classList.add("is-match");
    this.current = -1;
    const count = this.matches.length;
    this.found.textContent = wanted ? `${count} of ${this.lines.length} lines` : "";
    this.previous.hidden = this.next.hidden = !count;
    this.whole.hidden = !wanted;
    if (!wanted) {
      this.searching?.abort();
      this.results.hidden = true;
      this.results.replaceChildren();
    }
  }

  /** Every line of the file with the text, found by the server part by part; a line that is pressed is shown in its place. */
  async searchAll() {
    const wanted = this.search.value;
    if (!wanted) return;
    const search = (this.searching = new AbortController());
    this.whole.textContent = "Stop";
    this.results.replaceChildren();
    this.results.hidden = false;
    let count = 0;
    let offset = 0;
    let size = 0;
    try {
      do {
        const query = new URLSearchParams({ stream: this.stream, search: wanted, offset, line_numbers: 1, matches: RESULTS_PART });
        const part = await this.fetchJson(`${this.api}/logs?${query}`);
        if (search.signal.aborted) break;
        this.results.append(...part.matches.map((match) => this.result(match)));
        count += part.matches.length;
        ({ next_offset: offset, size } = part);
        this.found.textContent = offset < size ? `${count} found in ${bytes(offset)} of ${bytes(size)} …` : `${count} found in the whole log`;
      } while (offset < size && count < RESULTS_MAX);
      if (offset < size && !search.signal.aborted) this.found.textContent = `The first ${count}, in ${bytes(offset)} of ${bytes(size)}`;
      if (search.signal.aborted) this.found.textContent = `Stopped: ${count} found in ${bytes(offset)}`;
    } catch (error) {
      this.found.textContent = "The search broke off: the server does not answer.";
      console.warn(error);
    } finally {
      if (this.searching === search) {
        this.searching = null;
        this.whole.textContent = "Search the whole log";
      }
      if (!count) this.results.hidden = true;
    }
  }

  result(match) {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button", className: "log-result" });
    const number = Object.assign(document.createElement("span"), { className: "log-result-line", textContent: match.line ?? "" });
    const text = document.createElement("span");
    paint(text, fold(match.text));
    button.append(number, text);
    button.addEventListener("click", () => this.openAt(match));
    item.append(button);
    return item;
  }

  /** Show the log around a line that was found. */
  async openAt(match) {
    const turn = (this.turn = {});
    const before = await this.fetchJson(
      `${this.api}/logs?stream=${this.stream}&before=${match.offset}&tail_lines=${LINES_AROUND}&limit=${TAIL_BYTES}&line_numbers=1`,
    );
    const part = await this.fetchJson(`${this.api}/logs?stream=${this.stream}&offset=${before.offset}&limit=${TAIL_BYTES}`);
    if (turn !== this.turn) return;
    this.follow(false);
    this.clear(before.offset);
    this.number = before.first_line;
    this.detached = false;
    this.append(part);
    this.detached = part.next_offset < part.size;
    this.follow(false);
    this.find();
    const index = match.line === null || this.number === null ? -1 : match.line - this.number;
    const line = this.lines[index];
    if (!line) return;
    this.current = this.matches.indexOf(line);
    line.element.classList.add("is-current");
    line.element.scrollIntoView({ block: "center" });
    this.view.focus({ preventScroll: true });
  }

  show(direction) {
    const count = this.matches.length;
    if (!count) return;
    this.matches[this.current]?.element.classList.remove("is-current");
    this.current = this.current < 0 && direction < 0 ? count - 1 : (this.current + direction + count) % count;
    const { element } = this.matches[this.current];
    element.classList.add("is-current");
    this.follow(false);
    element.scrollIntoView({ block: "center" });
    this.found.textContent = `${this.current + 1} of ${count}`;
  }
}

function bytes(count) {
  for (const unit of ["bytes", "kB", "MB"]) {
    if (count < 1000) return `${unit === "bytes" ? count : count.toFixed(1)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} GB`;
}
