// The start page: says why a button is disabled, and that a run executes while the page waits.
"use strict";

const form = document.getElementById("start");
const dataset = form.elements.dataset_key;
const buttons = [...form.querySelectorAll("button[name=action]")];
const executing = document.getElementById("executing");
const chooseFirst = document.getElementById("choose-dataset");
const disabledByServer = new Set(buttons.filter((button) => button.disabled));

function update() {
  const missing = dataset.value === "";
  if (chooseFirst) chooseFirst.hidden = !missing;
  for (const button of buttons) {
    button.disabled = missing || disabledByServer.has(button);
    if (!disabledByServer.has(button)) button.toggleAttribute("aria-describedby", false);
    if (missing && chooseFirst && !disabledByServer.has(button)) button.setAttribute("aria-describedby", "choose-dataset");
  }
}

form.addEventListener("submit", (event) => {
  if (event.submitter?.value === "check") return; // htmx asks, and the form stays
  executing.hidden = false;
  // After the browser has taken the form's values, the pressed button's among them.
  setTimeout(() => buttons.forEach((button) => (button.disabled = true)));
});
dataset.addEventListener("change", update);
window.addEventListener("pageshow", () => {
  executing.hidden = true;
  update();
});
