// Levels: one frame loop reads both analysers and drives the two meters and the interviewer's presence.

// What the meters show, in dBFS: below the floor lies room noise, above the top a voice clips.
const FLOOR_DB = -58;
const TOP_DB = -8;
// Attack within a frame or two, release slow enough to be read: the ballistics of a VU meter.
const ATTACK = 0.55;
const RELEASE_PER_S = 3.2;

/** A level follower on one analyser: 0 at the floor, 1 at the top. */
export class Level {
  constructor() {
    this.value = 0;
    // The loudest sample so far, for tests and for the curious.
    this.peak = 0;
    this.samples = null;
    // Digital silence is a microphone switched off in hardware; a quiet room never is.
    this.silentSince = null;
  }

  read(analyser, elapsedS, now) {
    const target = analyser ? this.measure(analyser, now) : 0;
    if (target > this.value) this.value += (target - this.value) * ATTACK;
    else this.value = Math.max(target, this.value - RELEASE_PER_S * elapsedS * Math.max(0.25, this.value));
    return this.value;
  }

  measure(analyser, now) {
    if (this.samples?.length !== analyser.fftSize) this.samples = new Float32Array(analyser.fftSize);
    analyser.getFloatTimeDomainData(this.samples);
    let sum = 0;
    for (const sample of this.samples) {
      sum += sample * sample;
      this.peak = Math.max(this.peak, Math.abs(sample));
    }
    if (sum > 0) this.silentSince = null;
    else this.silentSince ??= now;
    const db = 10 * Math.log10(sum / this.samples.length + 1e-12);
    return Math.min(1, Math.max(0, (db - FLOOR_DB) / (TOP_DB - FLOOR_DB)));
  }
}

export class Meters {
  constructor({ audio, inputBar, outputBar, presence }) {
    Object.assign(this, { audio, inputBar, outputBar, presence });
    this.input = new Level();
    this.output = new Level();
    this.last = 0;
    this.onFrame = null;
    this.frame = (now) => this.draw(now);
    requestAnimationFrame(this.frame);
  }

  draw(now) {
    requestAnimationFrame(this.frame);
    const elapsedS = Math.min(0.1, (now - this.last) / 1000);
    this.last = now;
    const hearing = this.audio.stream && !this.audio.muted;
    const heard = this.input.read(hearing ? this.audio.inputAnalyser : null, elapsedS, now);
    const said = this.output.read(this.audio.context ? this.audio.outputAnalyser : null, elapsedS, now);
    show(this.inputBar, heard);
    show(this.outputBar, said);
    this.presence.draw(now, { heard, said });
    this.onFrame?.(now);
  }
}

function show(bar, level) {
  const text = level.toFixed(2);
  // A property that did not change still costs a style pass.
  if (bar.shown === text) return;
  bar.shown = text;
  bar.style.setProperty("--level", text);
}
