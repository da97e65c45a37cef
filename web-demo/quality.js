// How good the way to the server is: figures of the last seconds from the browser's statistics, one word for
// them, and the panel that shows both. `Sampler` and `Grade` are pure.

// Figures are taken once a second over this many of them: long enough for a loss of one in a hundred to show.
const WINDOW = 5;
// From which figures on a way is only fair, or poor. Two lost packets in a hundred are mended unheard by Opus
// itself; beyond eight, words go missing. 30 ms of jitter fit the browser's usual buffer, 60 ms is what the
// server waits for a late packet. From 200 ms of round trip on people begin to talk into each other; at 400
// they do so all the time.
const LIMITS = { loss: [0.02, 0.08], jitterMs: [30, 60], rttMs: [200, 400], waitingMs: [120, 500] };
// One bad second is a hiccup, two are a state; to be called good again a way must be so for longer.
const WORSE_AFTER = 2;
const BETTER_AFTER = 4;

const WORDS = { 3: "Good", 2: "Fair", 1: "Poor" };

/** Differences of the browser's running totals, over the window. */
export class Sampler {
  constructor() {
    this.past = [];
  }

  /** @param {Iterable<object>} report what `getStats` gave */
  take(report) {
    const total = totals(report);
    this.past.push(total);
    if (this.past.length > WINDOW + 1) this.past.shift();
    const first = this.past[0];
    const spent = (name) => Math.max(0, total[name] - first[name]);
    const lost = spent("lost");
    const expected = lost + spent("received");
    const emitted = spent("emitted");
    // Our packets the server missed, as it reports them: the way there can be worse than the way back.
    const there = total.lossThere ?? 0;
    return {
      loss: Math.max(expected > 0 ? lost / expected : 0, there),
      jitterMs: 1000 * Math.max(total.jitter ?? 0, total.jitterThere ?? 0),
      rttMs: total.rtt === null ? null : 1000 * total.rtt,
      bufferedMs: emitted > 0 ? (1000 * spent("buffered")) / emitted : null,
      relayed: total.relayed,
    };
  }
}

function totals(report) {
  const all = [...(report.values?.() ?? report)];
  const of = (type) => all.find((each) => each.type === type && (each.kind ?? "audio") === "audio") ?? {};
  const inbound = of("inbound-rtp");
  const remote = of("remote-inbound-rtp");
  const chosen = all.find((each) => each.type === "transport")?.selectedCandidatePairId;
  const pair =
    all.find((each) => each.type === "candidate-pair" && each.id === chosen) ??
    all.find((each) => each.type === "candidate-pair" && each.nominated && each.state === "succeeded") ??
    {};
  const local = all.find((each) => each.id === pair.localCandidateId);
  return {
    lost: inbound.packetsLost ?? 0,
    received: inbound.packetsReceived ?? 0,
    jitter: inbound.jitter ?? null,
    buffered: inbound.jitterBufferDelay ?? 0,
    emitted: inbound.jitterBufferEmittedCount ?? 0,
    lossThere: remote.fractionLost ?? null,
    jitterThere: remote.jitter ?? null,
    rtt: pair.currentRoundTripTime ?? remote.roundTripTime ?? null,
    relayed: local?.candidateType === "relay",
  };
}

/** Bars, 3 to 1, that fall soon and rise late. */
export class Grade {
  constructor() {
    this.bars = 3;
    this.streak = 0;
  }

  /** @returns {number} 3 good, 2 fair, 1 poor */
  take(figures) {
    const now = Math.min(...Object.entries(LIMITS).map(([name, [fair, poor]]) => {
      const value = figures[name] ?? 0;
      return value >= poor ? 1 : value >= fair ? 2 : 3;
    }));
    const worse = now < this.bars;
    if (now === this.bars) this.streak = 0;
    else this.streak = Math.sign(now - this.bars) === Math.sign(this.streak) ? this.streak + (worse ? -1 : 1) : worse ? -1 : 1;
    if (this.streak <= -WORSE_AFTER || this.streak >= BETTER_AFTER) {
      this.bars = now;
      this.streak = 0;
    }
    return this.bars;
  }
}

/** The panel: a word and bars, what the link is, and the figures behind them. */
export class Quality {
  constructor({ panel, word, link, numbers, onPoor }) {
    Object.assign(this, { panel, word, link, numbers, onPoor });
    this.clear();
  }

  clear() {
    this.sampler = new Sampler();
    this.grade = new Grade();
    this.figures = null;
    this.via = null;
    this.poor = false;
    this.panel.dataset.bars = "0";
    this.word.textContent = "–";
    this.numbers.replaceChildren();
  }

  /** A link stands: says which, and why it is not the better one. */
  stands({ via, blocked }) {
    this.clear();
    this.via = via;
    this.link.textContent = LINKS[blocked ? "blocked" : via];
  }

  /** No link stands. */
  away() {
    this.clear();
    this.word.textContent = "Away";
    this.link.textContent = "Being made again.";
  }

  async look(call) {
    const stats = await call.stats().catch(() => null);
    // The link may have gone while its figures were gathered.
    if (!stats || stats.via !== this.via) return;
    this.figures = stats.via === "direct" ? this.sampler.take(stats.report) : stats;
    this.show(this.grade.take(this.figures));
  }

  show(bars) {
    this.panel.dataset.bars = String(bars);
    this.word.textContent = WORDS[bars];
    this.numbers.replaceChildren(...rows(this.figures).flatMap(([what, value]) => [term("dt", what), term("dd", value)]));
    this.panel.querySelector("summary").title = rows(this.figures).map(([what, value]) => `${what}: ${value}`).join("\n");
    if ((bars === 1) !== this.poor) {
      this.poor = bars === 1;
      this.onPoor(this.poor);
    }
  }

  /** What the way there and back adds to an answer, milliseconds; null where it can't be known. */
  get addedMs() {
    const { rttMs = null, bufferedMs = null } = this.figures ?? {};
    return rttMs === null ? null : rttMs + (bufferedMs ?? 0);
  }
}

const LINKS = {
  direct: "A direct line: WebRTC over UDP.",
  socket: "Over a WebSocket, which this server offers.",
  blocked: "No UDP comes through this network, so your voices travel over a WebSocket. That works; a poor network is felt a little sooner.",
};

function rows(figures) {
  const ms = (value) => (value === null || value === undefined ? "–" : `${Math.round(value)} ms`);
  if (figures.via === "socket") {
    return [["Voice waiting to leave", ms(figures.waitingMs)], ["Voice that could not leave", `${(figures.dropped * 0.02).toFixed(1)} s`]];
  }
  return [
    ["There and back", ms(figures.rttMs)],
    ["Jitter", ms(figures.jitterMs)],
    ["Lost packets", `${(100 * figures.loss).toFixed(1)} %`],
    ["Kept for even sound", ms(figures.bufferedMs)],
    ...(figures.relayed ? [["Way", "through a relay (TURN)"]] : []),
  ];
}

function term(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}
