// Runs in the thread of the sound: gathers samples of the first channel into blocks of a tenth of a second.

class Gather extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(Math.round(sampleRate / 10));
    this.filled = 0;
    this.ended = false;
    this.port.onmessage = () => { // the last block, which need not be full
      this.port.postMessage(this.block.slice(0, this.filled));
      this.port.postMessage(null);
      this.ended = true;
    };
  }

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.block[this.filled] = sample;
      this.filled += 1;
      if (this.filled === this.block.length) {
        this.port.postMessage(this.block.slice());
        this.filled = 0;
      }
    }
    return !this.ended;
  }
}

registerProcessor("gather", Gather);
