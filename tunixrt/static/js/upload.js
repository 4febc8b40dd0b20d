// The upload of a dataset: shows how far it is, and keeps the chosen file when something has to be corrected.
"use strict";

function bytes(count) {
  for (const unit of ["bytes", "kB", "MB"]) {
    if (count < 1000) return `${unit === "bytes" ? count : count.toFixed(1)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} GB`;
}

function send(form) {
  const box = form.querySelector(".upload-progress");
  const [words, bar, stop] = [box.querySelector("[role=status]"), box.querySelector("progress"), box.querySelector("button")];
  const submit = form.querySelector("[type=submit]");
  const request = new XMLHttpRequest();
  const say = (text) => (words.textContent = text);

  function over(text) {
    submit.disabled = false;
    bar.hidden = stop.hidden = true;
    say(text);
  }

  request.upload.addEventListener("progress", (event) => {
    if (!event.lengthComputable) return;
    bar.value = event.loaded / event.total;
    const share = Math.floor((100 * event.loaded) / event.total);
    if (event.loaded < event.total) say(`${share} % of ${bytes(event.total)}`);
  });
  request.upload.addEventListener("load", () => {
    bar.removeAttribute("value"); // the duration is unknown
    say("All is there. Reading and checking the lines…");
  });
  request.addEventListener("error", () => over("The upload broke off: the server does not answer, or refuses a file of this size. Nothing was stored."));
  request.addEventListener("abort", () => over("Stopped. Nothing was stored."));
  request.addEventListener("load", () => {
    if (request.status === 201) {
      location.assign(JSON.parse(request.responseText).location);
      return;
    }
    show(form, request.responseText);
  });
  stop.addEventListener("click", () => request.abort(), { once: true });

  submit.disabled = true;
  bar.value = 0;
  box.hidden = bar.hidden = stop.hidden = false;
  say("Sending…");
  request.open("POST", form.action);
  request.setRequestHeader("X-Requested-With", "XMLHttpRequest");
  request.send(new FormData(form));
}

/** The page that the server answered, with the file that was chosen still chosen. */
function show(form, html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  const main = page.getElementById("main");
  const field = main.querySelector("input[type=file]");
  if (field) field.replaceWith(form.querySelector("input[type=file]"));
  document.getElementById("main").replaceChildren(...main.childNodes);
  document.title = page.title;
  const problem = document.querySelector("#main [role=alert]:not([hidden]), #main .errorlist");
  (problem?.closest(".field") ?? problem ?? document.getElementById("main")).scrollIntoView({ block: "start" });
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-testid=upload-form]")) return;
  event.preventDefault();
  send(event.target);
});
