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
const made = { audio: "", csv: "", textgrid: "" }; // addresses of what can be played and kept

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
  part("tracks").append(document.createElement("span"), axis);
  part("tracks").addEventListener("click", (event) => {
    if (event.target.tagName !== "CANVAS" || part("audio").hidden) return;
    part("audio").currentTime = (event.offsetX / event.target.clientWidth) * shown.seconds;
    part("audio").play().catch(() => {}); // paused or forgotten before it began; errors: cannotPlay
  });
  new ResizeObserver(redraw).observe(part("tracks"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

function redraw() {
  if (!shown || part("result").hidden) return;
  const { waveform, picture, timeline, seconds, share } = shown;
  for (const id of ["picture", "picture-name", "heat-legend"]) part(id).hidden = !picture;
  for (const track of document.querySelectorAll(".tracks .share, .of-shares")) track.hidden = !timeline;
  draw.waveform(part("waveform"), waveform, share);
  if (picture) {
    draw.picture(part("picture"), picture);
    draw.scale(part("heat"));
  }
  for (const canvas of document.querySelectorAll("canvas.share")) {
    if (!timeline) break;
    const { name } = canvas.dataset;
    draw.share(canvas, timeline, name, seconds);
    const last = timeline.at(-1);
    canvas.setAttribute("aria-label", `${name} over time${last && name in last.window ? `, at the end ${percent(last.window[name])}` : ""}`);
  }
  drawAxis(seconds);
  part("reading").textContent = timeline ? "" : `Nothing moves here: ${whyNotLive()}.`;
  movePlayhead();
}

function drawAxis(seconds) {
  const axis = document.querySelector(".axis");
  axis.replaceChildren(...draw.ticks(seconds, axis.clientWidth).map(({ time, text }) => {
    const tick = document.createElement("span");
    tick.textContent = text;
    tick.style.left = `${(100 * time) / seconds}%`;
    return tick;
  }));
  axis.setAttribute("role", "img");
  axis.setAttribute("aria-label", `Time axis from 0 to ${seconds.toFixed(1)} s`);
}

function movePlayhead() {
  const audio = part("audio");
  part("playhead").hidden = audio.hidden || !shown;
  if (part("playhead").hidden) return;
  const { offsetLeft, offsetWidth } = part("waveform");
  part("playhead").style.left = `${offsetLeft + offsetWidth * Math.min(1, audio.currentTime / shown.seconds)}px`;
}

function followPlayhead() {
  movePlayhead();
  if (!part("audio").paused) requestAnimationFrame(followPlayhead);
}

/** The server reads more kinds of files than browsers play. */
function cannotPlay() {
  part("audio").hidden = true;
  part("seek").textContent = "This browser cannot play this kind of file; the result is the same.";
  movePlayhead();
}

function whyNotLive() {
  return model.live_reason.split(";")[0]; // what follows is for those who have a terminal
}

function forget() {
  part("result").hidden = true;
  part("audio").removeAttribute("src");
  part("audio").load(); // without it the recording plays on, into the microphone too
  part("audio").hidden = part("downloads").hidden = part("seek").hidden = true;
  keep("audio", null);
  for (const kind of ["csv", "textgrid"]) keep(kind, null);
  shown = null;
}

/** Makes an address for what can be played or kept, and forgets the one before. */
function keep(kind, content) {
  URL.revokeObjectURL(made[kind]);
  made[kind] = content === null ? "" : URL.createObjectURL(content);
}

// What a flag means to a person.
const ODD = {
  clipped: "the microphone was too close or too loud",
  "low rate": "the upper half of speech is missing, as on a telephone",
  surround: "the mean of all channels is heard",
  "out of phase": "the channels cancel each other out, nearly",
  "silent channel": "one channel is silent",
  quiet: "the microphone was far away or turned down",
  "near-silent": "there is hardly any sound",
  "length not in header": "the file may have been cut",
  "quieter than training": "much quieter than what this model has heard",
  "louder than training": "much louder than what this model has heard",
  "noisier than training": "more noise than in what this model has heard",
  "narrower band than training": "high sounds are missing that this model has always heard, as on a telephone",
  "shorter than training": "shorter than what this model has heard",
  "longer than training": "longer than what this model has heard",
  "other sound than training": "it does not sound like what this model has heard: another room, microphone or kind of sound",
  "nobody enrolled": "this model was scored with recordings of each speaker; without yours it answers as for a stranger, less surely",
};

function showAnswer(answer, name) {
  part("result").hidden = false;
  part("what").textContent = answer.long ? "On the whole the model hears" : "The model hears";
  part("label").textContent = answer.label ?? "no emotion for sure";
  // "longer than training: longer than what this model has heard" would say it twice.
  const told = (flag) => (flag.endsWith(" than training") ? ODD[flag] : `${flag}: ${ODD[flag]}`);
  const odd = answer.flags.filter((flag) => flag in ODD).map((flag) => `; ${told(flag)}`).join("");
  const long = `${(answer.seconds / 60).toFixed(1)} minutes; longer than ${model.limits.max_seconds} s, so look at the timeline rather than at one answer`;
  part("about").textContent = `${name}, ${answer.long ? long : `${answer.seconds.toFixed(2)} s`}${odd}`;
  showShares(answer.probabilities);
  shown = { ...answer, share: 1 };
  redraw();
  const shares = Object.values(answer.probabilities);
  say(`Done: ${answer.label ?? "none"}${shares.length ? `, ${percent(Math.max(...shares))}` : ""}.`);
}

function offer(blob, files, name) {
  keep("audio", blob);
  part("audio").src = made.audio;
  part("audio").hidden = part("seek").hidden = false;
  part("seek").textContent = "Click into the tracks to play from there.";
  part("downloads").hidden = !files;
  const endings = { csv: "csv", textgrid: "TextGrid" };
  for (const [kind, ending] of Object.entries(files ? endings : {})) {
    keep(kind, new Blob([files[kind]], { type: "text/plain" }));
    part(kind).href = made[kind];
    part(kind).download = `${name.replace(/\.[^.]*$/, "")}.${ending}`;
  }
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
  complain("");
  forget();
  if (blob.size > model.limits.max_mb * 1e6) {
    complain(`The recording has ${(blob.size / 1e6).toFixed(1)} MB; at most ${model.limits.max_mb} MB are taken.`);
    enable(true);
    return;
  }
  enable(false);
  say("Listening to it …");
  const form = new FormData();
  form.append("file", blob, "recording"); // its own name stays here
  form.append("files", "csv,textgrid");
  try {
    const answer = await ask("api/predict", { method: "POST", body: form });
    const name = blob.name ?? "your recording";
    offer(blob, answer.files, name);
    showAnswer(answer, name);
  } catch (error) {
    say("");
    complain(error.message);
  } finally {
    enable(true);
  }
}

function enable(free) {
  busy = !free;
  // Not disabled: they would lose the focus.
  for (const id of ["file", "record"]) part(id).setAttribute("aria-disabled", String(busy && !(id === "record" && recording)));
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
  const label = Object.keys(shares).reduce((best, name) => (shares[name] > (shares[best] ?? 0) ? name : best), "no speech");
  part("what").textContent = "So far the model hears";
  part("label").textContent = label;
  showShares(shares);
  say(`So far: ${label}`);
}

async function startRecording() {
  complain("");
  forget();
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
  enable(false);
  part("what").textContent = "Recording";
  part("label").textContent = "…";
  part("about").textContent = "";
  part("shares").replaceChildren();
  part("result").hidden = false;
  part("timer").hidden = false;
  part("record").textContent = "Stop";
  part("record").classList.add("on");
  say("Recording. Speak, then press Stop.");
}

async function stopRecording() {
  if (recording.stopping) return;
  recording.stopping = true;
  const { stop, rate, session } = recording;
  const blocks = await stop();
  session?.end();
  recording = null;
  part("timer").hidden = true;
  part("record").textContent = "Record";
  part("record").classList.remove("on");
  await upload(microphone.toWav(blocks, rate));
}

// --- The beginning ---------------------------------------------------------------------------------------------------

function take({ files, folder }) {
  if (recording) {
    complain("The microphone is on: press Stop first, then drop the recording again.");
  } else if (busy) {
    complain("Another recording is being listened to: drop this one again when it is done.");
  } else if (files.length === 1 && !folder) {
    upload(files[0]);
  } else {
    forget();
    const what = folder ? "A folder was" : `${files.length || "No"} files were`;
    complain(`${what} dropped, and nothing is used: the page takes one recording at a time. ser-jax predict takes many.`);
  }
}

function listenToUser() {
  part("file").addEventListener("click", (event) => busy && event.preventDefault());
  part("file").addEventListener("change", ({ target }) => {
    if (target.files.length) take({ files: target.files });
    target.value = ""; // so that the same one can be chosen again
  });
  part("record").addEventListener("click", () => {
    if (recording?.stop) stopRecording();
    else if (!busy) startRecording();
  });
  part("audio").addEventListener("play", followPlayhead);
  part("audio").addEventListener("error", cannotPlay);
  for (const kind of ["seeked", "timeupdate", "pause"]) part("audio").addEventListener(kind, movePlayhead);
  window.onFiles = take;
  window.early.splice(0).slice(-1).forEach(take);
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
  const { max_mb: megabytes, max_seconds: seconds, max_timeline_seconds: longest } = model.limits;
  part("takes").textContent = `WAV, FLAC, Ogg or MP3, at most ${megabytes} MB; judged as a whole up to ${seconds} s, followed over time up to ${longest / 60} minutes`;
  part("limits").replaceChildren(...model.card.map((text) => {
    const line = document.createElement("li");
    line.textContent = text;
    return line;
  }));
  part("card").hidden = false;
  part("live").textContent = model.live
    ? "The result moves while you speak. The microphone is used only while you record."
    : `The result comes when you stop: ${whyNotLive()}.`;
  makeTracks();
  enable(true);
  listenToUser();
}

begin();
