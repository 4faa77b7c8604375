// The page of one film: its viewer, and a key for everything a reader does.

import { onKeys } from "./keys.js";
import { sentence } from "./http.js";
import { Viewer } from "./viewer.js";

const STEP = 60; // CSS pixels that an arrow moves the film
const place = document.getElementById("viewer");
const note = document.getElementById("film-note");
const KEPT =
  "The film's file is gone from its folder: this is the reduced film that was kept, square, as the model saw it.";

async function picture(url) {
  const answer = await fetch(url, { headers: { Accept: "image/png, application/json" } });
  if (!answer.ok) throw new Error(await sentence(answer));
  return [await createImageBitmap(await answer.blob()), answer.headers.get("X-Film-Source")];
}

async function open(canvas) {
  const viewer = new Viewer(canvas);
  const tools = place.querySelector(".tools");
  const actions = does(viewer, tools);
  tools.addEventListener("click", (event) => actions[event.target.closest("button")?.dataset.do]?.());
  onKeys({
    "+": actions.in, "=": actions.in, "-": actions.out, f: actions.fit, 0: actions.reset, i: actions.invert,
    w: actions.window, m: actions.map,
    ",": () => viewer.window(-8, 0), ".": () => viewer.window(8, 0),
    "[": () => viewer.window(0, -16), "]": () => viewer.window(0, 16),
    "<": () => actions.strength(-10), ">": () => actions.strength(10),
    // a film that is all in sight leaves the arrows to the page
    ArrowLeft: () => viewer.moveBy(STEP, 0), ArrowRight: () => viewer.moveBy(-STEP, 0),
    ArrowUp: () => viewer.moveBy(0, STEP), ArrowDown: () => viewer.moveBy(0, -STEP),
  }); // prettier-ignore
  note.textContent = "The film is on its way …";
  canvas.hidden = tools.hidden = false;
  try {
    const [film, source] = await picture(place.dataset.film);
    viewer.show(film);
    note.textContent = source === "kept" ? KEPT : "";
  } catch (error) {
    canvas.hidden = tools.hidden = true;
    note.textContent = error.message;
  }
  // made while this one is looked at, so that the next case is there at once
  if (place.dataset.ahead) fetch(place.dataset.ahead, { method: "HEAD" });
}

function does(viewer, tools) {
  const button = (name) => tools.querySelector(`[data-do="${name}"]`);
  const press = (name, on) => button(name)?.setAttribute("aria-pressed", String(on));
  const strength = document.getElementById("strength");
  const sign = () => {
    press("invert", viewer.inverted);
    press("window", viewer.toning);
    press("map", viewer.heated);
    viewer.canvas.classList.toggle("toning", viewer.toning);
    for (const part of tools.querySelectorAll(".strength, .legend")) part.hidden = !viewer.heated;
  };
  const show = () => {
    viewer.strength = strength.value / 100;
    viewer.draw();
  };
  strength?.addEventListener("input", show);

  async function map() {
    if (!button("map")) return;
    if (!viewer.heat) {
      try {
        viewer.lay((await picture(place.dataset.map))[0]);
      } catch (error) {
        note.textContent = error.message;
        return;
      }
    }
    viewer.heated = !viewer.heated;
    sign();
    show();
  }

  const then = (act) => () => {
    act();
    sign();
  };
  return {
    in: () => viewer.zoomBy(1.25),
    out: () => viewer.zoomBy(0.8),
    fit: () => viewer.fit(),
    invert: then(() => viewer.invert()),
    window: then(() => (viewer.toning = !viewer.toning)),
    reset: then(() => {
      viewer.toning = viewer.heated = false;
      viewer.reset();
    }),
    map,
    strength: (step) => {
      if (!viewer.heated) return;
      strength.value = Number(strength.value) + step;
      show();
    },
  };
}

/** A film that waits is looked at again, until it has its result. */
async function wait(scan) {
  try {
    const answer = await fetch(`/upload/results?scan=${scan}`, { headers: { Accept: "application/json" } });
    if (answer.ok && (await answer.json()).films.every((film) => film.done)) return location.reload();
  } catch {
    // the desk is being started anew; it is asked again
  }
  setTimeout(wait, 1000, scan);
}

function judging() {
  const form = document.getElementById("judge");
  const comment = document.getElementById("comment");
  let sent = false; // a key that bounces is no second verdict, and none on the next film
  form?.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
  });
  // gone back to from another page, the form is to be used again
  window.addEventListener("pageshow", () => (sent = false));
  // once a verdict is on its way, keys are for the next page: `z` would take back the one before
  const unsent = (act) => (event) => {
    if (!sent && !event.repeat) act();
  };
  const keys = {
    c: () => comment?.focus(),
    j: unsent(() => document.getElementById("skip")?.click()),
    z: unsent(() => document.getElementById("undo")?.requestSubmit()),
  };
  for (const button of form?.querySelectorAll("[data-key]") ?? []) {
    keys[button.dataset.key] = unsent(() => form.requestSubmit(button));
  }
  onKeys(keys);
  comment?.addEventListener("keydown", (event) => {
    if (event.key === "Escape") comment.blur();
  });
}

judging();
const canvas = place.querySelector("canvas");
if (canvas) open(canvas);
if (place.dataset.waits) wait(place.dataset.waits);
