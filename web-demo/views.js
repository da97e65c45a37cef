// What the page shows around the talk: its three views, what went wrong, and short words to the screen reader.
// It decides nothing; app.js says what to show.
import { readable } from "./latency.js";
import { problem } from "./problems.js";

export const find = (id) => document.getElementById(id);

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

const BEGIN = "Begin the interview";

export function clock(ms) {
  const all = Math.max(0, Math.round(ms / 1000));
  const minutes = Math.floor(all / 60);
  return `${minutes}:${String(all % 60).padStart(2, "0")}`;
}

export class Views {
  show(view) {
    document.documentElement.dataset.view = view;
    for (const name of ["lobby", "talk", "summary"]) find(name).hidden = name !== view;
    const inRoom = view === "talk";
    for (const name of ["state", "meters", "readouts", "clock"]) find(name).hidden = !inRoom;
    if (!inRoom) find("recording").hidden = true;
    find("elapsed").textContent = "0:00";
    find(`${view}-title`).focus({ preventScroll: true });
  }

  /** Who has the floor; `note` in place of the usual second line. */
  state(phase, note) {
    const [word, usual] = STATES[phase] ?? STATES.listening;
    document.documentElement.dataset.phase = phase;
    find("state-word").textContent = word;
    find("state-note").textContent = note ?? usual;
  }

  /** A call is being made: `label` says what is waited for, null that nothing is. */
  waiting(label) {
    const busy = label !== null;
    find("start").setAttribute("aria-busy", String(busy));
    for (const id of ["start", "start-typing", "return"]) find(id).disabled = busy;
    find("start-label").textContent = label ?? BEGIN;
  }

  /** What kept the caller out, in the lobby. */
  trouble(kind, detail = {}) {
    clearInterval(this.countdown);
    find("problem").hidden = kind === null;
    find("problem-wait").textContent = "";
    find("start").disabled = false;
    find("start-label").textContent = kind === null ? BEGIN : "Try again";
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
      find("problem-wait").textContent = left > 0 ? `Worth another try in ${left} s.` : "Now is a good moment to try again.";
      if (left <= 0) clearInterval(this.countdown);
      left -= 1;
    };
    say();
    this.countdown = setInterval(say, 1000);
  }

  /** An interview that waits for the caller until `until`, or none. */
  parked(found, onGone) {
    clearInterval(this.parking);
    find("waiting").hidden = found === null;
    find("start").classList.toggle("primary", found === null);
    find("start").classList.toggle("secondary", found !== null);
    if (found === null) return;
    const say = () => {
      const left = found.until - Date.now();
      find("waiting-left").textContent = clock(left);
      if (left <= 0) onGone();
    };
    this.parking = setInterval(say, 1000);
    say();
  }

  banner(shown) {
    find("banner").hidden = shown === null;
    this.bannerAct = shown?.act ?? null;
    find("banner-act").hidden = !shown?.label;
    find("banner-title").textContent = shown?.title ?? "";
    find("banner-text").textContent = shown?.text ?? "";
    if (shown?.label) find("banner-act").textContent = shown.label;
  }

  /** Short words for the screen reader. */
  tell(text) {
    find("status").textContent = text;
  }

  muted(muted) {
    find("mute").setAttribute("aria-pressed", String(muted));
    find("mute-label").textContent = muted ? "Unmute" : "Mute";
    document.documentElement.toggleAttribute("data-muted", muted);
  }

  /** Whether the caller speaks or types in this talk. */
  speaks(speaks) {
    find("mute").hidden = !speaks;
    find("meters").classList.toggle("no-mic", !speaks);
    find("typed").placeholder = speaks ? "Or type an answer" : "Type an answer";
    find("empty").textContent = `${speaks ? "Say hello" : "Write a greeting"} when you are ready. What both of you say appears here.`;
  }

  /** Opens the question how to leave; `seconds`: how long the place would be kept, null for not at all. */
  askLeaving(seconds) {
    find("step-choice").hidden = seconds === null;
    find("step-note").textContent = `Your microphone closes and Viva waits ${Math.round(seconds ?? 0)}\u00a0s for you to come back on this page. Loading the page again does the same.`;
    find("leaving").showModal();
    find("end").focus();
  }

  summary({ elapsedMs, answers, waitMs, transcript }) {
    find("sum-time").textContent = clock(elapsedMs);
    find("sum-turns").textContent = String(answers);
    find("sum-wait").textContent = readable(waitMs);
    const download = find("download");
    download.hidden = transcript.length === 0;
    if (download.href) URL.revokeObjectURL(download.href);
    download.href = URL.createObjectURL(new Blob([`${transcript.join("\n\n")}\n`], { type: "text/plain" }));
  }
}
