// Holds conversations with a running server through `@openai/agents-realtime`, as an outside party: one that is spoken,
// or one in which the model calls a function. Writes every event to a file for whoever validates them.
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
session.on('error', (error) => failures.push(error));
let heard = 0;
session.on('audio', ({ data }) => { heard += data.byteLength; });

async function until(what, condition) {
  const end = Date.now() + WITHIN;
  while (!condition()) {
    assert.equal(failures.length, 0, JSON.stringify(failures[0]));
    assert(Date.now() < end, `no ${what} in time; came ${seen.map((e) => e.type)}`);
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
} else {
  let n = 0;
  for (; n < 60; n += 1) {
    session.sendAudio(frame(n, 9_000));
    await sleep(20);
  }
  const quiet = setInterval(() => session.sendAudio(frame((n += 1), 0)), 20);
  const said = (role) => session.history.find((item) => item.role === role)?.content[0]?.transcript ?? '';
  await until('reply', () => seen.some((e) => e.type === 'response.done'));
  // The session asks for each item again and fills its history with what it gets.
  await until('history', () => said('user').startsWith('word1') && said('assistant').length > 10);
  clearInterval(quiet);
  assert(heard > RATE, 'half a second of voice at the least');
}
session.close();
console.log(`ok ${scenario}, ${seen.length} events`);
process.exit(0);
