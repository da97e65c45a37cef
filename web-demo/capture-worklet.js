// The microphone's side: takes the audio thread's blocks at the device's rate, brings them to 24 kHz
// mono and posts 20 ms chunks of PCM16. A chunk is the only allocation, one every 20 ms.
import { Resampler } from "./resampler.js";

const WIRE_RATE = 24000;
// 20 ms: the smallest chunk the protocol's clients send; a larger one would only add delay.
const CHUNK = 480;
// The render quantum is 128 today; browsers may offer larger ones later.
const BLOCK_MAX = 2048;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, WIRE_RATE, BLOCK_MAX);
    this.mono = new Float32Array(BLOCK_MAX);
    this.made = new Float32Array(this.resampler.outputMax);
    this.chunk = new Int16Array(CHUNK);
    this.filled = 0;
    this.running = true;
    this.port.onmessage = ({ data }) => {
      if (data === "stop") this.running = false;
    };
  }

  process([input]) {
    const channels = input.length;
    // With no source connected there is no block to read; the caller's clock simply stands still.
    if (channels === 0) return this.running;
    const count = Math.min(input[0].length, BLOCK_MAX);
    for (let i = 0; i < count; i += 1) {
      let sum = 0;
      for (let c = 0; c < channels; c += 1) sum += input[c][i];
      this.mono[i] = sum / channels;
    }
    const written = this.resampler.push(this.mono, count, this.made);
    for (let i = 0; i < written; i += 1) {
      const clipped = Math.max(-1, Math.min(1, this.made[i]));
      this.chunk[this.filled] = Math.round(clipped * 32767);
      this.filled += 1;
      if (this.filled === CHUNK) this.ship();
    }
    return this.running;
  }

  ship() {
    this.port.postMessage(this.chunk.buffer, [this.chunk.buffer]);
    this.chunk = new Int16Array(CHUNK);
    this.filled = 0;
  }
}

registerProcessor("viva-capture", Capture);
