// The page: pictures in, the server's answers out. Every word comes from the server, in the reader's language.
"use strict";

const { words, limit, most, suffixes, csvHeader } = JSON.parse(document.getElementById("settings").textContent);
const byId = (id) => document.getElementById(id);
const language = document.documentElement.lang;
const byTouch = matchMedia("(pointer: coarse)").matches;
const [preview, picker, result, said] = [byId("preview"), document.querySelector("#drop input"), byId("result"), byId("said")];
let newest = 0;  // the number of the newest question: an answer to an older one is dropped
let opened = null;  // the picture that the answer is about

function say(key, values = {}) {
  return words[key].replace(/\{(\w+)\}/g, (_, name) => ({ limit: limit / 1e6, ...values })[name]);
}

function button(key, act, className = "") {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", textContent: say(key), onclick: act, className });
  return made;
}

// ---- asking the server ---------------------------------------------------------------------------------

async function send(url, request) {
  let response;
  try {
    response = await fetch(url, request);
  } catch {
    throw new Problem("offline", false);
  }
  if (response.status === 413) throw new Problem("large");
  if (response.status === 503) throw new Problem("crowded", false);
  if (!response.ok) throw new Problem("failed", false);
  return response;
}

const read = (content) => content.catch(() => { throw new Problem("offline", false); });

const SILENCE = 60_000;  // milliseconds: the server sends a sign of life every 15 seconds while it computes

// Return the events of a stream, or give up on a server that has fallen silent: a lost network breaks no connection.
async function eventsOf(response) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  for (let events = ""; ;) {
    let timer;
    const silence = new Promise((_, reject) => { timer = setTimeout(reject, SILENCE); });
    const { done, value } = await read(Promise.race([reader.read(), silence]));
    clearTimeout(timer);
    if (done) return events;
    events += decoder.decode(value, { stream: true });
  }
}

// Return what the server's function `api` answers about a picture. Gradio's HTTP interface: upload, call, wait.
async function ask(api, file, ...more) {
  if (file.size > limit) throw new Problem("large");
  await file.slice(0, 1).arrayBuffer().catch(() => { throw new Problem("lost"); });
  const form = new FormData();
  form.append("files", file, file.name.split("/").pop());
  const [path] = await read((await send("gradio_api/upload", { method: "POST", body: form })).json());
  const data = [{ path, orig_name: file.name, meta: { _type: "gradio.FileData" } }, language, ...more];
  const headers = { "Content-Type": "application/json" };
  const call = await send(`gradio_api/call/${api}`, { method: "POST", headers, body: JSON.stringify({ data }) });
  const { event_id: event } = await read(call.json());
  const events = await eventsOf(await send(`gradio_api/call/${api}/${event}`));
  const complete = events.match(/event: complete\ndata: (.*)\n/);
  if (!complete) throw new Problem(events.includes("event: error") ? "failed" : "offline", false);
  return JSON.parse(complete[1])[0];
}

// ---- one picture ---------------------------------------------------------------------------------------

async function answerFor(file) {
  const own = ++newest;
  opened = file;
  show(file);
  wait(say("busy"));
  try {
    const answer = await (byId("known") ? ask("classify_with_metadata", file, known()) : ask("classify", file));
    if (own !== newest) return;
    result.innerHTML = answer;  // the server has escaped what is in it
    const headline = result.querySelector(".headline");
    said.textContent = headline ? headline.textContent : "";
    if (headline) result.append(tools(button("print", () => window.print())));
  } catch (problem) {
    if (own !== newest) return;
    complain(problem, button("again", () => answerFor(file), "main"));
  }
  result.setAttribute("aria-busy", "false");
}

// Return what has been said of the person in the picture; fields that are left open say nothing.
const known = () => Object.fromEntries([...byId("known").elements].filter((field) => field.value).map((field) => [field.name, field.value]));

// An answer is about what the fields say, so it is asked for anew when they change.
byId("known")?.addEventListener("change", () => { if (opened && !preview.hidden) answerFor(opened); });

function wait(sentence) {
  const line = document.createElement("p");
  line.className = "busy";
  line.textContent = sentence;
  result.replaceChildren(line);
  result.setAttribute("aria-busy", "true");
  said.textContent = sentence;
}

