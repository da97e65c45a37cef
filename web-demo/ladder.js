// Which way to the server is tried next: a pure machine. It is told what happened and when, and answers with
// what to do; timers, sockets and peers are call.js's. Nothing here waits, draws or connects.
//
// The way in: WebRTC, and the WebSocket where no UDP comes through. The way back, when a link is lost: a new
// path for the same call (restart), a fresh call that takes the same interview up again by its token, the
// WebSocket with that token; then a pause, and again. The fresh call is left out where the server answered the
// restart and still no UDP came through: it would wait for the same nothing, and spend the token on it. Without
// a token a new session is opened, and told what was said.
//
// Actions: {do: "open", via, resume} {do: "restart"} {do: "drop", hangup} {do: "wait", ms (null: no longer)}
//          {do: "status", status, …} {do: "fail", kind, …}

// Half a second of silence is cheaper than half a minute of waiting: 0.5, 1, 2, 4, 8, 8 s, then give up. With
// the tries themselves this covers the half minute a server keeps an interview.
const RETRY_BASE_MS = 500;
const RETRY_MAX_MS = 8000;
const RETRIES_MAX = 6;
// A token is good for as long as the server says, from the moment the server misses us; that may be later
// than the moment we miss it, by as long as an ICE agent takes to notice.
const NOTICE_MS = 20_000;

// What no other way to the same server can mend.
const FINAL = new Set(["full", "unauthorised", "unrecorded"]);

export class Ladder {
  /** @param {{random?: () => number}} options `random`: spreads the retries */
  constructor({ random = Math.random } = {}) {
    this.random = random;
    this.rung = "idle";
    this.via = null;
    this.token = null;
    this.reset();
  }

  reset() {
    this.attempt = 0;
    this.lostAt = null;
    this.hungUp = false;
  }

  /** Enters: `webrtc` says whether the direct way is there at all, `token` takes up a parked interview. */
  begin({ webrtc, token = null }) {
    this.reset();
    this.direct = webrtc;
    this.blocked = false;
    this.token = token ? { value: token, keptMs: Infinity } : null;
    this.stood = false;
    return [{ do: "status", status: "connecting" }, ...this.dial(webrtc ? "direct" : "socket")];
  }

  /** The session stands on this link. */
  opened({ now }) {
    const again = this.stood;
    const resumed = this.resuming;
    const awayMs = this.lostAt === null ? 0 : now - this.lostAt;
    this.via = this.dialled;
    this.stood = true;
    this.rung = "live";
    this.reset();
    return [{ do: "status", status: "open", via: this.via, again, resumed, blocked: this.blocked, awayMs }];
  }

  /** A try came to nothing. */
  failed({ reason, now, ...detail }) {
    if (this.rung === "live" || this.rung === "idle") return reason === "full" || reason === "unauthorised" ? this.fail(reason, detail) : [];
    if (this.rung === "restart") return this.restartFailed(reason, now);
    if (reason === "expired") return this.fail(this.hungUp ? "ended" : "expired", detail);
    const direct = this.dialled === "direct";
    if (!this.stood) return this.entryFailed(direct, reason, detail);
    if (reason === "unauthorised") return this.fail(reason, detail);
    // Where not even HTTP gets through, another protocol to the same place would not either.
    if (direct && reason !== "network") return this.dial("socket");
    return this.pause(now);
  }

  entryFailed(direct, reason, detail) {
    if (!direct || FINAL.has(reason)) return this.fail(reason === "network" ? "unreachable" : reason, detail);
    this.blocked = reason === "udp";
    // A browser or a network that would not have it once won't have it later either.
    if (reason !== "network") this.direct = false;
    return this.dial("socket");
  }

  /** The link broke: "ice", "channel" (the other side closed it) or "socket". */
  lost({ reason, now }) {
    const restarting = this.rung === "restart";
    if (this.rung !== "live" && !restarting) return [];
    this.lostAt ??= now;
    this.hungUp = reason === "channel";
    const told = { do: "status", status: "reconnecting", step: reason === "ice" ? "restart" : "call" };
    if (reason === "ice") {
      const known = restarting && !this.quiet;
      this.rung = "restart";
      this.quiet = false;
      if (known) return [];
      return restarting ? [told] : [told, { do: "restart" }];
    }
    if (reason === "channel") return [told, ...this.dial(this.direct ? "direct" : "socket")];
    return this.pause(now);
  }

