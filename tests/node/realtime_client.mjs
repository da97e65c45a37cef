// Holds a spoken conversation with a running server over TLS, with the official `openai` client for node, as an
// outside party: it insists on `wss:`. Writes every event to a file, one JSON object a line, for whoever validates them.
//
//     VIVA_NODE_MODULES=… node realtime_client.mjs https://127.0.0.1:8790 KEY EVENTS
import assert from 'node:assert/strict';
import { appendFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(`${process.env.VIVA_NODE_MODULES}/`);
const { default: OpenAI } = require('openai');
const { OpenAIRealtimeWS } = require('openai/realtime/ws');

const [url, apiKey, log] = process.argv.slice(2);
const RATE = 24_000;
const WITHIN = 20_000;

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey });
// The server has made its certificate itself.
const rt = new OpenAIRealtimeWS({ model: 'viva', options: { rejectUnauthorized: false } }, client);
const seen = [];
const failures = [];
rt.on('event', (event) => {
  seen.push(event);
  appendFileSync(log, `${JSON.stringify(event)}\n`);
});
rt.on('error', (error) => failures.push(error));

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Sends 20 ms of samples as often as it takes until `done`, in real time. */
async function stream(sample, done) {
  const end = Date.now() + WITHIN;
  for (let n = 0; !done(n); n += 1) {
    assert(Date.now() < end, `not in time; came ${seen.map((e) => e.type)}`);
    assert.equal(failures.length, 0, String(failures[0]));
    const frame = Int16Array.from({ length: RATE / 50 }, (_, i) => sample(n * (RATE / 50) + i));
    rt.send({ type: 'input_audio_buffer.append', audio: Buffer.from(frame.buffer).toString('base64') });
    await sleep(20);
  }
}

const came = (type) => seen.find((event) => event.type === type);

await new Promise((resolve, reject) => {
  rt.socket.once('open', resolve);
  rt.socket.once('error', reject);
});
rt.send({ type: 'session.update', session: { type: 'realtime', audio: { input: { transcription: { model: 'm' } } } } });
await stream((i) => 9_000 * Math.sin(i * 0.0576), (n) => n >= 60);
await stream(() => 0, () => came('response.done'));
assert.equal(came('response.done').response.status, 'completed');
const audio = seen.filter((e) => e.type === 'response.output_audio.delta').map((e) => Buffer.from(e.delta, 'base64'));
assert(Buffer.concat(audio).length > RATE, 'half a second of voice at the least');
console.log('proved spoken turn');
console.log('proved TLS and key');
assert(came('conversation.item.input_audio_transcription.completed').transcript.startsWith('word1'));
assert(came('response.output_audio_transcript.done').transcript.length > 10, 'its words');
console.log('proved captions');
rt.close();
console.log(`ok a spoken conversation, ${seen.length} events`);
