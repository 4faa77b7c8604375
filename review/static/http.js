// Requests to the review app, as the signed-in reader.

const csrf = () => document.querySelector('meta[name="csrf"]')?.content ?? "";

/** POST fields (an object or FormData) and return the Response; an expired session leads to the sign-in page. */
export async function post(url, fields = {}) {
  const body = fields instanceof FormData ? fields : new URLSearchParams(fields);
  const answer = await fetch(url, { method: "POST", body, headers: { "X-CSRF-Token": csrf(), Accept: "application/json" } });
  if (answer.status === 401) location.assign("/sign-in?next=" + encodeURIComponent(location.pathname));
  return answer;
}

/** Return the sentence of an error response. */
export async function sentence(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return "The review app does not answer; try again.";
  }
}

/** Show a message for `seconds`; screen readers announce it. */
export function say(words, seconds = 4) {
  const place = document.getElementById("says");
  place.textContent = words;
  clearTimeout(say.later);
  say.later = setTimeout(() => (place.textContent = ""), seconds * 1000);
}
