// Uses the HTTP endpoints of a running server with the official `openai` client for node, as an outside party.
// Prints a line for each feature that it has seen work; fails with a sentence on the first thing that is wrong.
//
//     VIVA_NODE_MODULES=… node rest_client.mjs http://127.0.0.1:8790
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const require = createRequire(`${process.env.VIVA_NODE_MODULES}/`);
const { default: OpenAI, toFile } = require('openai');

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: 'none', maxRetries: 0 });

/** Three seconds of a tone at 24 kHz. */
function recording() {
  const samples = Int16Array.from({ length: 72_000 }, (_, i) => 9000 * Math.sin(i * 0.0576));
  const head = Buffer.alloc(44);
  head.write('RIFF', 0);
  head.writeUInt32LE(36 + samples.byteLength, 4);
  head.write('WAVEfmt ', 8);
  head.writeUInt32LE(16, 16);
  head.writeUInt16LE(1, 20);
  head.writeUInt16LE(1, 22);
  head.writeUInt32LE(24_000, 24);
  head.writeUInt32LE(48_000, 28);
  head.writeUInt16LE(2, 32);
  head.writeUInt16LE(16, 34);
  head.write('data', 36);
  head.writeUInt32LE(samples.byteLength, 40);
  return toFile(Buffer.concat([head, Buffer.from(samples.buffer)]), 'answer.wav');
}

const features = {
  async models() {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    assert(names.includes('viva'), `models: ${names}`);
  },
  async embeddings() {
    const { data } = await client.embeddings.create({ model: 'm', input: ['hello', 'you'] });
    assert.equal(data.length, 2);
    assert.equal(data[0].embedding.length, 3);
  },
  async speech() {
    const said = await client.audio.speech.create({
      model: 'tts-1', voice: 'alloy', input: 'Hello there.', response_format: 'pcm' });
    assert((await said.arrayBuffer()).byteLength > 24_000, 'PCM of some length');
  },
  async transcriptions() {
    const ask = async (more) => client.audio.transcriptions.create({
      model: 'whisper-1', file: await recording(), ...more });
    const { text } = await ask({});
    assert(text.startsWith('word1 word2'), text);
    const events = [];
    for await (const event of await ask({ stream: true })) events.push(event.type);
    assert.deepEqual(events, ['transcript.text.delta', 'transcript.text.done']);
  },
  async chat() {
    const messages = [{ role: 'user', content: 'Hello' }];
    const whole = await client.chat.completions.create({ model: 'm', messages });
    let said = '';
    for await (const chunk of await client.chat.completions.create({ model: 'm', messages, stream: true })) {
      said += chunk.choices[0]?.delta?.content ?? '';
    }
    assert.equal(said, whole.choices[0].message.content);
    await assert.rejects(client.chat.completions.create({ model: 'm', messages, n: 2 }), { status: 400, param: 'n' });
  },
};

for (const [name, feature] of Object.entries(features)) {
  await feature();
  console.log(`proved ${name}`);
}
