// The lobby's choice: which interview, by whom, how long. Without a role the talk is a free one, as it always was.

// What a server takes to find a role's fields; beyond it something is wrong.
const ASK_TIMEOUT_MS = 15_000;
const LEVELS = ["junior", "mid", "senior", "lead"];

export class Lobby {
  /** @param {{server: import("./server.js").Server, find: (id: string) => HTMLElement}} options */
  constructor({ server, find }) {
    Object.assign(this, { server, find });
    this.interviewers = [];
    find("interviewer").addEventListener("change", () => this.chosen());
  }

  /** Shows the form once the server has said who its interviewers are; one that has none has no form. */
  async offer() {
    try {
      const signal = AbortSignal.timeout(ASK_TIMEOUT_MS);
      const reply = await fetch(this.server.address("interview/voice/interviewers"), { headers: this.server.headers, signal });
      this.interviewers = reply.ok ? await reply.json() : [];
    } catch {
      this.interviewers = [];
    }
    if (!Array.isArray(this.interviewers) || this.interviewers.length === 0) return;
    const option = ({ name, about }) => Object.assign(document.createElement("option"), { value: name, textContent: `${name[0].toUpperCase()}${name.slice(1)} – ${about}` });
    this.find("interviewer").replaceChildren(...this.interviewers.map(option));
    if (this.interviewers.some(({ name }) => name === "friendly")) this.find("interviewer").value = "friendly";
    this.find("choice").hidden = false;
    this.chosen();
  }

  /** What an interviewer asks about unless told otherwise shows in the fields. */
  chosen() {
    const who = this.who;
    if (!who) return;
    this.find("role").placeholder = who.role || "Such as nurse, or backend engineer";
    if (LEVELS.includes(who.level)) this.find("level").value = who.level;
    const minutes = [...this.find("minutes").options].map(({ value }) => value);
    if (minutes.includes(String(who.minutes))) this.find("minutes").value = String(who.minutes);
  }

  get who() {
    return this.interviewers.find(({ name }) => name === this.find("interviewer").value);
  }

  /** What is wished for; null for a free talk. */
  get wish() {
    const who = this.who;
    const role = this.find("role").value.trim() || who?.role;
    if (!who || !role) return null;
    return { role, level: this.find("level").value, minutes: Number(this.find("minutes").value), interviewer: who.name };
  }

  /**
   * Asks for the interview that is wished for.
   * @returns {Promise<{id: string, secret: string} | null>} null for a free talk
   * @throws {{kind: string, message?: string}} as problems.js takes it
   */
  async invite() {
    const wish = this.wish;
    if (!wish) return null;
    let reply;
    try {
      reply = await fetch(this.server.address("interview/voice/sessions"), {
        method: "POST",
        headers: { ...this.server.headers, "Content-Type": "application/json" },
        body: JSON.stringify(wish),
        signal: AbortSignal.timeout(ASK_TIMEOUT_MS),
      });
    } catch {
      throw { kind: "unreachable" };
    }
    const said = await reply.json().catch(() => ({}));
    const kinds = { 400: "wish", 401: "unauthorised", 403: "unauthorised", 429: "full", 503: "full" };
    if (!reply.ok) throw { kind: kinds[reply.status] ?? "refused", message: said?.error?.message };
    return { id: said.id, secret: said.client_secret.value };
  }
}