  /** The old way came back by itself while we waited to renew it. */
  mended({ now }) {
    if (this.rung !== "wait" || this.next !== "restart") return [];
    this.rung = "restart";
    return [{ do: "wait", ms: null }, ...this.restarted({ now })];
  }

  /** The machine has another network now: the way is renewed before it is missed. */
  network({ now }) {
    if (this.rung === "wait") return this.waited({ now });
    if (this.rung !== "live" || this.via !== "direct") return [];
    this.rung = "restart";
    this.quiet = true;
    return [{ do: "restart" }];
  }

  restarted({ now }) {
    if (this.rung !== "restart") return [];
    const quiet = this.quiet;
    const awayMs = this.lostAt === null ? 0 : now - this.lostAt;
    this.rung = "live";
    this.reset();
    return quiet ? [] : [{ do: "status", status: "open", via: this.via, again: true, resumed: true, blocked: false, awayMs }];
  }

  restartFailed(reason, now) {
    if (this.quiet && reason !== "absent") {
      // Nothing was missed so far. If the old way is dead, the link itself will say so.
      this.rung = "live";
      return [];
    }
    this.lostAt ??= now;
    if (reason === "network") return this.pause(now, "restart");
    this.blocked = reason === "udp";
    return [{ do: "status", status: "reconnecting", step: "call" }, ...this.dial(this.blocked ? "socket" : "direct")];
  }

  /** The pause is over. */
  waited({ now }) {
    if (this.rung !== "wait") return [];
    if (this.token && this.lostAt !== null && now - this.lostAt > this.token.keptMs + NOTICE_MS) return this.fail("expired");
    const status = { do: "status", status: "reconnecting", step: this.next === "restart" ? "restart" : "call", attempt: this.attempt };
    if (this.next === "restart") {
      this.rung = "restart";
      return [status, { do: "restart" }];
    }
    return [status, ...this.dial(this.direct && this.via === "direct" ? "direct" : "socket")];
  }

  /** The server said how this interview is taken up again. */
  kept({ token, expiresInS }) {
    this.token = typeof token === "string" ? { value: token, keptMs: Math.max(0, expiresInS ?? 0) * 1000 } : null;
  }

  /** Another round after `fail`, asked for by the caller; `anew`: what was kept is gone, a new session will do. */
  again({ now, anew = false }) {
    if (anew) {
      this.token = null;
      this.stood = true;
    }
    this.reset();
    this.lostAt = now;
    const via = this.direct && this.via !== "socket" ? "direct" : "socket";
    return [{ do: "status", status: this.stood ? "reconnecting" : "connecting", step: "call" }, ...this.dial(via)];
  }

  end() {
    this.rung = "idle";
  }

  dial(via) {
    this.rung = "dial";
    this.dialled = via;
    this.resuming = this.token !== null;
    // A session that cannot be taken up again is ended, so that its seat is free.
    return [{ do: "drop", hangup: !this.resuming }, { do: "open", via, resume: this.token?.value ?? null }];
  }

  pause(now, next = "call") {
    if (this.attempt >= RETRIES_MAX) return this.fail("lost");
    const full = Math.min(RETRY_MAX_MS, RETRY_BASE_MS * 2 ** this.attempt);
    // Up to a quarter of jitter, so that a restarted server isn't met by everyone at once.
    const ms = Math.round(full * (1 - this.random() / 4));
    this.attempt += 1;
    this.rung = "wait";
    this.next = next;
    this.lostAt ??= now;
    return [{ do: "status", status: "reconnecting", step: "wait", attempt: this.attempt, inMs: ms }, { do: "wait", ms }];
  }

  fail(kind, detail = {}) {
    this.rung = "idle";
    return [{ do: "drop", hangup: false }, { do: "fail", kind, ...detail }];
  }
}
