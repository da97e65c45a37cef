// Which word of an answer is being spoken. The server sends the words of a clause before its sound and says
// nothing of when each is heard, so this is an estimate: every word gets a weight (its letters, and the rest
// a voice makes at commas and full stops), and the time that was really heard is laid over those weights at
// the voice's pace. The pace is learned: from each answer that was heard to its end, and within an answer as
// soon as its whole length is known. Over a WebSocket the time heard is counted sample by sample by the player;
// over WebRTC it is the clock since the server said that the voice began, stopped while it is held. Pure.

// Milliseconds a letter takes at first: English read at some 160 words a minute has 14 letters a second.
const MS_PER_LETTER = 70;
// What a word costs beyond its letters (its own onset), and the rests after it, in letters.
const WORD_COST = 1.5;
const COMMA_COST = 3;
const STOP_COST = 6;
// How much of the pace is taken from the newest answer; odd ones (numbers, names) must not turn it over.
const LEARN = 0.3;
// A pace outside this is a wrong count, not a voice.
const PACE_RANGE = [35, 140];
// An answer shorter than this says too little about the pace.
const LEARN_LETTERS_MIN = 20;

/** The words of a text with the white space that follows them. */
export function split(text) {
  return text.match(/\S+\s*/g) ?? [];
}

function cost(word) {
  const bare = word.trim();
  const letters = bare.replace(/[^\p{L}\p{N}]/gu, "");
  // A digit is a word of its own: "47" is as long as "forty-seven".
  const digits = (letters.match(/\p{N}/gu) ?? []).length;
  const rest = /[.!?…]["'”’)]*$/.test(bare) ? STOP_COST : /[,;:–—]["'”’)]*$/.test(bare) ? COMMA_COST : 0;
  return WORD_COST + letters.length + 4 * digits + rest;
}

const weigh = (words) => words.reduce((sum, word) => sum + cost(word), 0);

export class Pace {
  constructor() {
    this.msPerLetter = MS_PER_LETTER;
  }

  /**
   * The index of the word that sounds when `heardMs` of the answer were heard: -1 before the first, at most the
   * last of those known. `totalMs`: the whole length, once that is known.
   */
  at(text, heardMs, totalMs = null) {
    const words = split(text);
    if (words.length === 0 || heardMs <= 0) return -1;
    const pace = totalMs ? totalMs / weigh(words) : this.msPerLetter;
    let reached = 0;
    for (let i = 0; i < words.length; i += 1) {
      reached += cost(words[i]) * pace;
      if (heardMs < reached) return i;
    }
    return words.length - 1;
  }

  /** An answer was heard to its end. */
  learn(text, totalMs) {
    const letters = weigh(split(text));
    if (letters < LEARN_LETTERS_MIN || !(totalMs > 0)) return;
    const seen = Math.min(PACE_RANGE[1], Math.max(PACE_RANGE[0], totalMs / letters));
    this.msPerLetter += LEARN * (seen - this.msPerLetter);
  }
}

/** How much of an answer was heard, where only the clock tells: it stands still while the voice is held. */
export class HeardClock {
  constructor() {
    this.item = null;
    this.ms = 0;
    this.since = null;
  }

  start(item, now) {
    this.item = item;
    this.ms = 0;
    this.since = now;
  }

  /** The voice is held, or goes on. */
  hold(held, now) {
    if (this.item === null) return;
    if (held && this.since !== null) {
      this.ms += now - this.since;
      this.since = null;
    } else if (!held) {
      this.since ??= now;
    }
  }

  at(now) {
    return this.ms + (this.since === null ? 0 : now - this.since);
  }

  stop() {
    this.item = null;
    this.since = null;
  }
}
