// Shared by every page: theme, list of keys, links by key, and confirmation of important changes.

import { onKeys } from "./keys.js";

const root = document.documentElement;
const keys = document.getElementById("keys");
const theme = document.getElementById("theme");
const help = document.getElementById("help");
let going = false;

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : !matchMedia("(prefers-color-scheme: light)").matches;
}

theme.hidden = help.hidden = false;
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  document.cookie = `theme=${root.dataset.theme}; Path=/; Max-Age=31536000; SameSite=Lax`;
});
help.addEventListener("click", () => keys.showModal());

const links = Object.fromEntries([...document.querySelectorAll("[data-go]")].map((link) => [link.dataset.go, link]));
document.addEventListener(
  "keydown",
  (event) => {
    const link = going && !event.ctrlKey && !event.altKey && !event.metaKey ? links[event.key] : undefined;
    going = false;
    if (link) {
      event.preventDefault(); // tells `onKeys` that the key is already handled
      location.assign(link.href);
    }
  },
  true,
);

onKeys({
  "?": () => keys.showModal(),
  g: () => {
    going = true;
    setTimeout(() => (going = false), 1500);
  },
});

for (const form of document.querySelectorAll("form[data-ask]")) {
  form.addEventListener("submit", (event) => {
    if (!confirm(form.dataset.ask)) event.preventDefault();
  });
}
