// A run's page, live: logs, charts, progress and status from the server's event stream, or piece by piece where there is none.
//
// To use it, a page includes
//
//     <link rel="stylesheet" href="{% static 'vendor/uplot/uPlot.min.css' %}">
//     <link rel="stylesheet" href="{% static 'tunixrt/live.css' %}">
//     <script src="{% static 'vendor/uplot/uPlot.iife.min.js' %}" defer></script>
//     <script src="{% static 'tunixrt/live.js' %}" type="module"></script>
//
// and has one element with these hooks inside, each of which may be left out:
//
//     data-live-run="<run id>"         the element itself; data-live-api="/api/tunix/runs/<run id>" where that is another address,
//                                      data-live-chain where the run has earlier attempts
//     data-live-log="stdout|stderr"    becomes the log's viewer; what is in it is for readers without JavaScript
//     data-live-charts                 becomes the charts; so does its content
//     data-live-progress               step of steps, epoch and remaining time while the run is active
//     data-live-status                 status badges: text and the class is-<status>
//     data-live-state                  says how the page is kept up to date: live, by asking, waiting for the server, ended
//
// Elements that htmx replaces need hx-preserve and an id, or must stand outside the replaced part. When the status changes, the
// element gets the event `run:status` (it bubbles; `event.detail` is the status as in GET …/status, with `message`):
//
//     <div hx-get="…" hx-trigger="run:status from:body">

import { Charts } from "./charts.js";
import { LogView } from "./log.js";

const STREAMS = ["stdout", "stderr"];
const RANKS = { pending: 0, running: 1, cancelling: 2 };
const POLL_MS = 2000;
const AGAIN_MS = 30000; // after which a page that asks tries the stream again
const HIDDEN_MS = 20000; // a page hidden for so long closes its stream
const SOON_MS = 50;
const LOG_PART = 1 << 18;

class LiveRun {
  constructor(root) {
    this.root = root;
    this.api = root.dataset.liveApi || `/api/tunix/runs/${root.dataset.liveRun}`;
    this.position = { stdout: 0, stderr: 0, metrics: 0, status: -1 };
    this.ended = false;
    this.logs = new Map();
    this.run = {};
  }

  find(name) {
    return this.root.querySelectorAll(`[data-live-${name}]`);
  }

  async start() {
    const fetchJson = (address) => this.fetchJson(address); // of logs and charts: true whatever the connection is
    for (const box of this.find("log")) this.logs.set(box.dataset.liveLog, new LogView(box, this.api, box.dataset.liveLog, fetchJson));
    for (const box of this.find("charts")) {
      this.charts = new Charts(box, this.api, fetchJson, { chain: "liveChain" in this.root.dataset });
    }
    this.say("loading");
    await this.persist(async () => {
      this.run = await this.fetchJson(this.api);
      await Promise.all([
        ...[...this.logs].map(async ([name, view]) => (this.position[name] = await view.start())),
        this.charts?.load().then((offset) => (this.position.metrics = offset)),
      ]);
      // Logs that this page does not show are not sent.
      for (const name of STREAMS) {
        if (this.logs.has(name)) continue;
        this.position[name] = (await this.fetchJson(`${this.api}/logs?stream=${name}&tail_lines=1&limit=1`)).size;
      }
    });
    this.position.status = RANKS[this.run.status] ?? 3;
    this.showProgress();
    this.ready = true;
    if (this.position.status === 3) this.end();
    else this.listen();
    document.addEventListener("visibilitychange", () => this.looked());
    if (document.hidden) this.looked();
  }

  /** Try until it works: a server that is just being restarted is no reason to leave a page dead. */
  async persist(work) {
    for (let wait = 500; ; wait = Math.min(wait * 2, 15000)) {
      try {
        return await work();
      } catch (error) {
        if (error.status && error.status < 500 && error.status !== 429) throw error;
        this.say("waiting for the server");
        await new Promise((done) => setTimeout(done, wait));
      }
    }
  }

  async fetchJson(address, signal) {
    const answer = await fetch(address, { headers: { Accept: "application/json" }, signal });
    if (!answer.ok) throw Object.assign(new Error(`${address}: ${answer.status}`), { status: answer.status });
    return answer.json();
  }

  // --- one connection at a time: a stream, or asking
  //
  // A connection is the signal of an AbortController. Whatever it does goes by that signal: the next connection aborts it, and
  // then nothing of the old one (an event, an answer on its way, a timer) acts any more.

  connect() {
    this.hush();
    this.connection = new AbortController();
    return this.connection.signal;
  }

  hush() {
    this.connection?.abort();
    this.connection = null;
    this.streaming = false;
  }

  looked() {
    clearTimeout(this.away);
    if (this.ended || !this.ready) return;
    if (document.hidden) this.away = setTimeout(() => this.hush(), HIDDEN_MS);
    else if (!this.streaming) this.listen();
  }

  // --- the stream

  address() {
    const { stdout, stderr, metrics, status } = this.position;
    return `${this.api}/events?from=o${stdout}.e${stderr}.m${metrics}${status < 0 ? "" : `.s${status}`}`;
  }

