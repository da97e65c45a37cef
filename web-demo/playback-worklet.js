// The interviewer's side: holds what the server sent (24 kHz), plays it at the device's rate and counts,
// for every item, the samples that really left. A cut clears the queue and reports those counts.
import { Resampler } from "./resampler.js";

const WIRE_RATE = 24000;
const MS = WIRE_RATE / 1000;
// Gathered before the first sound, and again after the queue ran dry: it hides the network's jitter.
const JITTER = 40 * MS;
// A remainder shorter than the jitter buffer is played anyway once nothing came for this long.
const TAIL_WAIT_MS = 60;
// Our own server leads by at most 120 ms; others send a whole answer at once. 60 s is 5.8 MB.
const QUEUE_MAX = 60 * WIRE_RATE;
// Long enough that starting or stopping in mid-wave makes no click, short enough not to be heard.
const FADE_MS = 4;
const BLOCK_MAX = 2048;
// Items whose counts are kept, so that a late cut still finds its number.
const ITEMS_MAX = 16;
const REPORT_EVERY_MS = 50;

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = new Float32Array(QUEUE_MAX);
    this.head = 0;
    this.size = 0;
    this.segments = [];
    this.played = new Map();
    this.resampler = new Resampler(WIRE_RATE, sampleRate, BLOCK_MAX);
    this.input = new Float32Array(BLOCK_MAX);
    this.flowing = false;
    // Held, the voice falls silent at once and keeps its place; the server sends nothing more meanwhile.
    this.held = false;
    this.current = null;
    this.draining = 0;
    this.gain = 0;
    this.gainStep = 1 / ((sampleRate * FADE_MS) / 1000);
    this.lastArrival = 0;
    this.sinceReport = 0;
    this.peak = 0;
    this.dropped = 0;
    this.ranDry = 0;
    this.port.onmessage = ({ data }) => this.receive(data);
  }

  receive(message) {
    if (message.type === "audio") this.enqueue(message.item, new Int16Array(message.pcm));
    else if (message.type === "flush") this.flush(message.id, message.item);
    else if (message.type === "hold") this.held = message.held;
  }

  enqueue(item, pcm) {
    const room = Math.min(pcm.length, QUEUE_MAX - this.size);
    this.dropped += pcm.length - room;
    let tail = (this.head + this.size) % QUEUE_MAX;
    for (let i = 0; i < room; i += 1) {
      this.queue[tail] = pcm[i] / 32768;
      tail = tail + 1 === QUEUE_MAX ? 0 : tail + 1;
    }
    this.size += room;
    this.lastArrival = currentTime;
    const newest = this.segments.at(-1);
    if (newest?.item === item) newest.left += room;
    else this.segments.push({ item, left: room });
    if (!this.played.has(item)) this.remember(item);
  }

  remember(item) {
    this.played.set(item, 0);
    if (this.played.size > ITEMS_MAX) this.played.delete(this.played.keys().next().value);
  }

  /**
   * Drops what is queued of `item` (of all items when it is null) and tells what each got to say.
   * What a newer answer already queued behind it stays.
   */
  flush(id, item) {
    const played = {};
    for (const [each, samples] of this.played) played[each] = samples / MS;
    const cut = this.segments.some((segment) => item === null || segment.item === item);
    if (cut) this.drop(item);
    // What is left after a cut belongs to a newer answer.
    this.held = false;
    this.port.postMessage({ type: "flushed", id, played, cut });
  }

  drop(item) {
    let gone = 0;
    while (this.segments.length > 0 && (item === null || this.segments[0].item === item)) {
      gone += this.segments.shift().left;
    }
    // The next few milliseconds become a fade-out that belongs to no item: silence without a click.
    const fade = this.flowing ? Math.min(gone, FADE_MS * MS) : 0;
    const skip = gone - fade;
    for (let i = fade - 1; i >= 0; i -= 1) {
      const gain = 1 - (i + 1) / fade;
      this.queue[(this.head + skip + i) % QUEUE_MAX] = this.queue[(this.head + i) % QUEUE_MAX] * gain;
    }
    this.head = (this.head + skip) % QUEUE_MAX;
    this.size -= skip;
    if (fade > 0) this.segments.unshift({ item: null, left: fade });
  }

  /** Moves `count` samples from the queue to `input`, zeros where there are none, and counts them. */
  take(count) {
    const real = Math.min(count, this.size);
    for (let i = 0; i < real; i += 1) {
      this.input[i] = this.queue[this.head];
      this.head = this.head + 1 === QUEUE_MAX ? 0 : this.head + 1;
    }
    this.input.fill(0, real, count);
    this.size -= real;
    let rest = real;
    while (rest > 0) {
      const segment = this.segments[0];
      const used = Math.min(rest, segment.left);
      segment.left -= used;
      rest -= used;
      if (segment.item !== null) {
        this.current = segment.item;
        this.played.set(segment.item, (this.played.get(segment.item) ?? 0) + used);
      }
      if (segment.left === 0) this.segments.shift();
    }
    return real;
  }

  process(_inputs, [output]) {
    const out = output[0];
    if (this.held && this.gain <= 0) {
      this.flowing = false;
      this.draining = 0;
    } else if (!this.flowing && this.size > 0 && !this.held) {
      const waited = (currentTime - this.lastArrival) * 1000 >= TAIL_WAIT_MS;
      this.flowing = this.size >= JITTER || waited;
      if (this.flowing) this.draining = 0;
    }
    if (this.flowing || this.gain > 0 || this.draining > 0) this.render(out);
    for (let c = 1; c < output.length; c += 1) output[c].set(out);
    this.sinceReport += out.length;
    if (this.sinceReport * 1000 >= REPORT_EVERY_MS * sampleRate) this.report();
    return true;
  }

  render(out) {
    const need = this.resampler.needed(out.length);
    const real = this.take(need);
    const written = this.resampler.push(this.input, need, out);
    out.fill(0, written);
    if (this.flowing && real < need) {
      // The queue ran dry. Let the filter's tail out (it holds the last 1–2 ms), then wait for more.
      this.flowing = false;
      this.draining = this.resampler.half * 3;
      this.ranDry += 1;
    }
    this.draining = Math.max(0, this.draining - need);
    const target = !this.held && (this.flowing || this.draining > 0) ? 1 : 0;
    for (let i = 0; i < out.length; i += 1) {
      this.gain += Math.max(-this.gainStep, Math.min(this.gainStep, target - this.gain));
      out[i] *= this.gain;
      this.peak = Math.max(this.peak, Math.abs(out[i]));
    }
    if (target === 0 && this.gain <= 0) this.resampler.reset();
  }

  report() {
    this.sinceReport = 0;
    this.port.postMessage({
      type: "report",
      item: this.current,
      playedMs: (this.played.get(this.current) ?? 0) / MS,
      queuedMs: this.size / MS,
      sounding: this.flowing || this.gain > 0,
      peak: this.peak,
      dropped: this.dropped,
      ranDry: this.ranDry,
    });
    this.peak = 0;
  }
}

registerProcessor("viva-playback", Playback);
