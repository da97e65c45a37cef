// The interviewer's presence: rings around a still centre. Each ring shows the voice as it was a moment
// ago, so that speech is seen to travel: outwards when Viva speaks, inwards, in the candidate's colour,
// when Viva takes in what is said.

const RINGS = 9;
// Time between a ring and its neighbour; nine of them hold half a second, about two syllables.
const RING_DELAY_MS = 52;
const HISTORY_STEP_MS = 13;
const HISTORY = Math.ceil((RINGS * RING_DELAY_MS) / HISTORY_STEP_MS) + 2;
// The drawing's own width: the outermost ring at full voice stays 4 units inside it.
const UNITS = 424;
// Points on a ring: 96 are smooth at 360 px and cheap on a phone.
const POINTS = 96;
// With reduced motion nothing moves; rings only brighten, this often.
const STILL_EVERY_MS = 150;
// A device pixel ratio above 2 costs fill rate and shows nothing more.
const RATIO_MAX = 2;

export class Presence {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.phase = "idle";
    this.mix = { you: 0, think: 0, dim: 0 };
    this.heard = new Float32Array(HISTORY);
    this.said = new Float32Array(HISTORY);
    this.stepped = 0;
    this.lastDraw = 0;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.resize();
    new ResizeObserver(() => this.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolour());
  }

  /** Reads the colours from the page's custom properties; call it when the theme changed. */
  recolour() {
    // A custom property is text; as a colour of the element it comes back resolved for the theme.
    const read = (name) => {
      this.canvas.style.color = `var(${name})`;
      return parse(getComputedStyle(this.canvas).color);
    };
    this.colours = { viva: read("--viva-ring"), you: read("--you-ring"), rest: read("--rest-ring") };
  }

  resize() {
    this.ratio = Math.min(RATIO_MAX, devicePixelRatio || 1);
    const shown = Math.min(this.canvas.clientWidth, this.canvas.clientHeight);
    const side = Math.round(shown * this.ratio);
    if (side > 0 && this.canvas.width !== side) {
      this.canvas.width = side;
      this.canvas.height = side;
    }
    this.recolour();
    this.lastDraw = 0;
  }

  setPhase(phase) {
    this.phase = phase;
  }

  draw(now, { heard, said }) {
    const calm = this.calm.matches;
    if (calm && now - this.lastDraw < STILL_EVERY_MS) return;
    const elapsed = Math.min(100, now - this.lastDraw);
    this.lastDraw = now;
    while (this.stepped < now) {
      if (now - this.stepped > 1000) this.stepped = now - HISTORY_STEP_MS;
      this.stepped += HISTORY_STEP_MS;
      this.heard.copyWithin(1, 0);
      this.said.copyWithin(1, 0);
      this.heard[0] = heard;
      this.said[0] = said;
    }
    this.blend(elapsed);
    this.paint(calm ? 0 : now, calm);
  }

  /** Moves softly from one state's look to the next. */
  blend(elapsed) {
    const ease = 1 - Math.exp(-elapsed / 180);
    const goal = {
      you: this.phase === "hearing" || this.phase === "held" ? 1 : 0,
      think: this.phase === "thinking" || this.phase === "connecting" ? 1 : 0,
      dim: ["held", "reconnecting", "ended"].includes(this.phase) ? 1 : 0,
    };
    for (const name of Object.keys(goal)) this.mix[name] += (goal[name] - this.mix[name]) * ease;
  }

  paint(now, calm) {
    const { pen, canvas, mix, colours } = this;
    const size = canvas.width;
    const unit = size / UNITS;
    pen.clearRect(0, 0, size, size);
    pen.save();
    pen.translate(size / 2, size / 2);
    const breath = calm ? 0 : Math.sin(now / 1150) * (1 - mix.dim);
    const tint = blendColour(colours.viva, colours.you, mix.you);
    this.core(pen, unit, breath, tint);
    for (let i = 0; i < RINGS; i += 1) this.ring(pen, unit, i, now, breath, tint, calm);
    pen.restore();
  }

  core(pen, unit, breath, tint) {
    const level = Math.max(this.said[0], this.heard[0] * this.mix.you);
    const radius = unit * (46 + 1.6 * breath + 7 * level);
    pen.fillStyle = rgba(tint, 1 - 0.4 * this.mix.dim);
    pen.beginPath();
    pen.arc(0, 0, radius, 0, 2 * Math.PI);
    pen.fill();
  }

  ring(pen, unit, i, now, breath, tint, calm) {
    const { mix, colours } = this;
    const outwards = this.delayed(this.said, i);
    const inwards = this.delayed(this.heard, RINGS - 1 - i) * mix.you;
    const level = Math.max(outwards, inwards) * (1 - mix.dim * 0.6);
    const far = i / (RINGS - 1);
    const radius = unit * (64 + i * 14.2 + breath * (1.2 + 1.6 * far) + (calm ? 0 : level * 9));
    const swing = calm ? 0 : unit * (0.5 + level * (5 + 7 * far)) * (1 - mix.dim * 0.7);
    const colour = blendColour(colours.rest, tint, Math.min(1, 0.25 + level * 1.5 + mix.think * 0.3));
    const alpha = (0.78 - 0.5 * far) * (0.72 + 0.68 * level) * (1 - 0.35 * mix.dim) + level * 0.2;
    // Small as on a phone, a ring still is one pixel wide.
    pen.lineWidth = Math.max(this.ratio, unit * 1.15) + unit * level * 1.9;
    pen.strokeStyle = this.stroke(pen, colour, tint, alpha, far, now);
    pen.beginPath();
    for (let p = 0; p <= POINTS; p += 1) {
      const angle = (p / POINTS) * 2 * Math.PI;
      const at = radius + swing * wave(angle, i, now);
      if (p === 0) pen.moveTo(at * Math.cos(angle), at * Math.sin(angle));
      else pen.lineTo(at * Math.cos(angle), at * Math.sin(angle));
    }
    pen.stroke();
  }

  /** While thinking, a light runs around the rings; each follows the one inside it. */
  stroke(pen, colour, tint, alpha, far, now) {
    const { think } = this.mix;
    if (think < 0.02 || !pen.createConicGradient) return rgba(colour, alpha);
    const sweep = pen.createConicGradient(now / 520 - far * 1.7, 0, 0);
    sweep.addColorStop(0, rgba(colour, alpha * (1 - 0.35 * think)));
    sweep.addColorStop(0.62, rgba(colour, alpha * (1 - 0.35 * think)));
    sweep.addColorStop(0.94, rgba(tint, alpha + (0.85 - 0.5 * far - alpha) * think));
    sweep.addColorStop(1, rgba(colour, alpha * (1 - 0.35 * think)));
    return sweep;
  }

  delayed(history, ring) {
    return history[Math.min(HISTORY - 1, Math.round((ring * RING_DELAY_MS) / HISTORY_STEP_MS))];
  }
}

/** A closed, slowly turning shape in −1..1: three whole-numbered lobes, so that it meets itself. */
function wave(angle, ring, now) {
  const turn = now / 1900;
  return (
    0.5 * Math.sin(3 * angle + turn + ring * 0.55) +
    0.32 * Math.sin(5 * angle - turn * 1.4 + ring * 0.9) +
    0.18 * Math.sin(8 * angle + turn * 0.7 - ring * 0.35)
  );
}

function parse(text) {
  const numbers = text.match(/\d+/g) ?? [];
  return numbers.length >= 3 ? numbers.slice(0, 3).map(Number) : [128, 128, 128];
}

function blendColour(a, b, part) {
  return a.map((value, i) => Math.round(value + (b[i] - value) * part));
}

function rgba([r, g, b], alpha) {
  return `rgba(${r}, ${g}, ${b}, ${Math.min(1, Math.max(0, alpha)).toFixed(3)})`;
}
