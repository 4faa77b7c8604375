// Keys for pages: `onKeys({ j: next, "?": help })`. Whoever types into a field, or holds Ctrl, Alt or Meta, is left alone.

const FIELDS = "input, select, textarea, [contenteditable]";

/** Call a function when its key is pressed; keys are as KeyboardEvent.key has them, letters in either case. */
export function onKeys(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
    if (document.querySelector("dialog[open]") || event.target.closest?.(FIELDS)) return;
    const action = actions[event.key] ?? actions[event.key.toLowerCase()];
    if (action && action(event) !== false) event.preventDefault();
  });
}
