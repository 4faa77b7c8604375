// Requests to the review app, as the signed-in reader.

const csrf = () => document.querySelector('meta[name="csrf"]')?.content ?? "";

/** POST fields (an object or FormData) and return the Response; a session that is over leads to the sign-in. */
export async function post(url, fields = {}) {
  const body = fields instanceof FormData ? fields : new URLSearchParams(fields);
  const answer = await fetch(url, { method: "POST", body, headers: { "X-CSRF-Token": csrf(), Accept: "application/json" } });
  if (answer.status === 401) location.assign("/sign-in?next=" + encodeURIComponent(location.pathname));
  return answer;
}

/** The sentence of a response that says what is wrong. */
export async function sentence(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return "The review app does not answer; try again.";
  }
}

/** Say something to everybody, eyes and screen readers alike; it fades after a while. */
export function say(words, seconds = 4) {
  const place = document.getElementById("says");
  place.textContent = words;
  clearTimeout(say.later);
  say.later = setTimeout(() => (place.textContent = ""), seconds * 1000);
}
