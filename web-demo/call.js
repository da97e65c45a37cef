// The call: carries out what the ladder decides, over whichever link stands. To the page it is one call, from
// the first word to the last, however often the way to the server changed.
import { DirectLink } from "./direct.js";
import { Ladder } from "./ladder.js";
import { Server } from "./server.js";
import { SocketLink } from "./socket.js";

// What a server offers does not change while a page stands in the lobby, but what it hands out for TURN may
// be short-lived.
const OFFER_FRESH_MS = 60_000;

/**
 * Events: `status` (see ladder.js), `failed` {kind, retryAfterS?, message?}, `message` (one server event),
 * `stream` (the interviewer's voice, where it comes as a track).
 */
export class Call extends EventTarget {
  constructor({ server = new Server(), record = false, offer = null } = {}) {
    super();
    Object.assign(this, { server, record, offer });
    this.ladder = new Ladder();
    this.link = null;
    this.track = null;
    this.timer = null;
    this.droppedBefore = 0;
    // The last event of the server that the page has dealt with: what came after it is asked for again.
    this.lastEvent = null;
    this.onNetwork = () => this.do(this.ladder.network({ now: Date.now() }));
  }

  /**
   * @param {{track: MediaStreamTrack | null, token?: string | null, lastEvent?: string | null}} options
   *   `track`: what the microphone sends; the others take up a kept interview where the page left it
   */
  async open({ track, token = null, lastEvent = null }) {
    Object.assign(this, { track, lastEvent });
    this.wanted = true;
    window.addEventListener("online", this.onNetwork);
    navigator.connection?.addEventListener?.("change", this.onNetwork);
    this.emit("status", { status: "connecting" });
    if (!this.offer || Date.now() - this.offer.at > OFFER_FRESH_MS) this.offer = await this.server.offer();
    if (!this.wanted) return;
    const webrtc = this.offer.webrtc && typeof RTCPeerConnection === "function" && track !== null;
    this.do(this.ladder.begin({ webrtc, token }));
  }

  /** Another round of tries after `failed`, for the same conversation; `anew` in a session that is new. */
  reopen({ anew = false } = {}) {
    this.wanted = true;
    this.do(this.ladder.again({ now: Date.now(), anew }));
  }

  /** `hangup` ends the interview; without it the server keeps it for as long as it said. */
  async close({ hangup }) {
    this.wanted = false;
    this.ladder.end();
    clearTimeout(this.timer);
    window.removeEventListener("online", this.onNetwork);
    navigator.connection?.removeEventListener?.("change", this.onNetwork);
    await this.drop(hangup);
  }

  /** Chunks of microphone that a slow socket could not take. */
  get droppedChunks() {
    return this.droppedBefore + (this.link?.droppedChunks ?? 0);
  }

  get via() {
    return this.link?.via ?? null;
  }

  /** The token, for how many seconds the interview is kept, and the last event of it; if it is kept. */
  get kept() {
    const { token } = this.ladder;
    if (!token || !Number.isFinite(token.keptMs)) return null;
    return { token: token.value, seconds: token.keptMs / 1000, lastEvent: this.lastEvent };
  }

  send(event) {
    return this.link?.send(event) ?? false;
  }

  sendAudio(chunk) {
    this.link?.sendAudio(chunk);
  }

  replaceTrack(track) {
    this.track = track;
    this.link?.replaceTrack(track);
  }

  stats() {
    return this.link?.stats() ?? Promise.resolve(null);
  }

  do(actions) {
    for (const action of actions) {
      if (!this.wanted) return;
      if (action.do === "status") this.emit("status", action);
      else if (action.do === "open") this.dial(action);
      else if (action.do === "restart") this.restart();
      else if (action.do === "drop") this.drop(action.hangup);
      else if (action.do === "wait") this.wait(action.ms);
      else if (action.do === "fail") this.emit("failed", action);
    }
  }

  dial({ via, resume }) {
    const { server, record, track } = this;
    const link = via === "direct" ? new DirectLink({ server, record, track, iceServers: this.offer.iceServers }) : new SocketLink({ server, record });
    this.link = link;
    const on = (type, act) => link.addEventListener(type, ({ detail }) => this.link === link && this.wanted && act(detail));
    const told = (name) => (detail) => this.do(this.ladder[name]({ now: Date.now(), ...detail }));
    on("opened", told("opened"));
    on("failed", told("failed"));
    on("lost", told("lost"));
    on("mended", told("mended"));
    on("ended", () => this.do(this.ladder.fail("ended")));
    on("message", (event) => this.receive(event));
    on("stream", (stream) => this.emit("stream", stream));
    link.open({ resume, lastEvent: this.lastEvent });
  }

  async restart() {
    const { link } = this;
    const { ok, ...why } = await link.restart();
    if (this.link !== link || !this.wanted) return;
    const now = Date.now();
    this.do(ok ? this.ladder.restarted({ now }) : this.ladder.failed({ now, ...why }));
  }

  wait(ms) {
    clearTimeout(this.timer);
    if (ms === null) return;
    this.timer = setTimeout(() => this.do(this.ladder.waited({ now: Date.now() })), ms);
  }

  async drop(hangup) {
    const { link } = this;
    this.link = null;
    this.droppedBefore += link?.droppedChunks ?? 0;
    await link?.close({ hangup });
  }

  receive(event) {
    if (event.type === "viva.resume") this.ladder.kept({ token: event.token, expiresInS: event.expires_in_s });
    this.emit("message", event);
    this.lastEvent = event.event_id ?? this.lastEvent;
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
