// The voting page: a key for each button. Without JavaScript the buttons do the same.

const form = document.getElementById("vote");
const KEYS = ["1", "2", "0", "s"];

if (form) {
  const keysOn = document.getElementById("keys-on");
  document.getElementById("keys").hidden = false;
  keysOn.checked = localStorage.getItem("keys") !== "off";
  keysOn.addEventListener("change", () => localStorage.setItem("keys", keysOn.checked ? "on" : "off"));

  let sent = false;
  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault(); // a key that is pressed twice must not vote on the next question
    sent = true;
  });
  window.addEventListener("pageshow", () => (sent = false));

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input:not([type=checkbox]), select, textarea, [contenteditable]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
    if (!keysOn.checked || !KEYS.includes(event.key)) return;
    event.preventDefault();
    form.querySelector(`button[value="${event.key}"]`).click();
  });
}
