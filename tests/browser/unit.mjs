// The page's pure parts, without a browser: the resampler's quality, the fold of the server's events,
// the latency plot's arithmetic.
import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";
import { join } from "node:path";
import { WEB, Suite } from "./harness.mjs";

const load = (name) => import(pathToFileURL(join(WEB, name)));
const { Resampler } = await load("resampler.js");
const { Conversation } = await load("conversation.js");
const { park, parked, unpark } = await load("parked.js");
const { stages, median } = await load("latency.js");

/** Converts one second of a tone in blocks of 128, as the audio thread does. */
function convert(from, to, hz) {
  const resampler = new Resampler(from, to, 128);
  const block = new Float32Array(128);
  const made = new Float32Array(resampler.outputMax);
  const out = [];
  for (let at = 0; at + 128 <= from; at += 128) {
    for (let i = 0; i < 128; i += 1) block[i] = Math.sin((2 * Math.PI * hz * (at + i)) / from);
    const written = resampler.push(block, 128, made);
    out.push(...made.subarray(0, written));
  }
  return out;
}

/** Power of the part of `signal` at `hz`, and of the whole, over 0.8 s: whole periods of each tone. */
function power(signal, rate, hz) {
  const middle = signal.slice(1000, 1000 + 0.8 * rate);
  let re = 0;
  let im = 0;
  let all = 0;
  middle.forEach((sample, i) => {
    re += sample * Math.cos((2 * Math.PI * hz * i) / rate);
    im += sample * Math.sin((2 * Math.PI * hz * i) / rate);
    all += sample * sample;
  });
  const n = middle.length;
  return { tone: (2 * (re * re + im * im)) / (n * n), whole: all / n };
}

const db = (ratio) => 10 * Math.log10(ratio);

