// What the page knows of the talk, folded from the server's events. No DOM, no socket, no audio:
// `handle(event)` changes the model and returns what must be done about it, as plain actions.
//
// Actions: {do: "play", item, pcm64} {do: "flush", item} {do: "send", event} {do: "line", id}
//          {do: "phase"} {do: "turn", metrics} {do: "error", error}
//          {do: "voice", item, on} (the voice of an item began or ended, where it comes as a track)
//          {do: "complete", item} (all of an item's sound arrived, where it comes as samples)

// A long interview has some hundred lines; older ones leave the page, the download keeps what is shown.
const LINES_MAX = 400;
// How much of the talk is told again to a server that lost us.
const RETOLD_MAX = 20;
// Responses whose item is remembered: events about one that is older come too late to matter.
const RESPONSES_MAX = 16;

// A cancel can cross the end it meant to cancel on the wire: no fault, nothing for the caller to read.
const HARMLESS_ERRORS = new Set([
  "response_cancel_not_active",
  "conversation_already_has_active_response",
  "item_truncate_invalid_item_id",
]);

export class Conversation {
  constructor() {
    this.lines = new Map();
    this.turns = [];
    this.session = null;
    this.resetLink();
  }

  /** What belongs to one connection and dies with it. */
  resetLink() {
    this.phase = "listening";
    // A server with `viva.state` says its state; for any other one it is derived.
    this.told = false;
    this.activeResponse = null;
    this.speakingItem = null;
    this.cut = new Set();
    this.items = new Map();
    this.sounding = false;
    this.typed = 0;
  }

  handle(event) {
    if (!Object.hasOwn(HANDLERS, event.type)) return [];
    return HANDLERS[event.type](this, event);
  }

  /** Playback began or ended: for servers that do not tell their state. */
  setSounding(sounding) {
    if (this.sounding === sounding) return [];
    this.sounding = sounding;
    if (this.told) return [];
    if (sounding) return this.setPhase("speaking");
    return this.phase === "speaking" && !this.activeResponse ? this.setPhase("listening") : [];
  }

  /** The voice of a response began or ended on its own track. */
  voice(response, on) {
    const item = this.items.get(response) ?? null;
    if (on) this.speakingItem = item;
    return [{ do: "voice", item, on }, ...this.setSounding(on)];
  }

  /** What an earlier page must tell a later one of the same interview. */
  get kept() {
    const { phase, told, activeResponse, speakingItem } = this;
    const underWay = { phase, told, activeResponse, speakingItem, items: [...this.items] };
    return { lines: [...this.lines.values()], turns: this.turns, underWay };
  }

  /** Takes up what an earlier page showed, and the answer that was under way: of it no second beginning is told. */
  restore({ lines, turns, underWay }) {
    for (const line of lines) this.lines.set(line.id, line);
    this.turns = turns;
    const { phase, items, ...rest } = underWay;
    Object.assign(this, rest, { items: new Map(items) });
    return [...lines.map(({ id }) => ({ do: "line", id })), ...this.setPhase(phase)];
  }

  setPhase(phase) {
    if (this.phase === phase) return [];
    this.phase = phase;
    return [{ do: "phase" }];
  }

  derive(phase) {
    return this.told ? [] : this.setPhase(phase);
  }

  /** Makes sure the item has its place in the order of the talk; it is shown once it has words. */
  place(id, who) {
    if (!this.lines.has(id)) {
      this.lines.set(id, { id, who, text: "", final: false, cut: false, typed: false, at: Date.now() });
      if (this.lines.size > LINES_MAX) this.lines.delete(this.lines.keys().next().value);
    }
    return this.lines.get(id);
  }

  write(id, who, change) {
    Object.assign(this.place(id, who), change);
    return [{ do: "line", id }];
  }

  /** Empties captions of the candidate that were begun and never completed. */
  openCaptions() {
    const open = [...this.lines.values()].filter((line) => line.who === "candidate" && !line.final && line.text);
    return open.flatMap((line) => this.write(line.id, "candidate", { text: "" }));
  }

