// The interview room: joins the microphone, the conversation and the page. Decisions about the talk are
// in conversation.js, about the link in realtime.js; this file only carries them out.
import { Sound } from "./audio.js";
import { Captions } from "./captions.js";
import { Conversation } from "./conversation.js";
import { Latency, median, readable } from "./latency.js";
import { Meters } from "./meters.js";
import { Presence } from "./presence.js";
import { microphoneProblem, problem } from "./problems.js";
import { Realtime, fromBase64 } from "./realtime.js";
import { Settings } from "./settings.js";

// A live microphone is never digitally silent this long: it is switched off somewhere.
const SILENT_MIC_MS = 6000;

const find = (id) => document.getElementById(id);

const STATES = {
  connecting: ["Connecting", "Opening the room."],
  listening: ["Listening", "Take the time you need."],
  hearing: ["Hearing you", "Go on, Viva is all ears."],
  thinking: ["Thinking", "Viva is finding an answer."],
  speaking: ["Speaking", "You may interrupt at any time."],
  held: ["Paused for you", "Viva stopped to hear you."],
  reconnecting: ["Reconnecting", "The connection dropped."],
  ended: ["Ended", "The room is closed."],
};

class Room {
  constructor() {
    this.audio = new Sound();
    this.talk = new Conversation();
    this.link = null;
    this.presence = new Presence(find("presence"));
    this.meters = new Meters({
      audio: this.audio,
      inputBar: find("input-bar"),
      outputBar: find("output-bar"),
      presence: this.presence,
    });
    this.meters.onFrame = (now) => this.watchMicrophone(now);
    this.captions = new Captions({
      list: find("captions"),
      scroller: find("scroller"),
      announcer: find("announcer"),
      empty: find("empty"),
    });
    this.latency = new Latency({
      figure: find("latency-figure"),
      plot: find("latency-plot"),
      caption: find("latency-caption"),
    });
    this.settings = new Settings({ audio: this.audio, find, onTheme: () => this.presence?.recolour() });
    this.captions.announce = this.settings.announce.checked;
    this.status = "idle";
    this.wire();
  }

