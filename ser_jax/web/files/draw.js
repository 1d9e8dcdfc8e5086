// Pictures of a recording on canvases: the waveform, the log-mel spectrogram, and a class's share over time.

const STOPS = [[12, 14, 40], [70, 25, 110], [170, 50, 105], [240, 125, 60], [252, 240, 180]]; // quiet to loud

/** Makes a canvas as fine as the screen; returns its context and its size in pixels of the page. */
function prepare(canvas) {
  const scale = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return { context, width, height };
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Draws columns between low[i] and high[i], in [-1, 1]; `share` of the width is theirs. */
export function waveform(canvas, { low, high }, share = 1) {
  const { context, width, height } = prepare(canvas);
  const peak = Math.max(0.05, ...high, ...low.map((value) => -value));
  const step = (width * share) / low.length;
  context.fillStyle = colour("--line");
  context.fillRect(0, height / 2 - 0.5, width, 1);
  context.fillStyle = colour("--accent");
  for (let i = 0; i < low.length; i += 1) {
    const top = (1 - high[i] / peak) * height / 2;
    const bottom = (1 - low[i] / peak) * height / 2;
    context.fillRect(i * step, top, Math.max(step, 0.6), Math.max(bottom - top, 1));
  }
}

/** Draws bytes of loudness, column after column, low bands first; they stand at the bottom. */
export function picture(canvas, { columns, bands, pixels }) {
  const bytes = Uint8Array.from(atob(pixels), (letter) => letter.charCodeAt(0));
  const image = new ImageData(columns, bands);
  for (let column = 0; column < columns; column += 1) {
    for (let band = 0; band < bands; band += 1) {
      const place = ((bands - 1 - band) * columns + column) * 4;
      image.data.set([...heat(bytes[column * bands + band] / 255), 255], place);
    }
  }
  const small = new OffscreenCanvas(columns, bands);
  small.getContext("2d").putImageData(image, 0, 0);
  const { context, width, height } = prepare(canvas);
  context.drawImage(small, 0, 0, width, height);
}

/** Draws the colours of `picture` from quiet to loud. */
export function scale(canvas) {
  const { context, width, height } = prepare(canvas);
  for (let x = 0; x < width; x += 1) {
    context.fillStyle = `rgb(${heat(x / width).map(Math.round).join()})`;
    context.fillRect(x, 0, 1, height);
  }
}

const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];

/** Returns round times in s for an axis, `width` pixels of the page wide, and how each is written. */
export function ticks(seconds, width) {
  const most = Math.max(1, Math.floor(width / 64));
  const step = STEPS.find((one) => seconds / one <= most) ?? STEPS.at(-1);
  const times = Array.from({ length: Math.floor(seconds / step + 1e-9) + 1 }, (_, i) => i * step);
  return times.map((time) => ({ time, text: clock(time, step, seconds) }));
}

function clock(time, step, seconds) {
  if (seconds <= 60) return `${step < 1 ? time.toFixed(1) : time} s`;
  const [hours, minutes, rest] = [time / 3600, (time / 60) % 60, time % 60].map((value) => Math.floor(value + 1e-9));
  const two = (value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

function heat(share) {
  const place = Math.min(share * (STOPS.length - 1), STOPS.length - 1.001);
  const [from, to] = [STOPS[Math.floor(place)], STOPS[Math.floor(place) + 1]];
  return from.map((value, i) => value + (to[i] - value) * (place % 1));
}

/** Draws what each window says of a class as an area, and what everything so far says as a line. */
export function share(canvas, moments, name, seconds) {
  const { context, width, height } = prepare(canvas);
  const at = (time) => (time / seconds) * width;
  const level = (value) => height - 1 - value * (height - 3);
  context.fillStyle = colour("--line");
  context.fillRect(0, height - 1, width, 1);
  context.fillStyle = colour("--accent");
  context.globalAlpha = 0.55;
  moments.forEach((moment, i) => {
    if (!(name in moment.window)) return; // silence
    const begin = i ? moments[i - 1].end : 0; // each is drawn where it was new
    const top = level(moment.window[name]);
    context.fillRect(at(begin), top, at(moment.end) - at(begin) + 0.3, height - top);
  });
  context.globalAlpha = 1;
  context.strokeStyle = colour("--ink");
  context.lineWidth = 1.5;
  context.beginPath();
  moments.filter((moment) => name in moment.so_far)
    .forEach((moment) => context.lineTo(at(moment.end), level(moment.so_far[name])));
  context.stroke();
}