  /** Marks the item as cut and silences it; `heard` comes later with the truncation. */
  cutOff(item) {
    if (!item || this.cut.has(item)) return [];
    this.cut.add(item);
    const shown = this.lines.has(item);
    const marked = shown ? this.write(item, "interviewer", { cut: true, final: true }) : [];
    return [{ do: "flush", item }, ...marked];
  }

  /** The events of a typed turn. A reply that still runs is cancelled first. */
  say(text) {
    const actions = [];
    if (this.activeResponse) actions.push({ do: "send", event: { type: "response.cancel" } });
    if (this.activeResponse || this.sounding) actions.push(...this.cutOff(this.speakingItem));
    this.typed += 1;
    const id = `typed_${Date.now().toString(36)}_${this.typed}`;
    actions.push(...this.write(id, "candidate", { text, final: true, typed: true }));
    actions.push({ do: "send", event: { type: "conversation.item.create", item: message("user", text, id) } });
    actions.push({ do: "send", event: { type: "response.create" } });
    actions.push(...this.derive("thinking"));
    return actions;
  }

  /** The last lines as items, for a new session that should go on where the lost one stopped. */
  retell() {
    const told = [...this.lines.values()].filter((line) => line.final && line.text);
    return told.slice(-RETOLD_MAX).map((line) => {
      const item = message(line.who === "candidate" ? "user" : "assistant", line.text);
      return { type: "conversation.item.create", item };
    });
  }

  transcript() {
    const shown = [...this.lines.values()].filter((line) => line.text);
    return shown.map((line) => {
      const name = line.who === "candidate" ? "You" : "Viva";
      return `${name}: ${line.text.trim()}${line.cut ? " —" : ""}`;
    });
  }
}

function message(role, text, id) {
  const content = [{ type: role === "user" ? "input_text" : "output_text", text }];
  return id ? { id, type: "message", role, content } : { type: "message", role, content };
}

/** The words of an item, wherever its content keeps them. */
function words(item) {
  const parts = item?.content ?? [];
  return parts.map((part) => part.transcript ?? part.text ?? "").join(" ").trim();
}

function interviewerDelta(talk, { item_id: id, delta }) {
  if (talk.cut.has(id)) return [];
  const line = talk.place(id, "interviewer");
  return talk.write(id, "interviewer", { text: line.text + delta });
}

/** The whole text. After a cut it is what the server believes was heard, no more than was shown. */
function interviewerDone(talk, id, text) {
  if (talk.cut.has(id) && !talk.lines.has(id)) return [];
  return talk.write(id, "interviewer", { text: text ?? talk.place(id, "interviewer").text, final: true });
}

function itemAdded(talk, { item }) {
  if (item?.type !== "message" || !item.id) return [];
  const who = item.role === "user" ? "candidate" : "interviewer";
  if (item.role === "system") return [];
  const line = talk.place(item.id, who);
  const text = words(item);
  return text && !line.text ? talk.write(item.id, who, { text }) : [];
}

function responseDone(talk, { response }) {
  talk.activeResponse = null;
  if (response?.status === "cancelled") {
    const items = (response.output ?? []).filter((item) => item.id);
    const cut = new Set([...items.map((item) => item.id), talk.speakingItem]);
    const silenced = [...cut].flatMap((id) => talk.cutOff(id));
    const known = items.filter((item) => item.content?.length > 0 && talk.lines.has(item.id));
    const heard = known.flatMap((item) => talk.write(item.id, "interviewer", { text: words(item) }));
    return [...silenced, ...heard, ...talk.derive("listening")];
  }
  if (response?.status === "failed") {
    const error = response.status_details?.error ?? {};
    return [{ do: "error", error: { message: "The answer failed.", ...error } }, ...talk.derive("listening")];
  }
  return talk.sounding ? [] : talk.derive("listening");
}

