// Follows the interviewer's voice through its caption: joins what was heard with the words (spoken.js) and
// tells the captions which one sounds.
import { HeardClock, Pace } from "./spoken.js";

// Between a packet's leaving and its being heard lies the browser's own buffer; 60 ms is what it keeps of an
// even stream, with a frame's length on either side of it.
const PLAYOUT_MS = 60;
// PCM16 at 24 kHz in base64: 64 characters a millisecond.
const BASE64_PER_MS = 64;
// So close to its end an answer counts as heard.
const END_MS = 150;

export class Reading {
  constructor({ captions }) {
    this.captions = captions;
    this.pace = new Pace();
    this.clear();
  }

  clear() {
    this.clock = new HeardClock();
    this.item = null;
    this.index = -1;
    this.text = "";
    this.receivedMs = 0;
    this.totalMs = null;
    this.before = { item: null, ms: 0 };
    this.captions.reading(null);
  }

  /** From now on the voice comes as samples: what was heard of it on its track stands before them. */
  turnToSamples(now) {
    const { item } = this.clock;
    if (item === null) return;
    const ms = Math.max(0, this.clock.at(now));
    this.clock.stop();
    this.before = { item, ms };
    this.receivedMs = ms;
  }

  /** What was heard of an item before its voice came as samples, milliseconds. */
  heardBefore(item) {
    return this.before.item === item ? this.before.ms : 0;
  }

  /** The words of an answer, as far as they are known. */
  words({ id, text, cut }) {
    if (id !== this.item) return;
    this.text = text;
    if (cut) this.leave(false);
  }

  /** Sound of this item arrived as samples. */
  arrived(item, pcm64, text) {
    if (item !== this.item) this.enter(item, text);
    this.receivedMs += pcm64.length / BASE64_PER_MS;
  }

  /** All of it arrived. */
  complete(item) {
    if (item === this.item && this.receivedMs > 0) this.totalMs = this.receivedMs;
  }

  /** The player's count of what was heard. */
  heard({ item, heardMs, sounding }) {
    if (item !== this.item || this.item === null) return;
    const ms = heardMs + this.heardBefore(item);
    this.show(ms);
    if (this.totalMs !== null && !sounding && ms > this.totalMs - END_MS) this.leave(true, this.totalMs);
  }

  /** The voice of this item began, ended, is held or goes on, on a track of its own. */
  began(item, text, now) {
    this.enter(item, text);
    this.clock.start(item, now + PLAYOUT_MS);
  }

  ended(now) {
    if (this.clock.item !== null) this.leave(true, this.clock.at(now + PLAYOUT_MS));
  }

  hold(held, now) {
    this.clock.hold(held, now);
  }

  frame(now) {
    if (this.clock.item !== null) this.show(this.clock.at(now));
  }

  enter(item, text) {
    this.clear();
    this.item = item;
    this.text = text;
  }

  show(heardMs) {
    // A word that was shown as spoken stays so, even if the estimate steps back when the length is known.
    const index = Math.max(this.index, this.pace.at(this.text, heardMs, this.totalMs));
    if (index === this.index) return;
    this.index = index;
    this.captions.reading(this.item, index);
  }

  leave(whole, totalMs) {
    if (whole) this.pace.learn(this.text, totalMs);
    this.clear();
  }
}
