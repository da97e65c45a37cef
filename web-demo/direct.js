// One call over WebRTC: both voices on RTP, the events on a data channel. It connects once, can restart its
// way through the network, and says when it is lost; what then happens is decided in ladder.js.
import { refusal } from "./server.js";
import { sessionUpdate } from "./socket.js";

// UDP that has not come through after so long will not: the wait is the caller's, before the first word.
const CONNECT_TIMEOUT_MS = 4000;
// The answer to an offer is made at once; a server that takes longer than this is not well.
const SIGNAL_TIMEOUT_MS = 8000;
// On the way back the network itself may be dead, and a request into it hangs: better asked again soon.
const RETURN_TIMEOUT_MS = 3000;
// An outage shorter than this heals by itself (a handover between two access points, say).
const DISCONNECTED_MAX_MS = 2000;
// A browser takes five seconds and more to call a dead way disconnected. Fifty packets of voice or of silence come
// every second: when none came for so long, none will.
const SILENT_MAX_MS = 3000;
const PULSE_MS = 1000;
// Hanging up is a courtesy; nobody waits longer than this for it.
const HANGUP_TIMEOUT_MS = 1000;

const UP = new Set(["connected", "completed"]);

/**
 * Emits `stream` (the interviewer's voice), `opened`, `message`; before `opened` `failed` {reason, …}, after it
 * `lost` {reason: "ice" | "channel"}, which a later `restart()` may mend, and `mended` where it did so itself. Reasons of `failed`: udp (nothing
 * came through in time), network (no HTTP either), unsupported (this browser), and those of `refusal`.
 */
export class DirectLink extends EventTarget {
  constructor({ server, iceServers = [], track, record = false }) {
    super();
    Object.assign(this, { via: "direct", server, iceServers, track, record });
    this.location = null;
    this.ready = false;
    this.over = false;
    this.timer = null;
    this.grace = null;
    // What has arrived so far, and when that last grew; none before the call stands.
    this.pulse = null;
    this.arrived = 0;
    this.aliveAt = 0;
    this.silent = false;
  }

  async open({ resume = null, lastEvent = null } = {}) {
    this.resume = resume;
    let offer;
    try {
      this.build();
      offer = await this.peer.createOffer();
      await this.peer.setLocalDescription(offer);
    } catch (error) {
      this.fail({ reason: "unsupported", message: error.message });
      return;
    }
    if (this.over) return;
    // The offer leaves before any candidate is found: the server learns where we are from our first packet.
    const wish = { resume, lastEvent, record: this.record };
    const answer = await this.signal("POST", this.server.callsAddress(wish), offer.sdp);
    if (this.over) {
      // Given up while the server was answering: what it holds for us must not stay.
      if (answer.ok) await this.hangUp();
      return;
    }
    if (!answer.ok) {
      this.fail(answer);
      return;
    }
    this.arm("udp");
    await this.accept(answer.sdp);
  }

  build() {
    this.peer = new RTCPeerConnection({ iceServers: this.iceServers, bundlePolicy: "max-bundle" });
    this.sender = this.peer.addTransceiver(this.track, { direction: "sendrecv" }).sender;
    this.peer.ontrack = ({ track }) => this.emit("stream", new MediaStream([track]));
    this.peer.oniceconnectionstatechange = () => this.iceChanged();
    this.channel = this.peer.createDataChannel("oai-events");
    this.channel.onmessage = ({ data }) => this.receive(data);
    this.channel.onclose = () => this.lose("channel");
  }

  async accept(sdp) {
    try {
      await this.peer.setRemoteDescription({ type: "answer", sdp });
      return true;
    } catch (error) {
      this.fail({ reason: "unsupported", message: error.message });
      return false;
    }
  }

  /** @returns {Promise<{ok: boolean, sdp?: string, reason?: string, retryAfterS?: number, message?: string}>} */
  async signal(method, address, sdp) {
    const headers = { ...this.server.headers, "Content-Type": "application/sdp" };
    // Whatever description the server has last: the answer to our last restart may have been lost on its way.
    if (method === "PATCH") headers["If-Match"] = "*";
    const coming = method === "POST" && this.resume === null;
    try {
      const signal = AbortSignal.timeout(coming ? SIGNAL_TIMEOUT_MS : RETURN_TIMEOUT_MS);
      const reply = await fetch(address, { method, headers, body: sdp, cache: "no-store", signal });
      if (!reply.ok) return { ok: false, ...(await refusal(reply)) };
      const location = reply.headers.get("Location");
      if (location) this.location = this.server.callAddress(location);
      return { ok: true, sdp: await reply.text() };
    } catch (error) {
      return { ok: false, reason: "network", message: error.message };
    }
  }

