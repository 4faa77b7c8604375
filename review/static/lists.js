// Keys of a list, and a note when it has changed: rows never move by themselves.

import { onKeys } from "./keys.js";

const EVERY = 10_000; // ms between two requests
const rows = [...document.querySelectorAll("[data-row]")];
const changes = document.getElementById("list-changes");
const LAST_OPENED = "pneumowatch-last-opened"; // the row that was opened last gets the focus again

function move(step) {
  const at = rows.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step;
  (rows[next] ?? (next < 0 ? document.getElementById("search") : document.querySelector("[rel=next]")))?.focus();
}

function press(selector) {
  const link = document.querySelector(selector);
  if (!link) return false;
  link.click();
}

onKeys({
  j: () => move(1),
  k: () => move(-1),
  n: () => press("[rel=next]"),
  r: () => press("#list-changes a"),
  "/": () => {
    const field = document.getElementById("search");
    if (!field) return false;
    field.focus();
    field.select();
  },
});

for (const row of rows) {
  row.addEventListener("click", () => sessionStorage.setItem(LAST_OPENED, row.pathname));
}
rows.find((row) => row.pathname === sessionStorage.getItem(LAST_OPENED))?.focus({ preventScroll: true });

let tag = "";
async function ask() {
  if (document.hidden) return;
  const url = "/api/changes?since=" + encodeURIComponent(changes.dataset.since);
  const answer = await fetch(url, { headers: tag ? { "If-None-Match": tag } : {} }).catch(() => null);
  if (!answer?.ok) return; // nothing has changed, or the review app is unavailable
  tag = answer.headers.get("ETag") ?? "";
  tell(await answer.json());
}

function tell({ entered, reviewed }) {
  const words = [];
  if (entered) words.push(entered === 1 ? "1 new scan" : `${entered} new scans`);
  if (reviewed) words.push(reviewed === 1 ? "1 scan has a new verdict" : `${reviewed} scans have new verdicts`);
  changes.querySelector("span").textContent = words.join(", ");
  changes.hidden = !words.length;
}

if (changes) setInterval(ask, EVERY);