export async function units() {
  const suite = new Suite("unit");

  await suite.test("a tone in the voice band keeps its level, with little added, at every rate", async () => {
    for (const [from, to] of [[48000, 24000], [44100, 24000], [16000, 24000], [24000, 48000], [24000, 44100]]) {
      for (const hz of [200, 1000, 3400, 6000]) {
        const { tone, whole } = power(convert(from, to, hz), to, hz);
        assert.ok(Math.abs(db(tone / 0.5)) < 0.5, `${from}→${to} at ${hz} Hz: ${db(tone / 0.5).toFixed(2)} dB`);
        const rest = db(Math.max(1e-12, whole - tone) / whole);
        assert.ok(rest < -50, `${from}→${to} at ${hz} Hz: residue ${rest.toFixed(1)} dB`);
      }
    }
  });

  await suite.test("what would fold back into the voice band is 60 dB down", async () => {
    for (const [from, hz] of [[48000, 15000], [48000, 20000], [44100, 16000]]) {
      const { whole } = power(convert(from, 24000, hz), 24000, 1000);
      assert.ok(db(whole / 0.5) < -60, `${hz} Hz from ${from}: ${db(whole / 0.5).toFixed(1)} dB`);
    }
  });

  await suite.test("no sample is lost or invented over a second of blocks", async () => {
    for (const [from, to] of [[48000, 24000], [44100, 24000]]) {
      const made = convert(from, to, 440).length;
      const pushed = Math.floor(from / 128) * 128;
      assert.ok(Math.abs(made - (pushed * to) / from) < 24, `${from}→${to}: ${made}`);
    }
  });

  await suite.test("a pull of exactly what is needed gives exactly what was asked", async () => {
    const resampler = new Resampler(24000, 44100, 2048);
    const out = new Float32Array(128);
    for (let i = 0; i < 500; i += 1) {
      const need = resampler.needed(128);
      assert.equal(resampler.push(new Float32Array(2048), need, out), 128, `block ${i}`);
    }
  });

  await suite.test("the candidate's line stands before the answer, even when its words come later", async () => {
    const talk = new Conversation();
    talk.handle({ type: "input_audio_buffer.speech_started", item_id: "u" });
    talk.handle({ type: "response.output_audio_transcript.delta", item_id: "a", delta: "Hello" });
    const kind = "conversation.item.input_audio_transcription.completed";
    talk.handle({ type: kind, item_id: "u", transcript: "Hi" });
    assert.deepEqual(talk.transcript(), ["You: Hi", "Viva: Hello"]);
  });

  await suite.test("after a cut no late sound plays and no late words are shown", async () => {
    const talk = new Conversation();
    const words = (delta) => talk.handle({ type: "response.output_audio_transcript.delta", item_id: "a", delta });
    talk.handle({ type: "response.output_audio.delta", item_id: "a", delta: "AAAA" });
    words("One two ");
    const cut = talk.handle({ type: "playback.clear", item_id: "a" });
    assert.deepEqual(cut[0], { do: "flush", item: "a" });
    assert.deepEqual(talk.handle({ type: "response.output_audio.delta", item_id: "a", delta: "AAAA" }), []);
    assert.deepEqual(words("three"), []);
    const done = { type: "response.done", response: { status: "cancelled", output: [{ id: "a" }] } };
    assert.ok(!talk.handle(done).some((action) => action.do === "flush"), "one cut flushes once");
    const asked = talk.handle({ type: "conversation.item.truncated", item_id: "a" });
    assert.equal(asked.at(-1).event.type, "conversation.item.retrieve");
    const heard = [{ type: "output_audio", transcript: "One" }];
    talk.handle({ type: "conversation.item.retrieved", item: { id: "a", content: heard } });
    assert.deepEqual(talk.transcript(), ["Viva: One —"]);
  });

  await suite.test("a cut shows what the server says was heard; a cough leaves no caption", async () => {
    const talk = new Conversation();
    talk.handle({ type: "response.output_audio_transcript.delta", item_id: "a", delta: "One two three" });
    talk.handle({ type: "playback.clear", item_id: "a" });
    talk.handle({ type: "response.output_audio_transcript.done", item_id: "a", transcript: "One two" });
    const item = { id: "a", content: [{ type: "output_audio", transcript: "One" }] };
    talk.handle({ type: "response.done", response: { status: "cancelled", output: [item] } });
    talk.handle({ type: "conversation.item.input_audio_transcription.delta", item_id: "u", delta: "hm" });
    assert.deepEqual(talk.transcript(), ["Viva: One —", "You: hm"]);
    talk.handle({ type: "viva.state", state: "listening" });
    assert.deepEqual(talk.transcript(), ["Viva: One —"]);
  });

  await suite.test("an answer heard to its end is not cut by what comes after it", async () => {
    const talk = new Conversation();
    talk.handle({ type: "response.created", response: { id: "r1" } });
    talk.handle({ type: "response.output_audio_transcript.delta", item_id: "a1", delta: "All of it." });
    talk.handle({ type: "response.output_audio.delta", item_id: "a1", delta: "AAAA" });
    talk.handle({ type: "response.done", response: { id: "r1", status: "completed", output: [{ id: "a1" }] } });
    assert.ok(!talk.say("Next.").some((action) => action.do === "flush"));
    talk.handle({ type: "response.created", response: { id: "r2" } });
    talk.handle({ type: "response.done", response: { id: "r2", status: "cancelled", output: [] } });
    assert.equal(talk.transcript()[0], "Viva: All of it.");
  });

  await suite.test("a voice on a track is known by its response: it sounds, ends, and a cut marks its line", async () => {
    const talk = new Conversation();
    talk.handle({ type: "response.output_item.added", response_id: "r1", item: { id: "a1" } });
    talk.handle({ type: "response.output_audio_transcript.delta", item_id: "a1", delta: "One two" });
    assert.deepEqual(talk.handle({ type: "output_audio_buffer.started", response_id: "r1" })[0], { do: "voice", item: "a1", on: true });
    assert.equal(talk.phase, "speaking");
    const cleared = talk.handle({ type: "output_audio_buffer.cleared", response_id: "r1" });
    assert.deepEqual(cleared[0], { do: "voice", item: "a1", on: false });
    assert.deepEqual(talk.transcript(), ["Viva: One two —"]);
    assert.deepEqual(talk.handle({ type: "output_audio_buffer.stopped", response_id: "unknown" })[0], { do: "voice", item: null, on: false });
  });

  await suite.test("a page that comes back in mid-answer knows of the answer: whoever types over it cancels it", async () => {
    const before = new Conversation();
    for (const event of [{ type: "viva.state", state: "speaking" }, { type: "response.created", response: { id: "r1" } },
      { type: "response.output_item.added", response_id: "r1", item: { id: "a1" } },
      { type: "response.output_audio_transcript.delta", item_id: "a1", delta: "One two " },
      { type: "response.output_audio.delta", item_id: "a1", delta: "AAAA" }]) before.handle(event);
    const after = new Conversation();
    after.restore(JSON.parse(JSON.stringify(before.kept)));
    assert.equal(after.phase, "speaking");
    after.handle({ type: "response.output_audio_transcript.delta", item_id: "a1", delta: "three." });
    assert.deepEqual(after.transcript(), ["Viva: One two three."]);
    const [cancel, flush] = after.say("No.");
    assert.deepEqual([cancel.event?.type, flush], ["response.cancel", { do: "flush", item: "a1" }]);
    const ended = new Conversation();
    ended.restore(JSON.parse(JSON.stringify(before.kept)));
    ended.handle({ type: "response.done", response: { id: "r1", status: "completed" } });
    assert.notEqual(ended.say("Yes.")[0].event?.type, "response.cancel", "it ended while the page was gone");
  });

  await suite.test("a place is kept as long as the server keeps it, and a broken note of it is none", async () => {
    const stored = new Map();
    globalThis.sessionStorage = { getItem: (k) => stored.get(k) ?? null, setItem: (k, v) => stored.set(k, v), removeItem: (k) => stored.delete(k) };
    assert.equal(parked(0), null);
    assert.ok(park({ token: "t", seconds: 30, lastEvent: "e1" }, { lines: [] }, 1000));
    assert.deepEqual([parked(30_999).token, parked(30_999).lastEvent], ["t", "e1"]);
    assert.equal(parked(31_000), null);
    stored.set("viva.parked", "{");
    assert.equal(parked(0), null);
    park({ token: "t", seconds: 30 }, {}, 0);
    unpark();
    assert.equal(parked(1), null);
    delete globalThis.sessionStorage;
  });

  await suite.test("unknown events and odd ones change nothing and throw nothing", async () => {
    const talk = new Conversation();
    for (const event of [{}, { type: "constructor" }, { type: "x.y" }, { type: "error" }, { type: "response.done" },
      { type: "conversation.item.added" }, { type: "conversation.item.retrieved" }, { type: "playback.clear" }]) {
      assert.ok(Array.isArray(talk.handle(event)), JSON.stringify(event));
    }
    assert.equal(talk.lines.size, 0);
  });

  await suite.test("a stage that was ready early costs nothing; the rest add up to the whole", async () => {
    const { rows, total } = stages({ endpoint_ms: 240, asr_final_ms: 198, llm_first_token_ms: 402, first_audio_ms: 790, voice_to_voice_ms: 842 });
    assert.equal(total, 842);
    assert.equal(rows.reduce((sum, row) => sum + row.to - row.from, 0), 842);
    assert.deepEqual(rows.filter((row) => row.early).map((row) => row.key), ["asr_final_ms"]);
    assert.equal(median([3, 1, NaN, 2]), 2);
  });

  return suite;
}
