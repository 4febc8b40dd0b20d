// The history: choosing runs, and keys for those who would rather not point.
"use strict";

const keysDialog = document.getElementById("keys");
const keysOn = document.getElementById("keys-on");
keysOn.checked = localStorage.getItem("keys") !== "off";
keysOn.addEventListener("change", () => localStorage.setItem("keys", keysOn.checked ? "on" : "off"));

// --- chosen runs --------------------------------------------------------------------------------------------------

const boxes = () => [...document.querySelectorAll("input[name=ids][form=chosen]")];

function countChosen() {
  const form = document.getElementById("chosen");
  if (!form) return;
  const all = boxes();
  const count = all.filter((box) => box.checked).length;
  const choose = document.getElementById("choose-all");
  choose.hidden = false;
  choose.checked = count === all.length;
  choose.indeterminate = count > 0 && count < all.length;
  write(document.getElementById("chosen-count"), count ? `${count} chosen` : "Choose runs to");
  for (const button of form.querySelectorAll("button[type=submit]")) button.disabled = count < (button.dataset.testid === "compare" ? 2 : 1);
  form.querySelector(".keys-button").hidden = false;
}

document.addEventListener("change", (event) => {
  if (event.target.id === "choose-all") for (const box of boxes()) box.checked = event.target.checked;
  if (event.target.matches("#choose-all, [form=chosen]")) countChosen();
});
document.addEventListener("tunixrt:refreshed", countChosen);
window.addEventListener("pageshow", countChosen);
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-opens=keys]")) keysDialog.showModal();
});

// --- essentials ---------------------------------------------------------------------------------------------------

// A row that is expanded asks for its essentials; one that stays expanded gets them with the new version of the list.
document.addEventListener("htmx:configRequest", (event) => {
  if (event.detail.target?.id !== "runs") return;
  const open = [...document.querySelectorAll("details.expander[open]")].map((details) => details.id.slice("more-".length));
  if (open.length) event.detail.headers["X-Opened"] = open.join(",");
});

// --- keys ---------------------------------------------------------------------------------------------------------

const rows = () => [...document.querySelectorAll("tr.run")];
const here = () => document.activeElement?.closest("tbody")?.querySelector("tr.run") ?? null;

function move(by) {
  const all = rows();
  if (!all.length) return;
  const from = all.indexOf(here());
  const row = all[from < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, from + by))];
  row.querySelector("a").focus();
}

const KEYS = {
  "/": () => {
    const search = document.getElementById("id_q");
    search.focus();
    search.select();
  },
  "?": () => keysDialog.showModal(),
  j: () => move(1),
  k: () => move(-1),
  x: () => here()?.querySelector("input[name=ids]").click(),
  e: () => here()?.querySelector("summary").click(),
  c: () => document.querySelector("[data-testid=compare]:not(:disabled)")?.click(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]), select, textarea, [contenteditable], dialog[open]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (!keysOn.checked || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});
