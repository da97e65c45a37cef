// The captions: one paragraph a turn, both sides, words as they come. Finished turns are also said to
// a screen reader, whole, through a live region of their own: a stream of deltas would be unreadable. The
// word that sounds is marked while it does.
import { split } from "./spoken.js";

// Nearer to the end than this, a reader is following along and the view scrolls with the talk.
const FOLLOW_PX = 96;

export class Captions {
  constructor({ list, scroller, announcer, empty }) {
    Object.assign(this, { list, scroller, announcer, empty });
    this.rows = new Map();
    this.texts = new Map();
    this.spoken = new Set();
    this.read = { id: null, index: -1 };
    this.announce = true;
  }

  clear() {
    this.list.replaceChildren();
    this.rows.clear();
    this.texts.clear();
    this.spoken.clear();
    this.empty.hidden = false;
  }

  /** Shows the line as it is now; `lines` gives the order of the talk. */
  update(line, lines) {
    const following = this.atEnd();
    const row = this.rows.get(line.id) ?? this.insert(line, lines);
    row.hidden = line.text.trim() === "";
    row.classList.toggle("is-live", !line.final);
    row.classList.toggle("is-cut", line.cut);
    this.texts.set(line.id, line);
    this.write(line.id);
    row.querySelector(".cut").hidden = !line.cut;
    this.empty.hidden = [...this.rows.values()].some((each) => !each.hidden);
    this.markNewest();
    if (line.final) this.say(line);
    if (following) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** The word of this line that sounds now; null when none does. */
  reading(id, index = -1) {
    const before = this.read.id;
    this.read = { id, index };
    if (before !== null && before !== id) this.write(before);
    if (id !== null) this.write(id);
  }

  /** A line that is read aloud word by word; of a caller's line the newest word is the one being spoken. */
  write(id) {
    const line = this.texts.get(id);
    const place = this.rows.get(id)?.querySelector(".words");
    if (!line || !place) return;
    const text = line.text.trim();
    const live = line.who === "candidate" && !line.final;
    if (id !== this.read.id && !live) {
      if (place.childElementCount > 0 || place.textContent !== text) place.textContent = text;
      return;
    }
    const words = split(text);
    const spans = () => place.getElementsByClassName("word");
    if (place.textContent !== text || spans().length !== words.length) {
      // The space between two words is no part of either: only words are marked.
      place.replaceChildren(...words.flatMap((word) => [element("span", "word", word.trim()), word.slice(word.trim().length)]));
    }
    const at = live ? words.length - 1 : this.read.index;
    [...spans()].forEach((span, i) => {
      span.classList.toggle("now", i === at);
      span.classList.toggle("ahead", i > at);
    });
  }

  insert(line, lines) {
    const row = document.createElement("li");
    row.className = `line ${line.who}`;
    const name = element("span", "name", line.who === "candidate" ? "You" : "Viva");
    const text = element("p", "text");
    const cut = element("span", "cut", " —");
    cut.append(element("span", "visually-hidden", " (interrupted)"));
    cut.hidden = true;
    text.append(element("span", "words"), cut);
    row.append(name, text);
    // The candidate's words are often ready after the answer began: order is the talk's, not arrival's.
    let after = null;
    for (const id of lines.keys()) {
      if (id === line.id) break;
      after = this.rows.get(id) ?? after;
    }
    if (after) after.after(row);
    else this.list.prepend(row);
    this.rows.set(line.id, row);
    return row;
  }

  /** A line of its own between turns, such as "Connection restored". */
  note(text) {
    this.list.append(element("li", "note", text));
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  markNewest() {
    let newest = null;
    for (const row of this.list.children) {
      row.classList.remove("is-newest");
      if (!row.hidden && row.classList.contains("interviewer")) newest = row;
    }
    newest?.classList.add("is-newest");
  }

  say(line) {
    const key = `${line.id}/${line.cut}`;
    if (!this.announce || line.typed || !line.text.trim() || this.spoken.has(key)) return;
    this.spoken.add(key);
    const name = line.who === "candidate" ? "You" : "Viva";
    const said = element("p", "", `${name}: ${line.text.trim()}${line.cut ? " (interrupted)" : ""}`);
    this.announcer.append(said);
    while (this.announcer.children.length > 6) this.announcer.firstChild.remove();
  }

  atEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < FOLLOW_PX;
  }
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
