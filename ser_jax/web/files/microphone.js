// The microphone: blocks of samples while it is on, a WAV file of all of them, and a socket that hears them at once.

/** Opens the microphone. `hear` gets each block; returns the rate and a function that stops and gives all blocks. */
export async function open(hear) {
  if (!navigator.mediaDevices) {
    throw new Error("A browser lets a page use the microphone only at https:// or on this very machine.");
  }
  const plain = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
  const context = new AudioContext();
  const release = async () => {
    stream.getTracks().forEach((track) => track.stop());
    await context.close();
  };
  try {
    await context.audioWorklet.addModule("worklet.js");
    await context.resume();
  } catch (error) {
    await release();
    throw error;
  }
  const blocks = [];
  const gather = new AudioWorkletNode(context, "gather", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  const complete = new Promise((resolve) => {
    gather.port.onmessage = ({ data }) => {
      if (data === null) { resolve(); return; }
      if (!data.length) return;
      blocks.push(data);
      hear(data);
    };
  });
  context.createMediaStreamSource(stream).connect(gather);
  const stop = async () => {
    gather.port.postMessage("end");
    await complete;
    await release();
    return blocks;
  };
  return { rate: context.sampleRate, stop };
}

/** Returns samples as 16-bit integers. */
function toIntegers(samples) {
  return Int16Array.from(samples, (value) => Math.max(-32768, Math.min(32767, Math.round(value * 32768))));
}

/** Returns blocks as a WAV file: mono, 16 bits. */
export function toWav(blocks, rate) {
  const size = 2 * blocks.reduce((sum, block) => sum + block.length, 0);
  const head = new DataView(new ArrayBuffer(44));
  const text = (place, letters) => [...letters].forEach((letter, i) => head.setUint8(place + i, letter.charCodeAt(0)));
  text(0, "RIFF"); head.setUint32(4, 36 + size, true); text(8, "WAVEfmt ");
  head.setUint32(16, 16, true); head.setUint16(20, 1, true); head.setUint16(22, 1, true);
  head.setUint32(24, rate, true); head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true); head.setUint16(34, 16, true);
  text(36, "data"); head.setUint32(40, size, true);
  return new Blob([head, ...blocks.map(toIntegers)], { type: "audio/wav" });
}

/** Opens a live session; `tell` gets each message of the server. Returns functions that send a block, and end it. */
export function listen(rate, tell) {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/live`);
  socket.binaryType = "arraybuffer";
  const waiting = []; // until the server is ready
  let ready = false;
  socket.onopen = () => socket.send(JSON.stringify({ rate, channels: 1, format: "i16" }));
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.ready) {
      ready = true;
      waiting.splice(0).forEach((block) => socket.send(block));
    }
    tell(message);
  };
  return {
    send(block) {
      const integers = toIntegers(block);
      if (!ready) waiting.push(integers);
      else if (socket.readyState === WebSocket.OPEN) socket.send(integers);
    },
    end() {
      socket.onmessage = null;
      socket.close();
    },
  };
}
