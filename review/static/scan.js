// The page of one scan: its viewer and its keys.

import { onKeys } from "./keys.js";
import { sentence } from "./http.js";
import { Viewer } from "./viewer.js";

const STEP = 60; // CSS pixels that an arrow moves the image
const figure = document.getElementById("viewer");
const note = document.getElementById("image-note");
const KEPT =
  "The image file is gone from its folder. This is the stored reduced image, square, as the model saw it.";

async function picture(url) {
  const answer = await fetch(url, { headers: { Accept: "image/png, application/json" } });
  if (!answer.ok) throw new Error(await sentence(answer));
  return [await createImageBitmap(await answer.blob()), answer.headers.get("X-Image-Source")];
}

async function open(canvas) {
  const viewer = new Viewer(canvas);
  const tools = figure.querySelector(".tools");
  const actions = does(viewer, tools);
  tools.addEventListener("click", (event) => actions[event.target.closest("button")?.dataset.do]?.());
  onKeys({
    "+": actions.in, "=": actions.in, "-": actions.out, f: actions.fit, 0: actions.reset, i: actions.invert,
    w: actions.window, m: actions.map,
    ",": () => viewer.window(-8, 0), ".": () => viewer.window(8, 0),
    "[": () => viewer.window(0, -16), "]": () => viewer.window(0, 16),
    "<": () => actions.strength(-10), ">": () => actions.strength(10),
    // `moveBy` returns false if the whole image is visible: the arrow keys then scroll the page
    ArrowLeft: () => viewer.moveBy(STEP, 0), ArrowRight: () => viewer.moveBy(-STEP, 0),
    ArrowUp: () => viewer.moveBy(0, STEP), ArrowDown: () => viewer.moveBy(0, -STEP),
  }); // prettier-ignore
  note.textContent = "The image is loading …";
  canvas.hidden = tools.hidden = false;
  try {
    const [image, source] = await picture(figure.dataset.image);
    viewer.show(image);
    note.textContent = source === "kept" ? KEPT : "";
  } catch (error) {
    canvas.hidden = tools.hidden = true;
    note.textContent = error.message;
  }
  // rendered while the reader looks at this image, so that the next case opens at once
  if (figure.dataset.prefetch) fetch(figure.dataset.prefetch, { method: "HEAD" });
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
        viewer.lay((await picture(figure.dataset.map))[0]);
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

/** Poll the result of a waiting scan, then reload the page. */
async function wait(scan) {
  try {
    const answer = await fetch(`/upload/results?scan=${scan}`, { headers: { Accept: "application/json" } });
    if (answer.ok && (await answer.json()).scans.every((one) => one.done)) return location.reload();
  } catch {
    // the review app may be restarting; try again
  }
  setTimeout(wait, 1000, scan);
}

function judging() {
  const form = document.getElementById("judge");
  const comment = document.getElementById("comment");
  let sent = false; // a repeated key must not record a second verdict, nor one on the next scan
  form?.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
  });
  // the browser's back button restores this page, whose form must work again
  window.addEventListener("pageshow", () => (sent = false));
  // while a verdict is being sent, keys are ignored: `z` would take back the previous verdict
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
const canvas = figure.querySelector("canvas");
if (canvas) open(canvas);
if (figure.dataset.waits) wait(figure.dataset.waits);
