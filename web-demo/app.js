// The interview room: joins the microphone, the conversation and the page. Decisions about the talk are in
// conversation.js, about the way to the server in ladder.js; this file only carries them out.
import { Sound } from "./audio.js";
import { Call } from "./call.js";
import { Captions } from "./captions.js";
import { Conversation } from "./conversation.js";
import { Devices } from "./devices.js";
import { Key, held } from "./key.js";
import { Latency, median } from "./latency.js";
import { Lobby } from "./lobby.js";
import { Meters } from "./meters.js";
import { park, parked, unpark } from "./parked.js";
import { Plan } from "./plan.js";
import { Presence } from "./presence.js";
import { microphoneProblem, problem } from "./problems.js";
import { Quality } from "./quality.js";
import { Reading } from "./reading.js";
import { Server } from "./server.js";
import { Settings } from "./settings.js";
import { fromBase64 } from "./socket.js";
import { Views, clock, find } from "./views.js";

// What is being tried while the connection is away.
const STEPS = {
  restart: "Looking for another way through the network.",
  call: "Calling the server again.",
};

class Room {
  constructor() {
    this.views = new Views();
    this.server = new Server({ key: held() });
    this.ownKey = this.server.key;
    this.key = new Key({ find, onKey: (key) => this.unlock(key) });
    this.choice = new Lobby({ server: this.server, find });
    this.plan = new Plan({ find, tell: (text) => this.views.tell(text) });
    this.audio = new Sound({ voice: find("voice") });
    this.talk = new Conversation();
    this.call = null;
    this.presence = new Presence(find("presence"));
    this.meters = new Meters({ audio: this.audio, inputBar: find("input-bar"), outputBar: find("output-bar"), presence: this.presence });
    this.captions = new Captions({ list: find("captions"), scroller: find("scroller"), announcer: find("announcer"), empty: find("empty") });
    this.reading = new Reading({ captions: this.captions });
    this.latency = new Latency({ figure: find("latency-figure"), plot: find("latency-plot"), caption: find("latency-caption") });
    this.quality = new Quality({
      panel: find("connection"),
      word: find("connection-word"),
      link: find("connection-link"),
      numbers: find("connection-numbers"),
      onPoor: (poor) => this.views.tell(poor ? "Your connection is poor." : "Your connection is better again."),
    });
    this.settings = new Settings({ audio: this.audio, find, onTheme: () => this.presence?.recolour() });
    this.captions.announce = this.settings.announce.checked;
    this.status = "idle";
    this.wire();
    this.devices = new Devices(this);
    this.greet();
  }

