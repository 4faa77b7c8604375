// Keys for pages: `onKeys({ j: next, "?": help })`. Keys in form fields, or with Ctrl, Alt or Meta, are ignored.

const FIELDS = "input, select, textarea, [contenteditable]";

/** Call a function when its key is pressed; names are those of KeyboardEvent.key; letters match in either case. */
export function onKeys(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
    if (document.querySelector("dialog[open]") || event.target.closest?.(FIELDS)) return;
    const action = actions[event.key] ?? actions[event.key.toLowerCase()];
    if (action && action(event) !== false) event.preventDefault();
  });
}
