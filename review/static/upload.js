// Upload images: one request per file, a few at a time, with progress and result.

const AT_ONCE = 3;
const LOOK = 400; // ms between two requests for results
const form = document.getElementById("upload");
const input = document.getElementById("images");
const sent = document.getElementById("sent");
const token = form.querySelector('[name="csrf"]').value;
const waiting = []; // [file, line]
let sending = 0;
let looking = false;

function line(name) {
  const item = document.createElement("li");
  const title = document.createElement("b");
  const says = document.createElement("span");
  item.className = "panel";
  title.textContent = name;
  says.className = "says";
  says.textContent = "waiting to be sent";
  says.setAttribute("role", "status");
  item.append(title, says);
  sent.prepend(item);
  document.getElementById("sent-title").className = "";
  return item;
}

function end(item, words, kind = "refused") {
  const says = item.querySelector(".says");
  says.textContent = words;
  says.className = `says ${kind}`;
  item.dataset.done = "";
}

function add(files) {
  for (const file of files) {
    const item = line(file.name);
    if (file.size > Number(form.dataset.most)) end(item, "The file is too large; it was not sent.");
    else waiting.push([file, item]);
  }
  while (sending < AT_ONCE && waiting.length) send(...waiting.shift());
}

function send(file, item) {
  sending += 1;
  const says = item.querySelector(".says");
  const progress = document.createElement("progress");
  progress.setAttribute("aria-label", `Sending ${file.name}`);
  says.replaceChildren(progress);
  const request = new XMLHttpRequest(); // fetch does not report upload progress
  request.open("POST", "/api/scans");
  request.responseType = "json";
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.setRequestHeader("X-File-Name", encodeURIComponent(file.name));
  request.setRequestHeader("X-CSRF-Token", token);
  request.setRequestHeader("Accept", "application/json");
  request.upload.onprogress = (event) => {
    progress.max = event.total || 1;
    progress.value = event.loaded;
  };
  request.onload = () => {
    if (request.status === 401) location.assign("/sign-in?next=/upload");
    const scan = request.response?.scans?.[0];
    if (!scan) return end(item, request.response?.detail ?? "The review app did not accept it; try again.");
    item.dataset.scan = scan.scan_id;
    item.append(link(scan.scan_id));
    show(item, scan);
    look();
  };
  request.onerror = () => end(item, "The upload was interrupted: the review app does not answer. Try again.");
  request.onloadend = () => {
    sending -= 1;
    add([]);
  };
  request.send(file);
}

function link(scan) {
  const to = document.createElement("a");
  to.href = `/scans/${scan}`;
  to.textContent = `Scan ${scan}`;
  return to;
}

function show(item, scan) {
  if (scan.done) end(item, scan.sentence, scan.flagged ? "flagged" : scan.probability == null && !scan.hidden ? "refused" : "");
  else item.querySelector(".says").textContent = scan.sentence;
}

async function look() {
  if (looking) return;
  looking = true;
  for (;;) {
    const open = [...sent.querySelectorAll("[data-scan]:not([data-done])")].slice(0, 50);
    if (!open.length) break;
    try {
      const wanted = new URLSearchParams(open.map((item) => ["scan", item.dataset.scan]));
      const answer = await fetch(`/upload/results?${wanted}`, { headers: { Accept: "application/json" } });
      if (answer.ok) {
        const scans = new Map((await answer.json()).scans.map((scan) => [String(scan.scan_id), scan]));
        for (const item of open) if (scans.has(item.dataset.scan)) show(item, scans.get(item.dataset.scan));
      }
    } catch {
      // the review app may be restarting; try again
    }
    await new Promise((then) => setTimeout(then, LOOK));
  }
  looking = false;
}

form.querySelector(".hint").hidden = false;
form.querySelector("button").hidden = true; // files are sent as soon as they are chosen
input.required = false;
input.addEventListener("change", () => {
  add([...input.files]);
  input.value = "";
});
form.addEventListener("submit", (event) => event.preventDefault());
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    form.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) form.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  form.classList.remove("over");
  add([...event.dataTransfer.files]);
});
look();