function complain(problem, ...remedies) {
  if (!(problem instanceof Problem)) throw problem;
  const box = document.createElement("div");
  box.className = "problem";
  box.setAttribute("role", "alert");
  const sentence = document.createElement("p");
  sentence.textContent = say(problem.key);
  box.append(sentence, ...(problem.ofFile ? [] : [tools(...remedies)]));
  result.replaceChildren(box);
  result.setAttribute("aria-busy", "false");
  said.textContent = "";
}

function tools(...buttons) {
  const line = document.createElement("p");
  line.className = "tools";
  line.append(...buttons);
  return line;
}

function show(file) {
  const image = preview.querySelector("img"), blind = preview.querySelector("p");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.hidden = false;
  blind.hidden = true;
  image.onerror = () => [image.hidden, blind.hidden] = [true, false];  // such as HEIC, in most browsers
  preview.querySelector("bdi").textContent = file.name;
  preview.hidden = false;
  byId("drop").classList.add("small");
}

// ---- many pictures -------------------------------------------------------------------------------------

const batch = { entries: [], rows: [], stopped: false, turn: 0 };  // a new turn ends the one before

const isZip = (file) => /\.zip$/i.test(file.name);
const isHidden = (name) => name.split("/").some((part) => part.startsWith(".") || part === "__MACOSX");
const isPicture = (name) => suffixes.some((suffix) => name.toLowerCase().endsWith(suffix)) && !isHidden(name);

// Return [{name, open}] or [{name, problem}] for each picture in the files.
async function listed(files) {
  const entries = [];
  for (const file of files) {
    if (!isZip(file)) {
      entries.push({ name: file.name, open: async () => file });
      continue;
    }
    try {
      const wanted = (name) => isPicture(name) || (isZip({ name }) && !isHidden(name));
      const found = (await zipEntries(file, wanted, limit))
        .map((entry) => isZip(entry) ? { name: entry.name, problem: new Problem("zip_inner") } : entry);
      entries.push(...found.length ? found : [{ name: file.name, problem: new Problem("zip_empty") }]);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      entries.push({ name: file.name, problem });
    }
  }
  return entries;
}

async function answerForMany(files) {
  const own = ++batch.turn;
  ++newest;
  const entries = await listed(files);
  Object.assign(batch, { entries: entries.slice(0, most), rows: [], cut: entries.length > most });
  byId("batch").querySelector("tbody").replaceChildren();
  byId("batch").hidden = false;
  preview.hidden = true;
  byId("drop").classList.add("small");
  result.replaceChildren();
  byId("batch").scrollIntoView({ block: "nearest" });
  if (own === batch.turn) await goOn();
}

// Ask for the pictures that have no row yet. A picture that is opened meanwhile has its answer above the table.
async function goOn() {
  const own = ++batch.turn;
  batch.stopped = false;
  while (batch.rows.length < batch.entries.length && !batch.stopped) {
    const entry = batch.entries[batch.rows.length];
    progress(say("busy_many", { number: batch.rows.length + 1, total: batch.entries.length }));
    batchTools(button("stop", () => batch.stopped = true));
    let row;
    try {
      row = await rowOf(entry);
    } catch (problem) {
      if (own !== batch.turn) return;
      if (!(problem instanceof Problem)) throw problem;
      progress(say(problem.key), true);
      batchTools(button("go_on", goOn, "main"), ...saving());
      return;
    }
    if (own !== batch.turn) return;
    batch.rows.push(row);
    byId("batch").querySelector("tbody").append(tableRow(entry, row));
  }
  finish();
}

async function rowOf(entry) {
  try {
    if (entry.problem) throw entry.problem;
    return await ask("row", await entry.open());
  } catch (problem) {
    if (!(problem instanceof Problem) || !problem.ofFile) throw problem;
    const name = /^[=+\-@\t\r]/.test(entry.name) ? `./${entry.name}` : entry.name;  // no formula of a spreadsheet
    const cells = csvHeader.map((column) => ({ image: name, error: say(problem.key) })[column] ?? "");
    return { mark: "unread", answer: say(problem.key), first: "", csv: cells };
  }
}

function finish() {
  const count = (mark) => batch.rows.filter((row) => row.mark === mark).length;
  const total = batch.entries.length, number = batch.rows.length;
  if (number < total) {
    progress(say("stopped", { number, total }));
    batchTools(button("go_on", goOn, "main"), ...saving());
    return;
  }
  const numbers = { total, malignant: count("malignant"), unlike: count("unlike"), unread: count("unread") };
  progress(say("done_many", numbers) + (batch.cut ? ` ${say("many", { limit: most })}` : ""));
  batchTools(...saving());
}

