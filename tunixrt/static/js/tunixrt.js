// What makes the pages better where JavaScript runs. Nothing here is needed to read or to act.
"use strict";

// --- times that stay true -----------------------------------------------------------------------------------------

const UNITS = [[31536000, "year"], [2592000, "month"], [604800, "week"], [86400, "day"], [3600, "hour"], [60, "minute"]];

function relative(moment) {
  let seconds = (Date.now() - moment) / 1000;
  const past = seconds >= 0;
  seconds = Math.abs(seconds);
  for (const [size, unit] of UNITS) {
    if (seconds >= size) {
      const count = Math.floor(seconds / size);
      const amount = `${count} ${unit}${count === 1 ? "" : "s"}`;
      return past ? `${amount} ago` : `in ${amount}`;
    }
  }
  return past ? "just now" : "in a moment";
}

function duration(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${two(Math.floor((seconds % 3600) / 60))} min`;
  return `${Math.floor(seconds / 86400)} d ${two(Math.floor((seconds % 86400) / 3600))} h`;
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function keepTime() {
  for (const element of document.querySelectorAll("time[data-relative]")) write(element, relative(Date.parse(element.dateTime)));
  for (const element of document.querySelectorAll("[data-since]")) {
    write(element, duration(Math.max(0, Math.floor((Date.now() - Date.parse(element.dataset.since)) / 1000))));
  }
}
setInterval(keepTime, 1000);

// Pages show UTC; a tooltip shows the local time of this machine.
function sayLocalTime(part) {
  for (const element of part.querySelectorAll("time[title$=UTC]")) {
    const moment = new Date(element.dateTime);
    if (moment.getTimezoneOffset()) element.title += `, here ${moment.toLocaleString("sv")}`; // Sweden writes 2026-01-31 13:00:00
  }
}

// --- parts that refresh themselves --------------------------------------------------------------------------------

// A poll pauses while the page is hidden, and while text of that part is selected.
document.addEventListener("htmx:beforeRequest", (event) => {
  const part = event.target;
  if (!part.matches("[data-poll]")) return;
  const selection = document.getSelection();
  const selecting = !selection.isCollapsed && selection.anchorNode.parentElement?.closest("[data-part]");
  if (document.hidden || selecting) event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) for (const part of document.querySelectorAll("[data-poll]")) htmx.trigger(part, "look");
});

// What was opened, scrolled or followed stays so in the new version of a part.
let kept = null;
document.addEventListener("htmx:beforeSwap", (event) => {
  const part = event.detail.target;
  kept = { open: new Map(), scroll: new Map(), ticked: [], focus: part.contains(document.activeElement) ? document.activeElement.id : "" };
  for (const details of part.querySelectorAll("details[id]")) kept.open.set(details.id, details.open);
  for (const box of part.querySelectorAll("input[type=checkbox][id]:checked")) kept.ticked.push(box.id);
  for (const box of part.querySelectorAll("[data-follow][id]")) {
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 8;
    kept.scroll.set(box.id, atEnd ? Infinity : box.scrollTop);
  }
});
// afterSettle comes too where a page's parts are swapped apart.
for (const name of ["htmx:afterSwap", "htmx:afterSettle"]) document.addEventListener(name, restore);
function restore() {
  if (!kept) return;
  for (const [id, open] of kept.open) {
    const details = document.getElementById(id);
    if (details) details.open = open;
  }
  for (const id of kept.ticked) {
    const box = document.getElementById(id);
    if (box) box.checked = true;
  }
  if (kept.focus) document.getElementById(kept.focus)?.focus({ preventScroll: true });
  for (const [id, top] of kept.scroll) {
    const box = document.getElementById(id);
    if (box) box.scrollTop = top === Infinity ? box.scrollHeight : top;
  }
  kept = null;
  document.dispatchEvent(new Event("tunixrt:refreshed"));
}
document.addEventListener("htmx:load", (event) => {
  enhance(event.detail.elt);
});

// A server that does not answer is said, not hidden; when it is back, so is the page.
function sayConnection(trouble) {
  const note = document.getElementById("connection");
  if (note) note.hidden = !trouble;
}
for (const name of ["htmx:sendError", "htmx:timeout", "htmx:responseError"]) document.addEventListener(name, () => sayConnection(true));
document.addEventListener("htmx:afterOnLoad", (event) => {
  if (event.detail.successful) sayConnection(false);
});

// --- small helps --------------------------------------------------------------------------------------------------

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const label = button.textContent;
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1500);
});

function enhance(part) {
  if (navigator.clipboard) for (const button of part.querySelectorAll("[data-copy]")) button.hidden = false;
  sayLocalTime(part);
  for (const box of part.querySelectorAll("[data-follow]")) if (!kept) box.scrollTop = box.scrollHeight;
}

document.addEventListener("DOMContentLoaded", () => {
  enhance(document);
  keepTime();
});