  listen() {
    const signal = this.connect();
    this.streaming = true;
    const source = new EventSource(this.address());
    signal.addEventListener("abort", () => source.close());
    const on = (name, work) => source.addEventListener(name, work, { signal });
    const onData = (name, work) =>
      on(name, (event) => {
        const [stdout, stderr, metrics, status] = event.lastEventId.match(/\d+/g).map(Number);
        this.position = { stdout, stderr, metrics, status: status ?? -1 };
        work(JSON.parse(event.data));
      });
    on("open", () => this.say("live"));
    for (const name of STREAMS) onData(name, (part) => this.logs.get(name)?.append(part));
    onData("metrics", ({ records }) => this.measured(records));
    onData("status", (status) => this.changed(status));
    onData("end", () => this.end());
    on("error", () => {
      // While the browser itself tries again, from where it was, there is nothing to do.
      if (source.readyState !== EventSource.CLOSED) this.say("waiting for the server");
      else this.ask();
    });
  }

  // --- asking, where no stream is to be had

  async ask() {
    const signal = this.connect();
    const until = Date.now() + AGAIN_MS;
    this.say("by asking");
    for (let last = false; !signal.aborted; ) {
      let wait = POLL_MS;
      try {
        const { ended, more } = await this.askOnce(signal);
        // One more look: what was written between the look at the log and the look at the status.
        if (ended && !more && last) return this.end();
        if (ended || more) wait = SOON_MS;
        last = ended && !more;
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === 404) return this.end();
        this.say("waiting for the server");
      }
      await pause(wait, signal);
      if (!signal.aborted && !last && Date.now() > until) return this.listen();
    }
  }

  /** Fetch what is new: `ended`, whether the run has; `more`, whether a log has more than the part that was read. Raises an
   *  error when the signal is aborted. */
  async askOnce(signal) {
    let more = false;
    for (const [name, view] of this.logs) {
      const address = `${this.api}/logs?stream=${name}&offset=${this.position[name]}&limit=${LOG_PART}`;
      const part = await this.fetchJson(address, signal);
      view.append(part);
      this.position[name] = part.next_offset;
      more ||= part.next_offset < part.size && part.text !== "";
    }
    const metrics = await this.charts?.load(); // for every caller: what it draws is current
    signal.throwIfAborted();
    if (metrics !== undefined) this.position.metrics = metrics;
    const status = await this.fetchJson(`${this.api}/status`, signal);
    const ended = RANKS[status.status] === undefined;
    if (status.status !== this.run.status) {
      this.changed(ended ? { ...status, message: (await this.fetchJson(this.api, signal)).message } : status);
    }
    this.showProgress();
    return { ended, more };
  }

  // --- what is shown

  measured(records) {
    this.charts?.add(records, this.position.metrics);
    for (const record of records) {
      if (record.plan?.total_steps !== undefined) this.run.total_steps = record.plan.total_steps;
      if (record.values?.loss === undefined) continue;
      this.run.step = record.step;
      this.run.epoch = record.epoch;
    }
    this.showProgress();
  }

  changed(status) {
    Object.assign(this.run, status);
    for (const badge of this.find("status")) {
      badge.textContent = status.status;
      badge.className = badge.className.replace(/\bis-\S+/g, "").trim() + ` is-${status.status}`;
    }
    this.showProgress();
    this.root.dispatchEvent(new CustomEvent("run:status", { bubbles: true, detail: status }));
  }

  showProgress() {
    const { step, total_steps: total, epoch, config } = this.run;
    const active = RANKS[this.run.status] !== undefined;
    for (const box of this.find("progress")) {
      box.hidden = !active || !total;
      if (box.hidden) continue;
      if (!box.querySelector("progress")) {
        const bar = document.createElement("progress");
        bar.setAttribute("aria-label", "Steps");
        box.replaceChildren(document.createElement("span"), bar);
      }
      const perStep = this.charts?.secondsPerStep();
      const parts = [`Step ${(step || 0).toLocaleString("en")} of ${total.toLocaleString("en")}`];
      if (epoch !== undefined && epoch !== null) parts.push(`epoch ${epoch.toFixed(1)}${config?.num_epochs ? ` of ${config.num_epochs}` : ""}`);
      if (perStep && step < total) parts.push(`${duration((total - step) * perStep)} to go`);
      box.firstChild.textContent = parts.join(" · ");
      box.lastChild.max = total;
      box.lastChild.value = step || 0;
    }
  }

  say(state) {
    this.root.dataset.liveNow = state;
    for (const box of this.find("state")) if (box.textContent !== state) box.textContent = state;
  }

  end() {
    this.ended = true;
    this.hush();
    this.say("ended");
  }

  close() {
    this.ended = true;
    clearTimeout(this.away);
    this.hush();
    this.charts?.close();
  }
}

/** Wait; an aborted signal ends the wait. */
function pause(ms, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      done();
    });
  });
}

function duration(seconds) {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.round((seconds % 86400) / 3600)} h`;
}

const root = document.querySelector("[data-live-run]");
if (root) {
  const live = new LiveRun(root);
  live.start().catch((error) => {
    live.say("not available");
    console.error(error);
  });
  addEventListener("pagehide", () => live.hush());
  addEventListener("pageshow", (event) => event.persisted && live.looked());
}
