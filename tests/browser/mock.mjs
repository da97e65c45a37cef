// A server in the test's own hands: playwright's routed WebSocket speaks the protocol's events, paced
// like the real one. It is a stand-in for states no real server can be brought into on demand.

export class MockServer {
  /** @param {import("playwright-core").Page} page */
  constructor(page) {
    this.page = page;
    this.received = [];
    this.sockets = [];
    this.closed = [];
    this.audioChunks = 0;
    this.audio = [];
    // What the interviewer's sound runs ahead of the clock, and how much of it was sent.
    this.lead = 120;
    this.sentMs = 0;
    this.onConnect = (socket) => this.greet(socket);
  }

  async install() {
    await this.page.routeWebSocket(/\/v1\/realtime/, (socket) => {
      this.sockets.push(socket);
      socket.onClose((code) => this.closed.push(code));
      socket.onMessage((data) => this.receive(JSON.parse(data)));
      this.onConnect(socket, this.sockets.length);
    });
    return this;
  }

  receive(event) {
    if (event.type === "input_audio_buffer.append") {
      this.audioChunks += 1;
      this.audio.push(event.audio);
    } else {
      this.received.push(event);
    }
    this.onEvent?.(event);
  }

  greet(socket) {
    socket.send(JSON.stringify({ type: "session.created", event_id: "e0", session: { id: "sess_mock" } }));
  }

  send(...events) {
    for (const event of events) this.sockets.at(-1).send(JSON.stringify(event));
  }

  of(type) {
    return this.received.filter((event) => event.type === type);
  }

  /** The candidate's turn, from the first sound to the recognised words. */
  candidate(item, text) {
    const part = { item_id: item, content_index: 0 };
    const half = Math.ceil(text.length / 2);
    const kind = "conversation.item.input_audio_transcription";
    this.send(
      { type: "input_audio_buffer.speech_started", audio_start_ms: 400, item_id: item },
      { type: "viva.state", state: "hearing" },
      { type: `${kind}.delta`, ...part, delta: text.slice(0, half) },
      { type: `${kind}.delta`, ...part, delta: text.slice(half) },
      { type: "input_audio_buffer.speech_stopped", audio_end_ms: 2400, item_id: item },
      { type: "viva.state", state: "thinking" },
      { type: "input_audio_buffer.committed", item_id: item, previous_item_id: null },
      { type: `${kind}.completed`, ...part, transcript: text },
    );
  }

  /** The interviewer's turn: words at once, sound at the pace of speech with a lead of 120 ms. */
  async interviewer(item, text, { ms = 1500, finish = true, response = `resp_${item}` } = {}) {
    const part = { response_id: response, item_id: item, output_index: 0, content_index: 0 };
    this.send(
      { type: "response.created", response: { id: response, status: "in_progress", output: [] } },
      { type: "viva.state", state: "speaking" },
      { type: "conversation.item.added", item: { id: item, type: "message", role: "assistant", status: "in_progress", content: [] } },
    );
    for (const word of text.split(/(?<= )/)) {
      this.send({ type: "response.output_audio_transcript.delta", ...part, delta: word });
    }
    const started = Date.now();
    for (let at = 0; at < ms && !this.stopped; at += 20) {
      this.send({ type: "response.output_audio.delta", ...part, delta: voice(at) });
      this.sentMs += 20;
      const ahead = at + 20 - this.lead - (Date.now() - started);
      if (ahead > 0) await new Promise((next) => setTimeout(next, ahead));
    }
    if (!finish || this.stopped) return;
    this.send(
      { type: "response.output_audio.done", ...part },
      { type: "response.output_audio_transcript.done", ...part, transcript: text },
      { type: "response.done", response: { id: response, status: "completed", output: [{ id: item }] } },
      { type: "viva.state", state: "listening" },
    );
  }
}

/** 20 ms of a voice-like tone at 24 kHz: syllables four times a second over a 160 Hz buzz. */
function voice(atMs) {
  const pcm = Buffer.alloc(960);
  for (let i = 0; i < 480; i += 1) {
    const t = atMs / 1000 + i / 24000;
    const syllable = 0.35 + 0.65 * Math.max(0, Math.sin(2 * Math.PI * 2 * t)) ** 2;
    const buzz = Math.sin(2 * Math.PI * 160 * t) + 0.5 * Math.sin(2 * Math.PI * 480 * t);
    pcm.writeInt16LE(Math.round(9000 * syllable * buzz), i * 2);
  }
  return pcm.toString("base64");
}

export const METRICS = {
  type: "metrics.turn",
  turn: 1,
  heard: "",
  said: "",
  endpoint_ms: 212,
  asr_final_ms: 184,
  llm_first_token_ms: 371,
  first_sentence_ms: 588,
  first_audio_ms: 702,
  voice_to_voice_ms: 748,
};