  /**
   * Looks for another way through the network, with the same session at its end.
   * @returns {Promise<{ok: boolean, reason?: string}>} reason: network (not even HTTP), udp, or what the server said
   */
  async restart() {
    if (!this.peer || !this.location) return { ok: false, reason: "absent" };
    try {
      // An earlier try may have left its offer open; a newer one takes its place.
      if (this.peer.signalingState === "have-local-offer") await this.peer.setLocalDescription({ type: "rollback" });
      const offer = await this.peer.createOffer({ iceRestart: true });
      await this.peer.setLocalDescription(offer);
      const answer = await this.signal("PATCH", this.location, offer.sdp);
      if (!answer.ok || this.over) return { ...answer, ok: false };
      await this.peer.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    } catch (error) {
      return { ok: false, reason: "unsupported", message: error.message };
    }
    const before = await this.feel();
    const ok = await this.connected(CONNECT_TIMEOUT_MS, before);
    return ok ? { ok } : { ok, reason: "udp" };
  }

  /** Waits until packets come through: more than had arrived `before`, whatever the browser calls its state. */
  async connected(limitMs, before) {
    const end = Date.now() + limitMs;
    while (!this.over && Date.now() < end) {
      const arrived = await this.feel();
      if ((arrived > before || arrived === 0) && UP.has(this.peer.iceConnectionState) && this.channel.readyState === "open") return true;
      await new Promise((next) => setTimeout(next, 50));
    }
    return false;
  }

  /** Takes the pulse of the way. @returns {Promise<number>} packets that arrived so far; 0 says nothing */
  async feel() {
    let arrived = 0;
    const report = await this.peer.getStats().catch(() => new Map());
    // Of all counters only this one neither falls nor starts anew when the way changes.
    for (const each of report.values()) if (each.type === "inbound-rtp") arrived += each.packetsReceived ?? 0;
    if (this.over) return arrived;
    const now = Date.now();
    if (arrived > this.arrived || arrived === 0) {
      this.aliveAt = now;
      if (this.silent) this.emit("mended", {});
      this.silent = false;
    } else if (!this.silent && now - this.aliveAt > SILENT_MAX_MS) {
      this.silent = true;
      this.lose("ice");
    }
    this.arrived = Math.max(this.arrived, arrived);
    return arrived;
  }

  iceChanged() {
    const state = this.peer?.iceConnectionState;
    clearTimeout(this.grace);
    if (UP.has(state)) {
      // A way was found; what is still missing is the handshake above it.
      if (this.ready) this.emit("mended", {});
      else this.arm("udp");
    } else if (state === "disconnected") {
      this.grace = setTimeout(() => this.lose("ice"), DISCONNECTED_MAX_MS);
    } else if (state === "failed") {
      this.lose("ice");
    }
  }

  receive(data) {
    if (typeof data !== "string") return;
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      console.warn("viva: a message that is not JSON was ignored");
      return;
    }
    if (event.type === "session.created" && !this.ready) {
      clearTimeout(this.timer);
      this.ready = true;
      this.pulse = setInterval(() => this.feel(), PULSE_MS);
      if (!this.resume) this.send(sessionUpdate());
      this.emit("opened", {});
    }
    this.emit("message", event);
  }

  /** @returns {boolean} whether the event was handed to the channel */
  send(event) {
    if (this.channel?.readyState !== "open") return false;
    this.channel.send(JSON.stringify(event));
    return true;
  }

  /** The microphone travels as a track, not as events. */
  sendAudio() {}

  /** Another microphone, or silence, from now on; nothing is negotiated for it. */
  async replaceTrack(track) {
    this.track = track;
    await this.sender?.replaceTrack(track);
  }

  async stats() {
    if (!this.peer || this.over) return null;
    return { via: "direct", report: await this.peer.getStats() };
  }

  /** `hangup` ends the interview; without it the server takes us for lost and keeps it for a while. */
  async close({ hangup }) {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.timer);
    clearTimeout(this.grace);
    clearInterval(this.pulse);
    if (this.channel) this.channel.onclose = null;
    const hungUp = hangup ? this.hangUp() : null;
    this.peer?.close();
    await hungUp;
  }

  async hangUp() {
    if (!this.location) return;
    const signal = AbortSignal.timeout(HANGUP_TIMEOUT_MS);
    // A page that is going away may still finish this one.
    await fetch(this.location, { method: "DELETE", headers: this.server.headers, keepalive: true, signal }).catch(() => {});
  }

  arm(reason) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.fail({ reason }), CONNECT_TIMEOUT_MS);
  }

  fail(detail) {
    if (this.over || this.ready) return;
    // Until now nobody has spoken: a call that never stood is ended, so that its seat is free at once.
    this.close({ hangup: this.resume === null }).then(() => this.emit("failed", detail));
  }

  lose(reason) {
    if (this.over) return;
    if (this.ready) this.emit("lost", { reason });
    else if (reason === "ice" || this.location) this.fail({ reason: "udp" });
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
