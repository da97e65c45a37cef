// Ears of the test's own inside the page: both voices on one clock, as they go into the call and come out of it;
// a microphone that says what it is given, when it is told to; the peers the page made.
import { readFile, writeFile } from "node:fs/promises";

export class Tap {
  /** @param {import("playwright-core").Page} page */
  constructor(page) {
    this.page = page;
  }

  /** `microphone`: in place of the browser's, so that a second voice comes at a moment of the test's choosing. */
  async install({ microphone = false } = {}) {
    await this.page.addInitScript(tap, { microphone });
    return this;
  }

  run(work, argument) {
    return this.page.evaluate(`(${work})(window.vivaTap, ${JSON.stringify(argument ?? null)})`);
  }

  /** Says a WAV file through the microphone. @returns {Promise<number>} its length, seconds */
  async say(wav) {
    const bytes = (await readFile(wav)).toString("base64");
    return this.run((at, base64) => at.say(base64), bytes);
  }

  /** Begins to record; call it once the room is live. */
  record() {
    return this.run((at) => at.record());
  }

  /** What was recorded: samples of both sides and their rate. */
  async recorded() {
    const { rate, mic, voice } = await this.run((at) => at.recorded());
    const samples = (text) => {
      const bytes = Buffer.from(text, "base64");
      return new Int16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
    };
    return { rate, mic: samples(mic), voice: samples(voice) };
  }
}

/** Runs in the page before its own scripts. */
function tap({ microphone }) {
  const at = { peers: [], parts: { mic: [], voice: [] } };
  window.vivaTap = at;
  const RealPeer = window.RTCPeerConnection;
  window.RTCPeerConnection = function (...args) {
    const made = new RealPeer(...args);
    at.peers.push(made);
    return made;
  };
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wish) => {
    at.context ??= new AudioContext();
    if (!microphone) return (at.stream = await ask(wish));
    at.mouth = at.context.createMediaStreamDestination();
    // A source that makes no samples would leave the track without a clock.
    const still = new ConstantSourceNode(at.context, { offset: 0 });
    still.connect(at.mouth);
    still.start();
    return (at.stream = at.mouth.stream);
  };

  at.say = async (base64) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const source = new AudioBufferSourceNode(at.context, { buffer: await at.context.decodeAudioData(bytes.buffer) });
    source.connect(at.mouth);
    source.start();
    return source.buffer.duration;
  };

  at.record = () => {
    at.parts = { mic: [], voice: [] };
    if (at.ears) return;
    const merge = at.context.createChannelMerger(2);
    at.context.createMediaStreamSource(at.stream).connect(merge, 0, 0);
    at.context.createMediaStreamSource(document.getElementById("voice").srcObject).connect(merge, 0, 1);
    // No worklet: the server's policy lets none in that is not its own. 1024 frames are 21 ms.
    const ears = at.context.createScriptProcessor(1024, 2, 1);
    ears.onaudioprocess = ({ inputBuffer }) => {
      at.parts.mic.push(inputBuffer.getChannelData(0).slice());
      at.parts.voice.push(inputBuffer.getChannelData(1).slice());
    };
    merge.connect(ears).connect(at.context.destination);
    at.ears = ears;
  };

  const packed = (parts) => {
    const all = new Int16Array(parts.reduce((sum, part) => sum + part.length, 0));
    let filled = 0;
    for (const part of parts) for (const sample of part) all[filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
    const bytes = new Uint8Array(all.buffer);
    let text = "";
    for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    return btoa(text);
  };
  at.recorded = () => ({ rate: at.context.sampleRate, mic: packed(at.parts.mic), voice: packed(at.parts.voice) });
}

/** Loudness of every 10 ms, as root mean square of full scale. */
export function loudness(samples, rate) {
  const step = Math.round(rate / 100);
  const out = [];
  for (let i = 0; i + step <= samples.length; i += step) {
    let sum = 0;
    for (let k = i; k < i + step; k += 1) sum += (samples[k] / 32768) ** 2;
    out.push(Math.sqrt(sum / step));
  }
  return out;
}

/** Writes samples as a WAV file, mono, 16 bits. */
export async function writeWav(path, samples, rate) {
  const head = Buffer.alloc(44);
  const data = Buffer.from(samples.buffer, samples.byteOffset, samples.byteLength);
  head.write("RIFF", 0);
  head.writeUInt32LE(36 + data.length, 4);
  head.write("WAVEfmt ", 8);
  head.writeUInt32LE(16, 16);
  head.writeUInt16LE(1, 20);
  head.writeUInt16LE(1, 22);
  head.writeUInt32LE(rate, 24);
  head.writeUInt32LE(rate * 2, 28);
  head.writeUInt16LE(2, 32);
  head.writeUInt16LE(16, 34);
  head.write("data", 36);
  head.writeUInt32LE(data.length, 40);
  await writeFile(path, Buffer.concat([head, data]));
}

/** What the server itself hears in a WAV: a call of its own, over the socket, that only listens. Runs in a page. */
export async function heardByViva(page, wav) {
  const bytes = (await readFile(wav)).toString("base64");
  return page.evaluate(async (base64) => {
    const raw = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    // Decoded in a context of the wire's own rate, so that it is resampled on the way.
    const buffer = await new OfflineAudioContext(1, 1, 24000).decodeAudioData(raw.buffer);
    const pcm = Int16Array.from(buffer.getChannelData(0), (s) => Math.max(-1, Math.min(1, s)) * 32767);
    // A server that just spoke on few cores may be too busy for another call, for a moment.
    const address = new URL("/v1/realtime?model=viva", location.href.replace(/^http/, "ws"));
    let socket = null;
    for (const end = Date.now() + 30_000; !socket; ) {
      const trying = new WebSocket(address);
      const open = await new Promise((next) => {
        trying.onopen = () => next(true);
        trying.onerror = () => next(false);
      });
      if (open) socket = trying;
      else if (Date.now() > end) throw new Error(`no call to be had: ${await fetch("/v1/realtime").then((reply) => reply.text())}`);
      else await new Promise((next) => setTimeout(next, 1000));
    }
    const send = (event) => socket.send(JSON.stringify(event));
    const done = new Promise((resolve, reject) => {
      setTimeout(() => reject(new Error("no transcript in 60 s")), 60_000);
      socket.onclose = () => reject(new Error("the socket closed"));
      socket.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        if (event.type === "conversation.item.input_audio_transcription.completed") resolve(event.transcript);
        if (event.type === "error") reject(new Error(event.error.message));
      };
    });
    done.catch(() => {});
    send({ type: "session.update", session: { type: "realtime", audio: { input: { transcription: {}, turn_detection: null } } } });
    const step = 2400;
    for (let i = 0; i < pcm.length; i += step) {
      const part = new Uint8Array(pcm.slice(i, i + step).buffer);
      send({ type: "input_audio_buffer.append", audio: btoa(String.fromCharCode(...part)) });
      await new Promise((next) => setTimeout(next, 50));
    }
    send({ type: "input_audio_buffer.commit" });
    const heard = await done;
    socket.close();
    return heard;
  }, bytes);
}
