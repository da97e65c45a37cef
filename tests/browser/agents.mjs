// Holds conversations with a running server through `@openai/agents-realtime` over WebRTC, as an outside party: in a page of
// headless Chromium with a microphone of the test's own. Writes every event to a file for whoever validates them, and
// prints a line for each feature that it has seen work.
//
//     VIVA_NODE=… node agents.mjs http://127.0.0.1:8790 spoken|functions EVENTS
import assert from "node:assert/strict";
import { appendFile, readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { DIRECT, eventually, launch } from "./harness.mjs";

const [url, scenario, log] = process.argv.slice(2);
const WITHIN = 20_000;
const MODULES = join(process.env.VIVA_NODE ?? join(homedir(), ".cache", "viva", "node"), "node_modules");
const BUNDLE = join(MODULES, "@openai", "agents-realtime", "dist", "bundle");

/** Runs in the page: a session as the framework's users make it, with a tone for a voice and an ear on the answer. */
async function begin({ url, functions }) {
  const { RealtimeAgent, RealtimeSession, OpenAIRealtimeWebRTC, tool } = await import("/bundle/openai-realtime-agents.mjs");
  const context = new AudioContext();
  await context.resume();
  const mouth = context.createMediaStreamDestination();
  const voice = new GainNode(context, { gain: 0 });
  const tone = new OscillatorNode(context, { frequency: 220 });
  tone.connect(voice).connect(mouth);
  tone.start();
  const element = document.createElement("audio");
  document.body.append(element);
  const at = { seen: [], failures: [], asked: [], loudest: 0, speak: (loud) => (voice.gain.value = loud ? 0.3 : 0) };
  window.at = at;
  const weather = tool({
    name: "weather",
    description: "Tells the weather of a city.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false },
    execute: async ({ city }) => {
      at.asked.push(city);
      return "It rains.";
    },
  });
  const agent = new RealtimeAgent({ name: "Viva", instructions: "Be brief.", tools: functions ? [weather] : [] });
  const transport = new OpenAIRealtimeWebRTC({
    baseUrl: `${url}/v1/realtime/calls`, mediaStream: mouth.stream, audioElement: element, useInsecureApiKey: true });
  const session = new RealtimeSession(agent, { transport, model: "viva" });
  at.session = session;
  session.on("transport_event", (event) => event.event_id && at.seen.push(event));
  session.on("error", (error) => at.failures.push(String(error?.error?.message ?? JSON.stringify(error))));
  await session.connect({ apiKey: "none" });
  at.callId = transport.callId;
  // The element plays; this listens beside it.
  const ear = new AnalyserNode(context, { fftSize: 1024 });
  context.createMediaStreamSource(element.srcObject).connect(ear);
  const samples = new Float32Array(ear.fftSize);
  setInterval(() => {
    ear.getFloatTimeDomainData(samples);
    at.loudest = Math.max(at.loudest, ...samples);
  }, 20);
}

const came = (page, type, after = 0) =>
  page.evaluate(([type, after]) => window.at.seen.slice(after).filter((event) => event.type === type), [type, after]);
const count = (page) => page.evaluate(() => window.at.seen.length);

async function until(page, what, probe) {
  const watched = async () => {
    const failures = await page.evaluate(() => window.at.failures);
    assert.equal(failures.length, 0, failures[0]);
    return probe();
  };
  try {
    return await eventually(what, watched, WITHIN);
  } catch (error) {
    const types = await page.evaluate(() => [...new Set(window.at.seen.map((event) => event.type))]);
    throw new Error(`${error.message}; came ${types}`);
  }
}

async function speak(page, ms) {
  await page.evaluate(() => window.at.speak(true));
  await page.waitForTimeout(ms);
  await page.evaluate(() => window.at.speak(false));
}

async function spoken(page) {
  assert.match(await page.evaluate(() => window.at.callId), /^rtc_/);
  await speak(page, 1200);
  await until(page, "a reply", async () => (await came(page, "output_audio_buffer.stopped")).length);
  const [done] = await came(page, "response.done");
  assert.equal(done.response.status, "completed");
  await until(page, "the voice", () => page.evaluate(() => window.at.loudest > 0.02));
  console.log("proved spoken turn");
  // The session asks for each item again and fills its history with what it gets.
  const said = (role) =>
    page.evaluate((role) => window.at.session.history.find((item) => item.role === role)?.content[0]?.transcript ?? "", role);
  await until(page, "both sides' words", async () => /word1/.test(await said("user")) && (await said("assistant")).length > 10);
  console.log("proved captions");
  assert.ok((await came(page, "conversation.item.retrieved")).length);
  console.log("proved items");
  let mark = await count(page);
  await speak(page, 1200);
  await until(page, "the next reply", async () => (await came(page, "output_audio_buffer.started", mark)).length);
  mark = await count(page);
  await speak(page, 1500);
  await until(page, "silence", async () => (await came(page, "output_audio_buffer.cleared", mark)).length);
  const [cut] = await until(page, "a cancelled reply", async () => {
    const ended = await came(page, "response.done", mark);
    return ended.length && ended;
  });
  assert.deepEqual([cut.response.status, cut.response.status_details.reason], ["cancelled", "turn_detected"]);
  console.log("proved interruption");
}

async function functions(page) {
  await page.evaluate(() => window.at.session.sendMessage("Does it rain in Oslo?"));
  await until(page, "a call", () => page.evaluate(() => window.at.asked[0] === "Oslo"));
  const result = async () => (await came(page, "conversation.item.added")).some(({ item }) => item.type === "function_call_output");
  await until(page, "its result", result);
  console.log("proved functions");
}

const browser = await launch({ args: DIRECT });
try {
  const page = await browser.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(String(error)));
  // A page of the server's own origin, as a server of a framework's user would serve it.
  await page.route("**/agents.html", (route) => route.fulfill({ contentType: "text/html", body: "<!doctype html><title>agents</title>" }));
  await page.route("**/bundle/*", async (route) =>
    route.fulfill({ contentType: "text/javascript", body: await readFile(join(BUNDLE, new URL(route.request().url()).pathname.split("/").at(-1))) }));
  await page.goto(`${url}/agents.html`);
  // Sound wants a person's touch first.
  await page.mouse.click(9, 9);
  await page.evaluate(`(${begin})(${JSON.stringify({ url, functions: scenario === "functions" })})`);
  await { spoken, functions }[scenario](page);
  const seen = await page.evaluate(() => {
    window.at.session.close();
    return window.at.seen;
  });
  assert.deepEqual(faults, [], "the page threw");
  await appendFile(log, seen.map((event) => `${JSON.stringify(event)}\n`).join(""));
  console.log(`ok ${scenario}, ${seen.length} events`);
} finally {
  await browser.close();
}
