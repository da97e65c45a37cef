// The interview as the server tells where it stands: its parts, the question on the table, the time left.

const NAMES = {
  greeting: "Greeting",
  self_introduction: "About you",
  behavioral: "Your experience",
  technical: "Your craft",
  soft_skills: "Working together",
  questions: "Your questions",
  close: "Close",
};
const STATES = { done: "done", now: "now", to_come: "to come" };

export class Plan {
  /** @param {{find: (id: string) => HTMLElement, tell: (text: string) => void}} options */
  constructor({ find, tell }) {
    Object.assign(this, { find, tell });
    this.clear();
  }

  clear() {
    this.interview = null;
    this.told = null;
    this.section = null;
    this.endsAt = null;
    this.find("plan").hidden = true;
    this.find("plan-question").textContent = "";
    this.find("plan-sections").replaceChildren();
  }

  /** The interview this talk is, so that a page that is loaded again knows it. */
  set(interview) {
    this.interview = interview;
  }

  /** Takes one event of the server's. */
  take(event, now = Date.now()) {
    if (event.type !== "viva.interview" || !event.interview) return;
    const { sections = [], section, question, left_ms: left } = event.interview;
    this.find("plan").hidden = false;
    this.endsAt = Number.isFinite(left) ? now + left : null;
    this.find("plan-sections").replaceChildren(...sections.map((each) => this.part(each)));
    const shown = question ?? "";
    if (this.find("plan-question").textContent !== shown) this.find("plan-question").textContent = shown;
    this.find("plan-question").hidden = shown === "";
    if (section !== this.section && this.section !== null) this.tell(`Now: ${NAMES[section] ?? section}.`);
    this.section = section;
    this.tick(now);
  }

  part({ name, state }) {
    const item = document.createElement("li");
    item.textContent = NAMES[name] ?? name;
    item.dataset.state = state;
    if (state === "now") item.setAttribute("aria-current", "step");
    const said = Object.assign(document.createElement("span"), { className: "visually-hidden", textContent: `, ${STATES[state] ?? state}` });
    item.append(said);
    return item;
  }

  /** Once a second. */
  tick(now = Date.now()) {
    if (this.endsAt === null) return;
    const left = Math.max(0, Math.round((this.endsAt - now) / 1000));
    const text = left >= 60 ? `${Math.ceil(left / 60)} min left` : left > 0 ? "Less than a minute left" : "Time is up";
    if (this.find("plan-left").textContent !== text) this.find("plan-left").textContent = text;
  }

  /** The transcript as it is saved, with the interview's name where it is one. */
  heading(transcript) {
    if (!this.interview || transcript.length === 0) return transcript;
    return [`Interview ${this.interview.id}`, ...transcript];
  }

  /** What was said, to read on the page. */
  write(transcript) {
    const list = this.find("sum-transcript");
    const item = (text) => Object.assign(document.createElement("li"), { textContent: text });
    list.replaceChildren(...transcript.map(item));
    this.find("sum-details").hidden = transcript.length === 0;
  }
}