  wire() {
    find("host").textContent = location.host || "this server";
    find("start").addEventListener("click", () => this.begin({ speak: true }));
    find("start-typing").addEventListener("click", () => this.begin({ speak: false }));
    find("mute").addEventListener("click", () => this.toggleMute());
    find("end").addEventListener("click", () => this.end());
    find("again").addEventListener("click", () => this.show("lobby"));
    find("banner-close").addEventListener("click", () => this.banner(null));
    find("banner-act").addEventListener("click", () => this.bannerAct?.());
    find("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.typed();
    });
    this.audio.addEventListener("chunk", ({ detail }) => this.link?.sendAudio(detail));
    this.audio.addEventListener("report", ({ detail }) => this.perform(this.talk.setSounding(detail.sounding)));
    this.audio.addEventListener("microphone-lost", () => this.microphoneLost());
    this.settings.addEventListener("microphone", ({ detail }) => this.changeMicrophone(detail));
    this.settings.addEventListener("speaker", ({ detail }) => this.changeSpeaker(detail));
    this.settings.addEventListener("announce", () => {
      this.captions.announce = this.settings.announce.checked;
    });
    matchMedia("(min-width: 60rem)").addEventListener("change", () => this.fitLatency());
    this.fitLatency();
  }

  fitLatency() {
    find("latency").open = matchMedia("(min-width: 60rem)").matches;
  }

  // ── entering and leaving ──────────────────────────────────────────────────────────────────────

  async begin({ speak }) {
    if (this.busy) return;
    this.busy = true;
    this.trouble(null);
    this.waiting(speak ? "Asking for the microphone…" : "Opening the room…");
    try {
      if (speak && !window.isSecureContext) throw new DOMException("insecure", "SecurityError");
      await this.audio.start({ optional: !speak });
      if (speak) await this.openMicrophone();
    } catch (error) {
      await this.audio.stop();
      this.trouble(microphoneProblem(error));
      return;
    } finally {
      this.busy = false;
      this.waiting(null);
    }
    this.speak = speak;
    this.enter();
  }

  /** The remembered microphone may be unplugged today: then the default one serves. */
  async openMicrophone() {
    const chosen = this.settings.microphoneId;
    try {
      await this.audio.openMicrophone(chosen);
    } catch (error) {
      if (!chosen || !["OverconstrainedError", "NotFoundError"].includes(error.name)) throw error;
      await this.audio.openMicrophone("");
    }
    if (this.settings.speakerId) await this.audio.setSpeaker(this.settings.speakerId).catch(() => {});
  }

  enter() {
    this.talk = new Conversation();
    this.captions.clear();
    this.latency.clear();
    this.banner(null);
    this.setMuted(false);
    find("mute").hidden = !this.speak;
    find("meters").classList.toggle("no-mic", !this.speak);
    find("typed").placeholder = this.speak ? "Or type an answer" : "Type an answer";
    find("empty").textContent = this.speak
      ? "Say hello when you are ready. What both of you say appears here."
      : "Write a greeting when you are ready. What both of you say appears here.";
    this.startedAt = null;
    this.endedAt = null;
    this.setStatus("connecting");
    this.show("talk");
    this.connect();
    this.stayAwake();
  }

  connect() {
    const key = new URLSearchParams(location.hash.slice(1)).get("key");
    const link = new Realtime({ key });
    this.link = link;
    link.addEventListener("status", ({ detail }) => this.link === link && this.linkStatus(detail));
    link.addEventListener("failed", ({ detail }) => this.link === link && this.linkFailed(detail));
    link.addEventListener("message", ({ detail }) => {
      if (this.link === link) this.perform(this.talk.handle(detail));
    });
    link.open();
  }

  end() {
    const turns = [...this.talk.lines.values()].filter((line) => line.who === "interviewer" && line.text);
    this.endedAt = Date.now();
    this.leave();
    find("sum-time").textContent = this.startedAt ? clock(this.endedAt - this.startedAt) : "0:00";
    find("sum-turns").textContent = String(turns.length);
    find("sum-wait").textContent = readable(median(this.talk.turns.map((turn) => turn.voice_to_voice_ms)));
    const text = this.talk.transcript();
    const download = find("download");
    download.hidden = text.length === 0;
    if (download.href) URL.revokeObjectURL(download.href);
    download.href = URL.createObjectURL(new Blob([`${text.join("\n\n")}\n`], { type: "text/plain" }));
    this.setStatus("ended");
    this.show("summary");
    this.tell("The interview has ended.");
  }

  /** Lets go of the link, the devices and the clock. */
  leave() {
    const link = this.link;
    this.link = null;
    link?.close();
    clearInterval(this.ticker);
    this.audio.stop();
    this.wakeLock?.release().catch(() => {});
    this.wakeLock = null;
  }

  // ── the link ──────────────────────────────────────────────────────────────────────────────────

  linkStatus({ status, again, attempt, inMs }) {
    if (status === "open") {
      this.setStatus("live");
      this.banner(null);
      if (again) this.resume();
      else this.opened();
    } else if (status === "reconnecting") {
      if (this.status !== "reconnecting") {
        this.audio.flush();
        this.talk.resetLink();
        this.tell("The connection dropped. Reconnecting.");
      }
      this.setStatus("reconnecting");
      if (inMs) find("state-note").textContent = `Try ${attempt} in ${(inMs / 1000).toFixed(1)} s. Nothing is lost.`;
    }
  }

  opened() {
    this.startedAt ??= Date.now();
    clearInterval(this.ticker);
    this.ticker = setInterval(() => this.tick(), 1000);
    this.tick();
    this.tell("Connected. Viva is listening.");
    if (!this.speak) find("typed").focus();
  }

  /** The server that comes back knows nothing of us: it is told what was said. */
  resume() {
    for (const event of this.talk.retell()) this.link.send(event);
    this.captions.note("Connection restored");
    this.tell("Connection restored.");
  }

  linkFailed({ kind, retryAfterS, message }) {
    if (kind === "ended") {
      this.end();
      return;
    }
    if (this.startedAt) {
      const { title, text } = problem(kind, { message });
      this.setStatus("reconnecting");
      find("state-word").textContent = "Not connected";
      find("state-note").textContent = "Try again, or end the interview.";
      this.banner({ title: `${title}.`, text, label: "Try again", act: () => this.tryAgain() });
      return;
    }
    this.leave();
    this.setStatus("idle");
    this.show("lobby");
    this.trouble(kind, { retryAfterS, message });
  }

  tryAgain() {
    this.banner(null);
    this.setStatus("reconnecting");
    this.link.reopen();
  }

  // ── carrying out what the conversation decided ────────────────────────────────────────────────

  perform(actions) {
    for (const action of actions) {
      if (action.do === "play") this.audio.play(action.item, fromBase64(action.pcm64));
      else if (action.do === "flush") this.flush(action.item);
      else if (action.do === "send") this.link?.send(action.event);
      else if (action.do === "line") this.captions.update(this.talk.lines.get(action.id), this.talk.lines);
      else if (action.do === "phase") this.showState();
      else if (action.do === "turn") this.latency.show(action.metrics, this.talk.turns);
      else if (action.do === "error") this.serverError(action.error);
    }
  }

  /** Silences the player and tells the server how much of the item was really heard. */
  async flush(item) {
    const heard = await this.audio.flush(item);
    if (!Object.hasOwn(heard, item)) return;
    this.link?.send({
      type: "conversation.item.truncate",
      item_id: item,
      content_index: 0,
      audio_end_ms: heard[item],
    });
  }

  typed() {
    const box = find("typed");
    const text = box.value.trim();
    if (!text || this.status !== "live") return;
    box.value = "";
    this.perform(this.talk.say(text));
  }

  serverError({ message, code }) {
    console.warn("viva: the server reported", code, message);
    this.banner({ title: "The server reported a problem.", text: message ?? code ?? "" });
  }

  // ── the microphone ────────────────────────────────────────────────────────────────────────────

  toggleMute() {
    this.setMuted(!this.audio.muted);
    this.tell(this.audio.muted ? "Microphone muted." : "Microphone on.");
  }

  setMuted(muted) {
    this.audio.setMuted(muted);
    find("mute").setAttribute("aria-pressed", String(muted));
    find("mute-label").textContent = muted ? "Unmute" : "Mute";
    document.documentElement.toggleAttribute("data-muted", muted);
    this.showState();
  }

  async changeMicrophone(id) {
    if (this.status !== "live") return;
    try {
      await this.audio.openMicrophone(id);
      this.speak = true;
      find("mute").hidden = false;
      find("meters").classList.remove("no-mic");
      this.banner(null);
    } catch (error) {
      const { title, text } = problem(microphoneProblem(error));
      this.banner({ title: `${title}.`, text });
    }
  }

  async changeSpeaker(id) {
    try {
      await this.audio.setSpeaker(id);
    } catch (error) {
      this.banner({ title: "That loudspeaker can’t be used.", text: error.message });
    }
  }

  microphoneLost() {
    this.banner({
      title: "The microphone is gone.",
      text: "It was unplugged or switched off. Choose another one, or type.",
      label: "Choose a microphone",
      act: () => this.settings.open(),
    });
  }

  watchMicrophone(now) {
    const since = this.meters.input.silentSince;
    const silent = this.status === "live" && !this.audio.muted && this.audio.stream && since !== null;
    const hint = Boolean(silent) && now - since > SILENT_MIC_MS;
    if (hint !== this.silentMic) {
      this.silentMic = hint;
      this.showState();
    }
  }

  // ── the page ──────────────────────────────────────────────────────────────────────────────────

  setStatus(status) {
    this.status = status;
    this.showState();
  }

  showState() {
    const phase = this.status === "live" ? this.talk.phase : this.status;
    document.documentElement.dataset.phase = phase;
    this.presence.setPhase(phase);
    const [word, note] = STATES[phase] ?? STATES.listening;
    find("state-word").textContent = word;
    find("state-note").textContent = this.noteNow(phase) ?? note;
  }

  noteNow(phase) {
    if (this.status !== "live" || !this.speak) return phase === "listening" ? "Type when you are ready." : null;
    if (this.audio.muted) return "Your microphone is muted.";
    if (this.silentMic) return "Your microphone is silent. Is it switched off?";
    return null;
  }

  show(view) {
    document.documentElement.dataset.view = view;
    for (const name of ["lobby", "talk", "summary"]) find(name).hidden = name !== view;
    const inRoom = view === "talk";
    for (const name of ["state", "meters", "latency", "clock"]) find(name).hidden = !inRoom;
    find("elapsed").textContent = "0:00";
    if (view === "lobby") this.setStatus("idle");
    find(`${view}-title`).focus({ preventScroll: true });
  }

  waiting(label) {
    const busy = label !== null;
    find("start").setAttribute("aria-busy", String(busy));
    find("start").disabled = busy;
    find("start-typing").disabled = busy;
    find("start-label").textContent = label ?? "Begin the interview";
  }

  trouble(kind, detail = {}) {
    clearInterval(this.countdown);
    find("problem").hidden = kind === null;
    find("problem-wait").textContent = "";
    find("start").disabled = false;
    find("start-label").textContent = kind === null ? "Begin the interview" : "Try again";
    find("start-typing").hidden = false;
    if (kind === null) return;
    const { title, text, retry, type } = problem(kind, detail);
    find("start-typing").hidden = !type;
    find("problem").dataset.kind = kind;
    find("problem-title").textContent = title;
    find("problem-text").textContent = text;
    find("start").disabled = !retry;
    if (detail.retryAfterS) this.waitFor(detail.retryAfterS);
    (type && !retry ? find("start-typing") : find("start")).focus();
  }

  /** Counts down what the server asked for; the button stays reachable, only its promise changes. */
  waitFor(secondsLeft) {
    let left = secondsLeft;
    const say = () => {
      find("problem-wait").textContent =
        left > 0 ? `Worth another try in ${left} s.` : "Now is a good moment to try again.";
      if (left <= 0) clearInterval(this.countdown);
      left -= 1;
    };
    say();
    this.countdown = setInterval(say, 1000);
  }

  banner(shown) {
    find("banner").hidden = shown === null;
    this.bannerAct = shown?.act ?? null;
    find("banner-act").hidden = !shown?.label;
    find("banner-title").textContent = shown?.title ?? "";
    find("banner-text").textContent = shown?.text ?? "";
    if (shown?.label) find("banner-act").textContent = shown.label;
  }

  tell(text) {
    find("status").textContent = text;
  }

  tick() {
    find("elapsed").textContent = clock(Date.now() - this.startedAt);
  }

  /** A phone that falls asleep in a pause would take the microphone with it. */
  async stayAwake() {
    try {
      this.wakeLock = await navigator.wakeLock?.request("screen");
    } catch {
      // Low battery or no support: the call still works while the screen is on.
    }
  }
}

function clock(ms) {
  const all = Math.max(0, Math.round(ms / 1000));
  const minutes = Math.floor(all / 60);
  return `${minutes}:${String(all % 60).padStart(2, "0")}`;
}

const room = new Room();

// Read-only figures for tests and for the curious: peak of what was played, chunks sent, queue faults.
Object.defineProperty(window, "vivaStats", {
  get: () => ({ ...room.audio.stats, droppedChunks: room.link?.droppedChunks ?? 0, phase: room.talk.phase }),
});
