// The server as the page asks it over plain HTTP: where its endpoints are, what it offers, and why it
// turned a call down. Knows no link, no audio and no page.

// Asked before a call; a server that takes longer than this to say what it offers is called over the socket.
const OFFER_TIMEOUT_MS = 3000;
// A probe after a refusal: nobody waits longer than this to be told why.
const PROBE_TIMEOUT_MS = 4000;
// What a server that is full asks for when it names no time itself, and the range of what is believed.
const RETRY_AFTER_DEFAULT_S = 15;
const RETRY_AFTER_MAX_S = 600;

export class Server {
  /** @param {{base?: string, key?: string|null}} options `base`: the page's address, any proxy's prefix included */
  constructor({ base = document.baseURI, key = null } = {}) {
    this.base = base;
    this.key = key;
  }

  get headers() {
    return this.key ? { Authorization: `Bearer ${this.key}` } : {};
  }

  address(path, query = {}) {
    const url = new URL(path, this.base);
    url.hash = "";
    url.search = new URLSearchParams(query).toString();
    return url;
  }

  /** What a call of either kind says of itself. */
  static query({ resume = null, lastEvent = null, record = false } = {}) {
    const back = resume && { resume, ...(lastEvent && { last_event: lastEvent }) };
    return { model: "viva", events: "extended", ...(record && { record: "true" }), ...back };
  }

  socketAddress(wish) {
    const url = this.address("v1/realtime", Server.query(wish));
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    return url.href;
  }

  callsAddress(wish) {
    return this.address("v1/realtime/calls", Server.query(wish)).href;
  }

  /** Of a `Location` only the last part counts: a proxy's prefix is not in it. */
  callAddress(location) {
    const name = location.split(/[?#]/)[0].split("/").filter(Boolean).at(-1);
    return this.address(`v1/realtime/calls/${name}`).href;
  }

  /**
   * What the server offers. One that does not know the question has neither WebRTC nor recordings.
   * @returns {Promise<{webrtc: boolean, iceServers: RTCIceServer[], recording: boolean, locked: boolean, at: number}>}
   *   `locked`: it says nothing without a key, or not with this one
   */
  async offer() {
    const none = { webrtc: false, iceServers: [], recording: false, locked: false, at: Date.now() };
    try {
      const reply = await fetch(this.address("v1/realtime/ice"), {
        headers: this.headers,
        cache: "no-store",
        signal: AbortSignal.timeout(OFFER_TIMEOUT_MS),
      });
      if (!reply.ok) return { ...none, locked: reply.status === 401 };
      const said = await reply.json();
      const iceServers = Array.isArray(said.ice_servers) ? said.ice_servers : [];
      return { ...none, webrtc: said.webrtc === true, iceServers, recording: said.recording === true };
    } catch {
      return none;
    }
  }

  /**
   * A browser hides the status of a refused handshake. The same address asked as plain HTTP, and the
   * readiness probe, tell it; no answer at all is no server.
   */
  async whyRefused(socketAddress) {
    const http = new URL(socketAddress);
    http.protocol = http.protocol === "wss:" ? "https:" : "http:";
    let reached = false;
    for (const address of [http, this.address("readyz")]) {
      try {
        const signal = AbortSignal.timeout(PROBE_TIMEOUT_MS);
        const reply = await fetch(address, { headers: this.headers, cache: "no-store", signal });
        reached = true;
        const why = await refusal(reply);
        if (why.reason !== "refused" && why.reason !== "absent") return why;
      } catch {
        // No answer from this address: the other one, or the last line, says what that means.
      }
    }
    return { reason: reached ? "refused" : "unreachable" };
  }
}

/**
 * What an HTTP answer that is no success means to a caller.
 * @param {Response} reply
 * @returns {Promise<{reason: string, retryAfterS?: number, message?: string}>} reason: full, unauthorised,
 *   expired (nothing is kept under this token), unrecorded (no recording to be had), absent, refused
 */
export async function refusal(reply) {
  const { status } = reply;
  const error = await reply.json().then((body) => body?.error ?? {}, () => ({}));
  const message = error.message;
  if (error.code === "recording_unavailable" || error.param === "record") return { reason: "unrecorded", message };
  if (status === 503 || status === 429) {
    return { reason: "full", retryAfterS: seconds(reply.headers.get("Retry-After")), message };
  }
  if (status === 401 || status === 403) return { reason: "unauthorised", message };
  if (error.code === "resume_expired") return { reason: "expired", message };
  if (status === 404 || status === 405) return { reason: "absent", message };
  return { reason: "refused", message };
}

/** The first whole number of a text, as seconds within reason. */
export function seconds(text) {
  const found = /\d+/.exec(text ?? "");
  return found ? Math.min(RETRY_AFTER_MAX_S, Math.max(1, Number(found[0]))) : RETRY_AFTER_DEFAULT_S;
}
