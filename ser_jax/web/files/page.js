// The page: what it shows, and what it asks the server.

import * as draw from "./draw.js";
import * as microphone from "./microphone.js";

const part = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)} %`;
const LIVE_SECONDS = 10; // of the axis when a recording begins
const COLUMNS = 5; // that are drawn of each block

let model = null;
let shown = null; // what is drawn: { waveform, picture, timeline, seconds, share }
let recording = null; // while the microphone is on
let busy = false;
let sound = ""; // address of the recording that can be played

// --- What it shows ---------------------------------------------------------------------------------------------------

function say(text) {
  if (part("status").textContent !== text) part("status").textContent = text;
}

function complain(text) {
  const line = document.createElement("p");
  line.textContent = text;
  part("problem").replaceChildren(line);
  part("problem").hidden = !text;
}

function showShares(probabilities) {
  const rows = part("shares");
  const names = Object.keys(probabilities);
  if ([...rows.children].map((row) => row.dataset.name).join() !== names.join()) {
    rows.replaceChildren(...names.map((name) => {
      const row = document.createElement("tr");
      row.dataset.name = name;
      row.innerHTML = '<th scope="row"></th><td aria-hidden="true"><span class="bar"><span></span></span></td><td></td>';
      row.querySelector("th").textContent = name;
      row.querySelector("th").title = name;
      return row;
    }));
  }
  for (const row of rows.children) {
    const share = probabilities[row.dataset.name];
    row.querySelector(".bar span").style.width = `${100 * share}%`;
    row.lastElementChild.textContent = percent(share);
  }
}

function makeTracks() {
  part("tracks").append(...model.classes.flatMap((name) => {
    const label = document.createElement("span");
    label.className = "name share";
    label.textContent = label.title = name;
    const canvas = document.createElement("canvas");
    canvas.className = "share";
    canvas.dataset.name = name;
    canvas.setAttribute("role", "img");
    return [label, canvas];
  }));
  const axis = document.createElement("span");
  axis.className = "axis";
  axis.innerHTML = "<span>0 s</span><span></span>";
  part("tracks").append(document.createElement("span"), axis);
  new ResizeObserver(redraw).observe(part("tracks"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

function redraw() {
  if (!shown || part("result").hidden) return;
  const { waveform, picture, timeline, seconds, share } = shown;
  for (const id of ["picture", "picture-name"]) part(id).hidden = !picture;
  for (const track of document.querySelectorAll(".tracks .share")) track.hidden = !timeline;
  draw.waveform(part("waveform"), waveform, share);
  if (picture) draw.picture(part("picture"), picture);
  for (const canvas of document.querySelectorAll("canvas.share")) {
    if (!timeline) break;
    const { name } = canvas.dataset;
    draw.share(canvas, timeline, name, seconds);
    const last = timeline.at(-1);
    canvas.setAttribute("aria-label", `${name} over time${last ? `, at the end ${percent(last.window[name])}` : ""}`);
  }
  document.querySelector(".axis span:last-child").textContent = `${seconds.toFixed(1)} s`;
  part("reading").textContent = timeline
    ? "For each emotion: the area is what the last few seconds say, the line what everything up to there says."
    : `Nothing moves here: ${whyNotLive()}.`;
}

function whyNotLive() {
  return model.live_reason.split(";")[0]; // what follows is for those who have a terminal
}

function showAnswer(answer, name) {
  part("result").hidden = false;
  part("what").textContent = "The model hears";
  part("label").textContent = answer.label ?? "no emotion for sure";
  const odd = answer.flags.includes("clipped") ? "; clipped: the microphone was too close or too loud" : "";
  part("about").textContent = `${name}, ${answer.seconds.toFixed(2)} s${odd}`;
  showShares(answer.probabilities);
  shown = { ...answer, share: 1 };
  redraw();
  say(`Done: ${answer.label ?? "none"}, ${percent(Math.max(...Object.values(answer.probabilities)))}.`);
}

function playable(blob) {
  URL.revokeObjectURL(sound);
  sound = blob ? URL.createObjectURL(blob) : "";
  part("audio").hidden = !blob;
  if (blob) part("audio").src = sound;
  else part("audio").removeAttribute("src");
}

// --- What it asks ----------------------------------------------------------------------------------------------------

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer; is it still running?");
  }
  const answer = await response.json().catch(() => ({ reason: `the server answers with ${response.status}` }));
  if (!response.ok) throw new Error(answer.reason);
  return answer;
}

async function upload(blob) {
  if (busy) return;
  complain("");
  if (blob.size > model.limits.max_mb * 1e6) {
    complain(`The recording has ${(blob.size / 1e6).toFixed(1)} MB; at most ${model.limits.max_mb} MB are taken.`);
    return;
  }
  enable(false);
  say("Listening to it …");
  const form = new FormData();
  form.append("file", blob, "recording"); // its own name stays here
  try {
    const answer = await ask("api/predict", { method: "POST", body: form });
    playable(blob);
    showAnswer(answer, blob.name ?? "your recording");
  } catch (error) {
    say("");
    complain(error.message);
  } finally {
    enable(true);
  }
}

function enable(free) {
  busy = !free;
  part("file").disabled = part("record").disabled = !free;
  part("result").setAttribute("aria-busy", String(!free));
}

// --- The microphone --------------------------------------------------------------------------------------------------

function hear(block) {
  if (!recording) return;
  const step = Math.ceil(block.length / COLUMNS);
  for (let first = 0; first < block.length; first += step) {
    const samples = block.subarray(first, first + step);
    recording.low.push(Math.min(...samples));
    recording.high.push(Math.max(...samples));
  }
  recording.samples += block.length;
  recording.session?.send(block);
  const seconds = recording.samples / recording.rate;
  part("timer").textContent = `${seconds.toFixed(1)} s`;
  const length = Math.max(LIVE_SECONDS, seconds);
  const { low: lows, high: highs, timeline } = recording;
  shown = { waveform: { low: lows, high: highs }, picture: null, timeline, seconds: length, share: seconds / length };
  requestAnimationFrame(redraw);
  if (seconds >= model.limits.max_seconds - 0.2) stopRecording();
}

function tell(message) {
  if (!recording) return;
  if (message.reason) {
    recording.session = null;
    complain(`${message.reason}. The recording goes on; the result comes when you stop.`);
  }
  if (!message.moments) return;
  recording.timeline.push(...message.moments);
  const { so_far: shares } = message.moments.at(-1);
  const label = Object.keys(shares).reduce((best, name) => (shares[name] > shares[best] ? name : best));
  part("what").textContent = "So far the model hears";
  part("label").textContent = label;
  showShares(shares);
  say(`So far: ${label}`);
}

async function startRecording() {
  complain("");
  enable(false);
  say("Opening the microphone …");
  try {
    recording = { low: [], high: [], samples: 0, rate: 48000, timeline: model.live ? [] : null, session: null };
    const opened = await microphone.open(hear);
    Object.assign(recording, opened);
    if (model.live) recording.session = microphone.listen(opened.rate, tell);
  } catch (error) {
    recording = null;
    say("");
    complain(error.name === "NotAllowedError" ? "The browser has not let this page use the microphone." : error.message);
    enable(true);
    return;
  }
  playable(null);
  part("what").textContent = "Recording";
  part("label").textContent = "…";
  part("about").textContent = "";
  part("shares").replaceChildren();
  part("result").hidden = false;
  part("timer").hidden = false;
  part("record").textContent = "Stop";
  part("record").classList.add("on");
  part("record").disabled = false;
  say("Recording. Speak, then press Stop.");
}

async function stopRecording() {
  if (recording.stopping) return;
  recording.stopping = true;
  part("record").disabled = true;
  const { stop, rate, session } = recording;
  const blocks = await stop();
  session?.end();
  recording = null;
  part("timer").hidden = true;
  part("record").textContent = "Record";
  part("record").classList.remove("on");
  busy = false;
  await upload(microphone.toWav(blocks, rate));
}

// --- The beginning ---------------------------------------------------------------------------------------------------

function listenToUser() {
  const drop = part("drop");
  part("file").addEventListener("change", ({ target }) => {
    if (target.files.length) upload(target.files[0]);
    target.value = ""; // so that the same one can be chosen again
  });
  part("record").addEventListener("click", () => (recording ? stopRecording() : startRecording()));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over-it", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length && !recording) upload(event.dataTransfer.files[0]);
    });
  }
}

async function begin() {
  enable(false);
  try {
    model = await ask("api/model");
  } catch (error) {
    complain(error.message);
    return;
  }
  part("description").textContent = model.description;
  part("lead").textContent = `Drop a recording or speak, and see which of these the model hears: ${model.classes.join(", ")}.`;
  part("takes").textContent = `WAV, FLAC, Ogg or MP3; at most ${model.limits.max_mb} MB and ${model.limits.max_seconds} s`;
  part("live").textContent = model.live
    ? "The result moves while you speak. The microphone is used only while you record."
    : `The result comes when you stop: ${whyNotLive()}.`;
  makeTracks();
  listenToUser();
  enable(true);
}

begin();
