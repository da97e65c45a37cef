// A streaming sample-rate converter: windowed-sinc interpolation with a low-pass, for any pair of
// rates. It runs inside both audio worklets, so it allocates nothing while it works.

// Zero crossings on each side of the kernel. 16 with the Kaiser window below keep the pass band flat
// to about 0.9 of the lower Nyquist rate and push aliases more than 60 dB down (tests/browser/unit.mjs
// measures both).
const ZERO_CROSSINGS = 16;
// Table steps between two zero crossings; linear interpolation between steps errs below −90 dB.
const STEPS = 512;
// Kaiser's shape parameter: 7.9 gives about 80 dB of stop-band attenuation.
const KAISER_BETA = 7.9;
// The kernel's −6 dB point as a part of the lower Nyquist rate, which leaves room for the transition.
const ROLL_OFF = 0.92;

/** The zeroth-order modified Bessel function, by its power series. */
function besselI0(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; k < 60 && term > sum * 1e-12; k += 1) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

let sharedTable = null;

/** One half of the symmetric kernel, sampled STEPS times a zero crossing. */
function kernelTable() {
  if (sharedTable) return sharedTable;
  const length = ZERO_CROSSINGS * STEPS;
  const table = new Float32Array(length + 2);
  for (let i = 0; i <= length; i += 1) {
    const t = i / STEPS;
    const sinc = t === 0 ? 1 : Math.sin(Math.PI * t) / (Math.PI * t);
    const edge = 1 - (t / ZERO_CROSSINGS) ** 2;
    table[i] = (sinc * besselI0(KAISER_BETA * Math.sqrt(Math.max(0, edge)))) / besselI0(KAISER_BETA);
  }
  sharedTable = table;
  return table;
}

export class Resampler {
  /**
   * @param {number} from input rate in Hz
   * @param {number} to output rate in Hz
   * @param {number} blockMax the most input samples ever given to one `push`
   */
  constructor(from, to, blockMax) {
    this.table = kernelTable();
    this.stride = from / to;
    // The kernel is stretched to the lower of the two rates: that is the low-pass.
    this.cutoff = ROLL_OFF * Math.min(1, to / from);
    this.half = Math.ceil(ZERO_CROSSINGS / this.cutoff);
    this.history = new Float32Array(2 * this.half + blockMax + Math.ceil(this.stride) + 4);
    this.outputMax = Math.ceil((blockMax + 2 * this.half) / this.stride) + 2;
    this.reset();
  }

  /** Forgets the past: the next sample is the first of a new stream. */
  reset() {
    this.history.fill(0);
    // The stream begins after `half` zeros, so that the first output lies on the first input.
    this.filled = this.half;
    this.position = this.half;
  }

  /** Input samples of delay: what was pushed but cannot be heard in the output yet. */
  get delay() {
    return this.filled - this.position;
  }

  /** How many input samples must be pushed so that `count` outputs can be had. */
  needed(count) {
    if (count <= 0) return 0;
    const last = this.position + (count - 1) * this.stride;
    return Math.max(0, Math.floor(last) + this.half + 1 - this.filled);
  }

  /**
   * Takes `count` samples of `input` and writes what can be made of them.
   * @returns {number} samples written to `output`
   */
  push(input, count, output) {
    this.history.set(count === input.length ? input : input.subarray(0, count), this.filled);
    this.filled += count;
    let written = 0;
    while (written < output.length && Math.floor(this.position) + this.half < this.filled) {
      output[written] = this.sampleAt(this.position);
      written += 1;
      this.position += this.stride;
    }
    const drop = Math.min(this.filled, Math.max(0, Math.floor(this.position) - this.half));
    if (drop > 0) {
      this.history.copyWithin(0, drop, this.filled);
      this.filled -= drop;
      this.position -= drop;
    }
    return written;
  }

  sampleAt(position) {
    const { history, table, cutoff, half } = this;
    const centre = Math.floor(position);
    const first = Math.max(0, centre - half + 1);
    const last = Math.min(this.filled - 1, centre + half);
    const scale = cutoff * STEPS;
    const limit = ZERO_CROSSINGS * STEPS;
    let sum = 0;
    for (let i = first; i <= last; i += 1) {
      const at = Math.abs(position - i) * scale;
      if (at >= limit) continue;
      const step = at | 0;
      const rest = at - step;
      sum += history[i] * (table[step] + rest * (table[step + 1] - table[step]));
    }
    return sum * cutoff;
  }
}
