// Holds conversations with a running server through `@openai/agents-realtime`, as an outside party: one that is spoken,
// or one in which the model calls a function. Writes every event to a file for whoever validates them, and prints a line
// for each feature that it has seen work.
//
//     VIVA_NODE_MODULES=… node agents_client.mjs http://127.0.0.1:8790 spoken|functions EVENTS
import assert from 'node:assert/strict';
import { appendFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(`${process.env.VIVA_NODE_MODULES}/`);
const { RealtimeAgent, RealtimeSession, tool } = require('@openai/agents-realtime');
const { z } = require('zod');

const [url, scenario, log] = process.argv.slice(2);
const RATE = 24_000;
const WITHIN = 20_000;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const asked = [];
const weather = tool({
  name: 'weather',
  description: 'Tells the weather of a city.',
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    asked.push(city);
    return 'It rains.';
  },
});
const tools = scenario === 'functions' ? [weather] : [];
const agent = new RealtimeAgent({ name: 'Viva', instructions: 'Be brief.', tools });
const session = new RealtimeSession(agent, { transport: 'websocket', model: 'viva' });
const seen = [];
const failures = [];
session.on('transport_event', (event) => {
  seen.push(event);
  if (event.event_id) appendFileSync(log, `${JSON.stringify(event)}\n`);
});
// The session cancels what it hears interrupted, which the server has then done already.
const harmless = ({ error }) => error?.error?.code === 'response_cancel_not_active';
session.on('error', (error) => harmless(error) || failures.push(error));
let interrupted = 0;
session.on('audio_interrupted', () => { interrupted += 1; });
let heard = 0;
session.on('audio', ({ data }) => { heard += data.byteLength; });

async function until(what, condition) {
  const end = Date.now() + WITHIN;
  while (!condition()) {
    assert.equal(failures.length, 0, JSON.stringify(failures[0]));
    assert(Date.now() < end, `no ${what} in time; came ${[...new Set(seen.map((e) => e.type))]}`);
    await sleep(20);
  }
}

/** 20 ms of a tone, or of silence. */
function frame(n, level) {
  const samples = Int16Array.from({ length: RATE / 50 }, (_, i) => level * Math.sin((n * (RATE / 50) + i) * 0.0576));
  return samples.buffer;
}

await session.connect({ apiKey: 'none', url: `${url.replace('http', 'ws')}/v1/realtime?model=viva` });
if (scenario === 'functions') {
  session.sendMessage('Does it rain in Oslo?');
  await until('call', () => asked.length > 0);
  assert.equal(asked[0], 'Oslo');
  await until('result', () => seen.some((e) => e.type === 'conversation.item.added' && e.item.type === 'function_call_output'));
  console.log('proved functions');
} else {
  let n = 0;
  let level = 0;
  const microphone = setInterval(() => session.sendAudio(frame((n += 1), level)), 20);
  const speak = async (ms) => {
    level = 9_000;
    await sleep(ms);
    level = 0;
  };
  const came = (type, after = 0) => seen.slice(after).filter((event) => event.type === type);
  const said = (role) => session.history.find((item) => item.role === role)?.content[0]?.transcript ?? '';
  await speak(1_200);
  await until('reply', () => came('response.done').length > 0);
  assert(heard > RATE, 'half a second of voice at the least');
  console.log('proved spoken turn');
  // The session asks for each item again and fills its history with what it gets.
  await until('history', () => said('user').startsWith('word1') && said('assistant').length > 10);
  console.log('proved captions');
  assert(came('conversation.item.retrieved').length > 0);
  console.log('proved items');
  let mark = seen.length;
  await speak(1_200);
  await until('the next reply', () => came('response.output_audio.delta', mark).length > 0);
  mark = seen.length;
  await speak(1_200);
  await until('a cancelled reply', () => came('response.done', mark).length > 0);
  assert.equal(came('response.done', mark)[0].response.status, 'cancelled');
  assert(interrupted > 0, 'the session knows of it');
  console.log('proved interruption');
  await until('truncation', () => came('conversation.item.truncated', mark).length > 0);
  console.log('proved truncation');
  clearInterval(microphone);
}
session.close();
console.log(`ok ${scenario}, ${seen.length} events`);
process.exit(0);