const saving = () => [button("save", save, "main"), button("print", () => window.print())];

function progress(sentence, alarming = false) {
  byId("progress").textContent = sentence;
  byId("progress").className = alarming ? "problem" : "";
}

function batchTools(...buttons) {
  byId("batch").querySelector(".tools").replaceChildren(...buttons);
}

function tableRow(entry, { answer, mark, first }) {
  const row = document.createElement("tr");
  row.className = mark;
  const name = document.createElement("th"), isolated = document.createElement("bdi");
  name.scope = "row";
  isolated.textContent = entry.name;
  if (mark === "unread") {
    name.append(isolated);
  } else {
    const link = document.createElement("button");
    Object.assign(link, { type: "button", className: "link", title: say("show", { name: entry.name }) });
    link.append(isolated);
    link.onclick = async () => {
      scrollTo({ top: 0 });
      answerFor(await entry.open());
    };
    name.append(link);
  }
  const cells = [answer, first].map((text) => {
    const cell = document.createElement("td");
    cell.textContent = text;
    return cell;
  });
  cells[1].className = "number";
  row.append(name, ...cells);
  return row;
}

function save() {
  const quoted = (cell) => /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
  const lines = [csvHeader, ...batch.rows.map((row) => row.csv)].map((cells) => cells.map(quoted).join(",") + "\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", ...lines], { type: "text/csv" }));  // the mark is for Excel
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// ---- ways for pictures to come in ----------------------------------------------------------------------

function take(files) {
  if (files.length === 1 && !isZip(files[0])) answerFor(files[0]);
  else if (files.length) answerForMany([...files]);
}

picker.addEventListener("change", () => {
  const files = [...picker.files];
  picker.value = "";  // so that the same file can be chosen again
  take(files);
});
addEventListener("paste", (event) => take(event.clipboardData.files));
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  const nothing = () => complain(new Problem("zip_empty"));
  dropped(event.dataTransfer).then((files) => files.length ? take(files) : nothing(), nothing);
});

// Return the files that were dropped; of a folder, the pictures and zip files in it and below it.
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const files = (await Promise.all(entries.map(filesIn))).flat();
  return files.filter((file) => isPicture(file.name) || isZip(file));
}

async function filesIn(entry) {
  if (entry.isFile) {
    const file = await new Promise((found, lost) => entry.file(found, lost));
    return [new File([file], entry.fullPath.slice(1), { type: file.type })];  // its folders tell it from others
  }
  const reader = entry.createReader(), files = [];
  for (;;) {  // a browser gives a hundred at a time
    const some = await new Promise((found, lost) => reader.readEntries(found, lost));
    if (!some.length) return files;
    for (const inner of some) files.push(...await filesIn(inner));
  }
}

for (const example of document.querySelectorAll("#examples button")) {
  example.onclick = async () => {
    try {
      const content = await read((await send(example.querySelector("img").src)).blob());
      answerFor(new File([content], example.dataset.name, { type: content.type }));
    } catch (problem) {
      complain(problem, button("again", example.onclick, "main"));
    }
  };
}

// ---- the camera: a phone's file chooser has its own, and only a safe page may use another ---------------

const viewfinder = byId("viewfinder"), video = viewfinder.querySelector("video");

async function offerCamera() {
  if (byTouch || !window.isSecureContext || !navigator.mediaDevices) return;
  const devices = await navigator.mediaDevices.enumerateDevices();
  byId("camera").hidden = !devices.some((device) => device.kind === "videoinput");
}

byId("camera").onclick = async () => {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1920 } } });
    await video.play();
    viewfinder.showModal();
  } catch (error) {
    release();
    complain(new Problem(error.name === "NotAllowedError" ? "camera_refused" : "camera_missing"));
  }
};
viewfinder.querySelector("[value=close]").onclick = () => viewfinder.close();
viewfinder.querySelector("[value=take]").onclick = () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((content) => content && answerFor(new File([content], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", 0.95);
  viewfinder.close();
};
viewfinder.addEventListener("close", release);

function release() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

if (byTouch) picker.accept = "image/*";  // a wider list hides the camera in the chooser of some phones
offerCamera();
