// A list by keys, and a word when there is something new: lines never move by themselves.

import { onKeys } from "./keys.js";

const EVERY = 10_000; // ms between two questions
const films = [...document.querySelectorAll("[data-film]")];
const news = document.getElementById("news");
const PLACE = "pneumowatch-film"; // the line that was opened last, for coming back to it

function move(step) {
  const at = films.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : films.length - 1) : at + step;
  (films[next] ?? (next < 0 ? document.getElementById("search") : document.querySelector("[rel=next]")))?.focus();
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
  r: () => press("#news a"),
  "/": () => {
    const field = document.getElementById("search");
    if (!field) return false;
    field.focus();
    field.select();
  },
});

for (const film of films) {
  film.addEventListener("click", () => sessionStorage.setItem(PLACE, film.pathname));
}
films.find((film) => film.pathname === sessionStorage.getItem(PLACE))?.focus({ preventScroll: true });

let tag = "";
async function ask() {
  if (document.hidden) return;
  const url = "/api/news?since=" + encodeURIComponent(news.dataset.since);
  const answer = await fetch(url, { headers: tag ? { "If-None-Match": tag } : {} }).catch(() => null);
  if (!answer?.ok) return; // nothing new, or the desk is away: the list stays as it is
  tag = answer.headers.get("ETag") ?? "";
  tell(await answer.json());
}

function tell({ entered, judged }) {
  const words = [];
  if (entered) words.push(entered === 1 ? "1 new film" : `${entered} new films`);
  if (judged) words.push(judged === 1 ? "1 film was judged" : `${judged} films were judged`);
  news.querySelector("span").textContent = words.join(", ");
  news.hidden = !words.length;
}

if (news) setInterval(ask, EVERY);
