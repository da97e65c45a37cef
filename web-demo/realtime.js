// The client of `/v1/realtime`: one WebSocket, the OpenAI Realtime GA events, a bounded reconnect.
// It knows no page and no audio device; `Realtime` emits what happened and takes what to send.

// Half a second of silence is cheaper than half a minute of waiting: 0.5, 1, 2, 4, 8, 8 s, then give up.
const RETRY_BASE_MS = 500;
const RETRY_MAX_MS = 8000;
const RETRIES_MAX = 6;
// A handshake that takes longer than this will not come.
const CONNECT_TIMEOUT_MS = 10_000;
// About 1.5 s of microphone in base64: beyond it the link is too slow, and late speech helps nobody.
const BACKLOG_MAX_BYTES = 96_000;
// What a server that is full asks for when it names no time itself.
const RETRY_AFTER_DEFAULT_S = 15;

/** Where the socket lives, next to the page, whatever prefix a proxy put before it. */
export function realtimeUrl(base = document.baseURI) {
  const url = new URL("v1/realtime", base);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  url.search = "?model=viva&events=extended";
  return url.href;
}

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
 * Events, through `addEventListener`: `status` {status, attempt?, inMs?} with status connecting, open,
 * reconnecting, or closed; `message` (one server event); `failed` {kind, retryAfterS?, message?} with
 * kind full, unauthorised, unreachable or lost: nothing more will be tried.
 */
export class Realtime extends EventTarget {
  constructor({ url = realtimeUrl(), key = null } = {}) {
    super();
    this.url = url;
    this.key = key;
    this.socket = null;
    this.wanted = false;
    this.opened = false;
    this.attempt = 0;
    this.timer = null;
    this.droppedChunks = 0;
  }

  open() {
    this.wanted = true;
    this.opened = false;
    this.attempt = 0;
    this.connect();
  }

  /** Another round of tries after `failed`, for the same conversation. */
  reopen() {
    this.wanted = true;
    this.attempt = 0;
    this.connect();
  }

  close() {
    this.wanted = false;
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = null;
    socket?.close(1000);
    this.emit("status", { status: "closed" });
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

  connect() {
    this.emit("status", { status: this.opened ? "reconnecting" : "connecting", attempt: this.attempt });
    const protocols = this.key ? ["realtime", `openai-insecure-api-key.${this.key}`] : ["realtime"];
    let socket;
    try {
      socket = new WebSocket(this.url, protocols);
    } catch (error) {
      this.fail({ kind: "unreachable", message: error.message });
      return;
    }
    this.socket = socket;
    this.ready = false;
    this.timer = setTimeout(() => socket.close(), CONNECT_TIMEOUT_MS);
    socket.onmessage = ({ data }) => this.socket === socket && this.receive(data);
    socket.onclose = (event) => this.socket === socket && this.closed(event);
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
      const again = this.opened;
      this.ready = true;
      this.opened = true;
      this.attempt = 0;
      this.send(sessionUpdate());
      this.emit("status", { status: "open", again });
    }
    this.emit("message", event);
  }

  async closed(event) {
    clearTimeout(this.timer);
    this.socket = null;
    if (!this.wanted) return;
    if (event.code === 1013) {
      this.fail({ kind: "full", retryAfterS: seconds(event.reason) });
    } else if (event.code === 1008) {
      this.fail({ kind: "unauthorised", message: event.reason });
    } else if (this.ready && event.code === 1000) {
      this.fail({ kind: "ended", message: event.reason });
    } else if (!this.opened) {
      this.fail(await whyRefused(this.url, this.key));
    } else {
      this.retry();
    }
  }

  retry() {
    if (this.attempt >= RETRIES_MAX) {
      this.fail({ kind: "lost" });
      return;
    }
    const full = Math.min(RETRY_MAX_MS, RETRY_BASE_MS * 2 ** this.attempt);
    // Up to a quarter of jitter, so that a restarted server isn't met by everyone at once.
    const inMs = Math.round(full * (1 - Math.random() / 4));
    this.attempt += 1;
    this.emit("status", { status: "reconnecting", attempt: this.attempt, inMs });
    this.timer = setTimeout(() => this.wanted && this.connect(), inMs);
  }

  fail(detail) {
    if (!this.wanted) return;
    this.wanted = false;
    this.emit("failed", detail);
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function seconds(text) {
  const found = /\d+/.exec(text ?? "");
  return found ? Math.min(600, Math.max(1, Number(found[0]))) : RETRY_AFTER_DEFAULT_S;
}

/**
 * A browser hides the status of a refused handshake. The same address asked as plain HTTP, and the
 * readiness probe, tell it: 503/429 is full, 401/403 is a missing key, no answer at all is no server.
 */
async function whyRefused(url, key) {
  const http = new URL(url);
  http.protocol = http.protocol === "wss:" ? "https:" : "http:";
  const ready = new URL("../readyz", http);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let reached = false;
  for (const address of [http, ready]) {
    try {
      const signal = AbortSignal.timeout(4000);
      const reply = await fetch(address, { headers, cache: "no-store", signal });
      reached = true;
      if (reply.status === 503 || reply.status === 429) {
        return { kind: "full", retryAfterS: seconds(reply.headers.get("Retry-After")) };
      }
      if (reply.status === 401 || reply.status === 403) return { kind: "unauthorised" };
    } catch {
      // No answer from this address: the other one, or the last line, says what that means.
    }
  }
  return { kind: reached ? "refused" : "unreachable" };
}