const HANDLERS = {
  "session.created": (talk, { session }) => {
    talk.session = session?.id ?? null;
    return [{ do: "phase" }];
  },
  "viva.state": (talk, { state }) => {
    talk.told = true;
    // A sound that turned out to be no speech (a cough) leaves no words: its caption never ends.
    const dismissed = state === "listening" ? talk.openCaptions() : [];
    return [...dismissed, ...talk.setPhase(state)];
  },
  "input_audio_buffer.speech_started": (talk, { item_id: id }) => {
    if (id) talk.place(id, "candidate");
    return talk.derive("hearing");
  },
  "input_audio_buffer.speech_stopped": (talk) => talk.derive("thinking"),
  "input_audio_buffer.committed": (talk, { item_id: id }) => {
    if (id) talk.place(id, "candidate");
    return [];
  },
  "conversation.item.added": itemAdded,
  "response.output_item.added": (talk, { response_id: response, item }) => {
    if (!response || !item?.id) return [];
    talk.items.set(response, item.id);
    if (talk.items.size > RESPONSES_MAX) talk.items.delete(talk.items.keys().next().value);
    return [];
  },
  "output_audio_buffer.started": (talk, { response_id: response }) => talk.voice(response, true),
  "output_audio_buffer.stopped": (talk, { response_id: response }) => talk.voice(response, false),
  "output_audio_buffer.cleared": (talk, { response_id: response }) => [
    ...talk.voice(response, false),
    ...talk.cutOff(talk.items.get(response)),
  ],
  "conversation.item.input_audio_transcription.delta": (talk, { item_id: id, delta }) => {
    const line = talk.place(id, "candidate");
    return talk.write(id, "candidate", { text: line.text + delta });
  },
  "conversation.item.input_audio_transcription.completed": (talk, { item_id: id, transcript }) =>
    talk.write(id, "candidate", { text: transcript ?? "", final: true }),
  "conversation.item.input_audio_transcription.failed": (talk, { item_id: id }) =>
    talk.write(id, "candidate", { final: true }),
  "conversation.item.truncated": (talk, { item_id: id }) => {
    const cut = talk.cutOff(id);
    return [...cut, { do: "send", event: { type: "conversation.item.retrieve", item_id: id } }];
  },
  "conversation.item.retrieved": (talk, { item }) => {
    if (!item?.id || !talk.lines.has(item.id)) return [];
    return talk.write(item.id, talk.lines.get(item.id).who, { text: words(item), final: true });
  },
  "conversation.item.deleted": (talk, { item_id: id }) =>
    talk.lines.has(id) ? talk.write(id, talk.lines.get(id).who, { text: "" }) : [],
  "response.created": (talk, { response }) => {
    talk.activeResponse = response?.id ?? "response";
    // Nothing of this one has sounded; what sounded before it was heard to its end.
    talk.speakingItem = null;
    return talk.derive("thinking");
  },
  "response.output_audio.delta": (talk, { item_id: item, delta }) => {
    // What was still on the wire when the answer was cut must not sound.
    if (talk.cut.has(item)) return [];
    talk.speakingItem = item;
    return [{ do: "play", item, pcm64: delta }];
  },
  "response.output_audio.done": (talk, { item_id: item }) => [{ do: "complete", item }],
  "response.output_audio_transcript.delta": interviewerDelta,
  "response.output_audio_transcript.done": (talk, event) =>
    interviewerDone(talk, event.item_id, event.transcript),
  "response.output_text.delta": interviewerDelta,
  "response.output_text.done": (talk, event) => interviewerDone(talk, event.item_id, event.text),
  "response.done": responseDone,
  "playback.clear": (talk, { item_id: id }) => talk.cutOff(id ?? talk.speakingItem),
  "metrics.turn": (talk, event) => {
    talk.turns.push(event);
    return [{ do: "turn", metrics: event }];
  },
  error: (talk, { error }) => {
    if (HARMLESS_ERRORS.has(error?.code)) return [];
    return [{ do: "error", error: error ?? {} }];
  },
};
