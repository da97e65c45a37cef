// One call over a WebSocket: events both ways, the voices inside them as base64. It connects once and says
// how that went; whether and how to try again is decided in ladder.js.
import { seconds } from "./server.js";

// A handshake that takes longer than this will not come.
const CONNECT_TIMEOUT_MS = 10_000;
// About 1.5 s of microphone in base64: beyond it the link is too slow, and late speech helps nobody.
const BACKLOG_MAX_BYTES = 96_000;
// How a page says that it only goes away. When it is left or loaded again its browser says 1001 for it, which a
// page itself may not.
const STEPPED_OUT = 4001;
// Bytes of one second of microphone on the wire: 24 kHz of PCM16 in base64.
const BYTES_PER_S = 64_000;

export function sessionUpdate() {
  const format = { type: "audio/pcm", rate: 24000 };
  return {
    type: "session.update",
    session: {
      type: "realtime",
      output_modalities: ["audio"],
      audio: {
        input: {
          format,
          transcription: {},
          turn_detection: { type: "semantic_vad", create_response: true, interrupt_response: true },
        },
        output: { format },
      },
    },
  };
}

/** PCM16 bytes to base64; a 20 ms chunk (960 bytes) is far below the argument limit of `apply`. */
export function toBase64(buffer) {
  return btoa(String.fromCharCode.apply(null, new Uint8Array(buffer)));
}

/** Base64 to PCM16; a trailing odd byte is dropped. */
export function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length & ~1);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = binary.charCodeAt(i);
  return bytes.buffer;
}

/**
 * Emits `opened` once the server says that the session stands; `message` (one server event); before that
 * `failed` {reason, retryAfterS?, message?}, after it `lost` {reason} or `ended`. One of the three is the last.
 */
export class SocketLink extends EventTarget {
  constructor({ server, record = false }) {
    super();
    this.via = "socket";
    this.server = server;
    this.record = record;
    this.socket = null;
    this.ready = false;
    this.droppedChunks = 0;
  }

  open({ resume = null, lastEvent = null } = {}) {
    const key = this.server.key;
    const protocols = key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"];
    this.address = this.server.socketAddress({ resume, lastEvent, record: this.record });
    let socket;
    try {
      socket = new WebSocket(this.address, protocols);
    } catch (error) {
      this.emit("failed", { reason: "unreachable", message: error.message });
      return;
    }
    this.socket = socket;
    this.resume = resume;
    this.timer = setTimeout(() => socket.close(resume ? STEPPED_OUT : 1000), CONNECT_TIMEOUT_MS);
    socket.onmessage = ({ data }) => this.socket === socket && this.receive(data);
    socket.onclose = (event) => this.socket === socket && this.closed(event);
  }

  /** @returns {boolean} whether the event was handed to the socket */
  send(event) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(event));
    return true;
  }

  /** Sends one chunk of microphone, or drops it when the link cannot keep up. */
  sendAudio(buffer) {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    if (this.socket.bufferedAmount > BACKLOG_MAX_BYTES) {
      this.droppedChunks += 1;
      return;
    }
    this.socket.send(`{"type":"input_audio_buffer.append","audio":"${toBase64(buffer)}"}`);
  }

  /** The microphone travels as events here: which track it comes from is the capture's business. */
  replaceTrack() {}

  /** What can be seen of the way from here: how much of the microphone still waits to leave. */
  async stats() {
    return { via: "socket", waitingMs: ((this.socket?.bufferedAmount ?? 0) / BYTES_PER_S) * 1000, dropped: this.droppedChunks };
  }

  /** `hangup` ends the interview; without it the server keeps it for a while. One that never stood is ended. */
  async close({ hangup }) {
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = null;
    socket?.close(hangup || !(this.ready || this.resume) ? 1000 : STEPPED_OUT);
  }

  receive(data) {
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      console.warn("viva: a frame that is not JSON was ignored");
      return;
    }
    // The session stands when the server says so, not when the handshake ended.
    if (event.type === "session.created" && !this.ready) {
      clearTimeout(this.timer);
      this.ready = true;
      // A session that is taken up again has its settings.
      if (!this.resume) this.send(sessionUpdate());
      this.emit("opened", {});
    }
    this.emit("message", event);
  }

  async closed({ code, reason }) {
    clearTimeout(this.timer);
    this.socket = null;
    if (code === 1013) this.emit("failed", { reason: "full", retryAfterS: seconds(reason) });
    else if (code === 1008) this.emit("failed", { reason: "unauthorised", message: reason });
    else if (this.ready && code === 1000) this.emit("ended", {});
    else if (this.ready) this.emit("lost", { reason: "socket" });
    else this.emit("failed", await this.server.whyRefused(this.address));
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