  wire() {
    const on = (id, act) => find(id).addEventListener("click", act);
    find("host").textContent = location.host || "this server";
    on("start", () => this.begin({ speak: true }));
    on("start-typing", () => this.begin({ speak: false }));
    on("return", () => this.comeBack());
    on("mute", () => this.toggleMute());
    on("leave", () => this.views.askLeaving(this.place?.seconds ?? null));
    on("end", () => this.end());
    on("step-out", () => this.stepOut());
    on("again", () => this.lobby());
    on("banner-close", () => this.views.banner(null));
    on("banner-act", () => this.views.bannerAct?.());
    find("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.typed();
    });
    window.addEventListener("pagehide", () => this.hidden());
    window.addEventListener("pageshow", ({ persisted }) => persisted && this.lobby());
    window.addEventListener("beforeunload", (event) => {
      // A place that is kept survives a reload; one that is not is worth a question.
      if (this.call && this.startedAt && !this.place) event.preventDefault();
    });
    matchMedia("(min-width: 60rem)").addEventListener("change", () => this.fitReadouts());
    this.fitReadouts();
  }

  fitReadouts() {
    find("latency").open = matchMedia("(min-width: 60rem)").matches;
  }

  /** The lobby's own: what the server offers, and whether an interview waits for this tab. */
  async greet() {
    this.views.parked(parked(), () => this.forget());
    this.offer = await this.server.offer();
    // Who brings a wrong key is told so; who brings none is asked for one.
    this.key.ask(this.offer.locked, { wrong: this.offer.locked && this.ownKey !== null });
    find("consent").hidden = !this.offer.recording;
    if (!this.offer.locked) await this.choice.offer();
  }

  /** Whether a key that was typed opens the server; then the lobby is as it would have been with it. */
  async unlock(key) {
    this.server.key = this.ownKey = key;
    const offer = await this.server.offer();
    if (offer.locked) return false;
    this.views.trouble(null);
    await this.greet();
    return true;
  }

  lobby() {
    this.server.key = this.ownKey;
    this.setStatus("idle");
    this.views.show("lobby");
    this.views.parked(parked(), () => this.forget());
  }

  forget() {
    unpark();
    this.views.parked(null);
  }

  // ── entering and leaving ──────────────────────────────────────────────────────────────────────

  async begin({ speak, place = null }) {
    if (this.busy) return;
    this.busy = true;
    this.views.trouble(null);
    this.views.waiting(speak ? "Asking for the microphone…" : "Opening the room…");
    try {
      if (speak && !window.isSecureContext) throw new DOMException("insecure", "SecurityError");
      await this.audio.start({ optional: !speak });
      if (speak) await this.openMicrophone();
      if (this.settings.speakerId) await this.audio.setSpeaker(this.settings.speakerId).catch(() => {});
    } catch (error) {
      await this.audio.stop();
      this.views.waiting(null);
      this.views.trouble(microphoneProblem(error));
      return;
    } finally {
      this.busy = false;
    }
    const interview = place ? (place.talk.interview ?? null) : await this.invited();
    if (interview === undefined) return;
    this.views.waiting(null);
    this.speak = speak;
    this.enter(place, interview);
  }

  /** The interview that is wished for; null for a free talk, undefined where there is none, and the reason shown. */
  invited() {
    return this.choice.invite().catch(async ({ kind = "refused", message }) => {
      await this.audio.stop();
      this.views.waiting(null);
      this.views.trouble(kind, { message });
    });
  }

  comeBack() {
    const place = parked();
    if (place) this.begin({ speak: place.talk.speak, place });
    else this.forget();
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
  }

  enter(place, interview) {
    this.forget();
    this.plan.clear();
    this.plan.set(interview);
    // What opens this interview, and nothing else.
    this.server.key = interview?.secret ?? this.ownKey;
    this.talk = new Conversation();
    this.captions.clear();
    this.reading.clear();
    this.latency.clear();
    this.quality.clear();
    this.views.banner(null);
    this.setMuted(false);
    this.views.speaks(this.speak);
    this.startedAt = place?.talk.startedAt ?? null;
    this.trackSounds = false;
    this.record = place ? place.talk.record : this.offer?.recording === true && find("record").checked;
    if (place) this.perform(this.talk.restore(place.talk));
    this.setStatus("connecting");
    this.views.show("talk");
    this.connect(place);
    this.stayAwake();
  }

  connect(place) {
    const call = new Call({ server: this.server, record: this.record, offer: this.offer });
    this.call = call;
    const on = (type, act) => call.addEventListener(type, ({ detail }) => this.call === call && act(detail));
    on("status", (status) => this.callStatus(status));
    on("failed", (why) => this.callFailed(why));
    on("stream", (stream) => this.audio.playStream(stream));
    on("message", (event) => {
      this.plan.take(event);
      this.perform(this.talk.handle(event));
    });
    call.open({ track: this.audio.track, token: place?.token, lastEvent: place?.lastEvent });
  }

  end() {
    const answers = [...this.talk.lines.values()].filter((line) => line.who === "interviewer" && line.text).length;
    const transcript = this.plan.heading(this.talk.transcript());
    this.leave({ hangup: true });
    this.forget();
    this.plan.write(transcript);
    this.views.summary({
      elapsedMs: this.startedAt ? Date.now() - this.startedAt : 0,
      answers,
      waitMs: median(this.talk.turns.map((turn) => turn.voice_to_voice_ms)),
      transcript,
    });
    this.setStatus("ended");
    this.views.show("summary");
    this.views.tell("The interview has ended.");
  }

  /** Leaves without ending: the server keeps the place for as long as it said. */
  stepOut() {
    this.parkHere();
    this.leave({ hangup: false });
    this.lobby();
    this.views.tell("You stepped out. Your interview is waiting.");
    find("return").focus();
  }

  /** The place the server would keep if we went now. */
  get place() {
    return this.startedAt ? (this.call?.kept ?? null) : null;
  }

  parkHere() {
    const kept = this.place;
    if (!kept) return;
    const { startedAt, speak, record } = this;
    park(kept, { startedAt, speak, record, interview: this.plan.interview, ...this.talk.kept });
  }

  /**
   * The page is closed, left or loaded again; which of them nobody can know yet, and a closed tab can be opened
   * again with all its storage. So a place that is kept is left, and the server told at once; anything else ends.
   */
  hidden() {
    if (!this.call) return;
    const kept = this.place;
    this.parkHere();
    this.leave({ hangup: !kept });
  }

  /** Lets go of the call, the devices and the clock. */
  leave({ hangup }) {
    const { call } = this;
    this.call = null;
    call?.close({ hangup });
    find("leaving").close();
    clearInterval(this.ticker);
    this.reading.clear();
    this.audio.stop();
    this.wakeLock?.release().catch(() => {});
    this.wakeLock = null;
  }

  // ── the way to the server ─────────────────────────────────────────────────────────────────────

  callStatus(change) {
    if (change.status === "open") this.opened(change);
    else if (change.status === "reconnecting") this.reconnecting(change);
  }

  opened({ via, again, resumed, blocked, awayMs }) {
    this.audio.setCapturing(via === "socket");
    if (via === "socket") {
      this.audio.playStream(null);
      this.trackSounds = false;
      this.reading.turnToSamples(performance.now());
    }
    this.quality.stands({ via, blocked });
    this.setStatus("live");
    this.views.banner(null);
    find("recording").hidden = !this.record;
    this.startedAt ??= Date.now();
    clearInterval(this.ticker);
    this.ticker = setInterval(() => this.tick(), 1000);
    this.tick();
    if (again || resumed) this.restored({ resumed, awayMs });
    else this.views.tell(blocked ? "Connected over a WebSocket, since no UDP comes through this network. Viva is listening." : "Connected. Viva is listening.");
    if (!this.speak && !again) find("typed").focus();
  }

  /** Where the session is a new one, it knows nothing of us: it is told what was said. */
  restored({ resumed, awayMs }) {
    if (!resumed) {
      this.audio.flush();
      this.reading.clear();
      this.talk.resetLink();
      this.showState();
      for (const event of this.talk.retell()) this.call.send(event);
    }
    this.reading.hold(this.talk.phase === "held", performance.now());
    const after = awayMs >= 1000 ? ` after ${Math.round(awayMs / 1000)} s` : "";
    this.captions.note(`Connection restored${after}`);
    this.views.tell(`Connection restored${after}.`);
  }

  reconnecting({ step, attempt, inMs }) {
    if (this.status !== "reconnecting") {
      this.reading.hold(true, performance.now());
      this.quality.away();
      this.views.tell("The connection dropped. Reconnecting.");
    }
    this.setStatus("reconnecting");
    const kept = this.call.kept ? "Your place is kept." : "Nothing is lost.";
    find("state-note").textContent = inMs ? `Try ${attempt} in ${(inMs / 1000).toFixed(1)} s. ${kept}` : STEPS[step];
  }

  callFailed({ kind, retryAfterS, message }) {
    if (kind === "ended") {
      this.end();
      return;
    }
    const seconds = this.call.kept?.seconds;
    if (this.startedAt) {
      const { title, text } = problem(kind, { message, seconds });
      const gone = kind === "expired";
      this.setStatus("reconnecting");
      find("state-word").textContent = "Not connected";
      find("state-note").textContent = gone ? "Go on in a new session, or leave." : "Try again, or leave.";
      this.views.banner({ title: `${title}.`, text, label: gone ? "Go on" : "Try again", act: () => this.tryAgain(gone) });
      return;
    }
    this.leave({ hangup: false });
    this.lobby();
    if (kind === "unauthorised") this.key.ask(true, { wrong: this.ownKey !== null });
    this.views.trouble(kind, { retryAfterS, message, seconds });
  }

  tryAgain(anew) {
    this.views.banner(null);
    this.setStatus("reconnecting");
    this.call.reopen({ anew });
  }

  // ── carrying out what the conversation decided ────────────────────────────────────────────────

  perform(actions) {
    for (const action of actions) {
      const line = this.talk.lines.get(action.item ?? action.id);
      if (action.do === "play") {
        this.reading.arrived(action.item, action.pcm64, line?.text ?? "");
        this.audio.play(action.item, fromBase64(action.pcm64));
      } else if (action.do === "complete") this.reading.complete(action.item);
      else if (action.do === "voice") this.voice(action, line?.text ?? "");
      else if (action.do === "flush") this.flush(action.item);
      else if (action.do === "send") this.call?.send(action.event);
      else if (action.do === "line") this.showLine(line);
      else if (action.do === "phase") this.showState();
      else if (action.do === "turn") this.latency.show(action.metrics, this.talk.turns, this.quality.addedMs);
      else if (action.do === "error") this.serverError(action.error);
    }
  }

  showLine(line) {
    this.reading.words(line);
    this.captions.update(line, this.talk.lines);
  }

  voice({ item, on }, text) {
    this.trackSounds = on;
    if (on && item) this.reading.began(item, text, performance.now());
    else if (!on) this.reading.ended(performance.now());
  }

  /**
   * Silences the player and tells the server how much of the item was really heard. A voice on a track has no
   * player here: the server stopped it, and knows what it sent.
   */
  async flush(item) {
    if (this.call?.via !== "socket") return;
    const before = Math.round(this.reading.heardBefore(item));
    const heard = await this.audio.flush(item);
    if (!Object.hasOwn(heard, item)) return;
    this.call?.send({ type: "conversation.item.truncate", item_id: item, content_index: 0, audio_end_ms: before + heard[item] });
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
    this.views.banner({ title: "The server reported a problem.", text: message ?? code ?? "" });
  }

  // ── devices ───────────────────────────────────────────────────────────────────────────────────

  toggleMute() {
    this.setMuted(!this.audio.muted);
    this.views.tell(this.audio.muted ? "Microphone muted." : "Microphone on.");
  }

  setMuted(muted) {
    this.audio.setMuted(muted);
    this.views.muted(muted);
    this.showState();
  }

  // ── the page ──────────────────────────────────────────────────────────────────────────────────

  setStatus(status) {
    this.status = status;
    this.showState();
  }

  showState() {
    const phase = this.status === "live" ? this.talk.phase : this.status;
    this.presence.setPhase(phase);
    if (this.status === "live") {
      this.audio.hold(phase === "held");
      this.reading.hold(phase === "held", performance.now());
    }
    this.views.state(phase, this.noteNow(phase));
  }

  noteNow(phase) {
    if (this.status !== "live" || !this.speak) return phase === "listening" ? "Type when you are ready." : null;
    if (this.audio.muted) return "Your microphone is muted.";
    if (this.devices.silentMic) return "Your microphone is silent. Is it switched off?";
    return null;
  }

  tick() {
    find("elapsed").textContent = clock(Date.now() - this.startedAt);
    this.plan.tick();
    if (this.status === "live") this.quality.look(this.call);
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

const room = new Room();

// Read-only figures for tests and for the curious: peak of what was played, chunks sent, queue faults.
Object.defineProperty(window, "vivaStats", {
  get: () => ({
    ...room.audio.stats,
    peak: Math.max(room.audio.stats.peak, room.meters.output.peak),
    droppedChunks: room.call?.droppedChunks ?? 0,
    phase: room.talk.phase,
    sounding: room.talk.sounding,
    via: room.call?.via ?? null,
    figures: room.quality.figures,
  }),
});
