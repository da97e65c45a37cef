// How much an echo through our edge adds to the sound's way from a browser and back: node echo.mjs URL OUT.json,
// with URL from `cargo bench --bench lines -- --serve-echo 127.0.0.1:0`. A measure, not a test: it wants a quiet machine.
//
// What the browser itself needs (capture, encoder, jitter buffer, playing) is measured in the same page, by a call
// from one peer to another; both ways have one of each, so that the difference is ours.
import { writeFile } from "node:fs/promises";
import { DIRECT, launch, recording, temporary } from "./harness.mjs";
import { Tap } from "./tap.mjs";

const [, , url, out] = process.argv;
if (!url || !out) {
  console.error("usage: node echo.mjs URL OUT.json");
  process.exit(2);
}
const RUNS = 3;
const SECONDS = 12;
// The jitter buffer settles in the first seconds of a call.
const SETTLE_MS = 4000;
const DELAY_MAX_MS = 500;

/** Runs in the page: a call to the echo, or to a second peer in here, heard by the element `voice`. */
async function call(kind) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  const mine = new RTCPeerConnection();
  window.peers = [mine];
  const heard = (track) => (document.getElementById("voice").srcObject = new MediaStream([track]));
  const [track] = stream.getAudioTracks();
  if (kind === "echo") {
    mine.addTransceiver(track, { direction: "sendrecv" });
    mine.ontrack = (event) => heard(event.track);
    await mine.setLocalDescription();
    const reply = await fetch("/v1/realtime/calls", { method: "POST", body: mine.localDescription.sdp, headers: { "Content-Type": "application/sdp" } });
    await mine.setRemoteDescription({ type: "answer", sdp: await reply.text() });
  } else {
    mine.addTransceiver(track, { direction: "sendonly" });
    const other = new RTCPeerConnection();
    window.peers.push(other);
    other.ontrack = (event) => heard(event.track);
    mine.onicecandidate = ({ candidate }) => candidate && other.addIceCandidate(candidate);
    other.onicecandidate = ({ candidate }) => candidate && mine.addIceCandidate(candidate);
    await mine.setLocalDescription();
    await other.setRemoteDescription(mine.localDescription);
    await other.setLocalDescription();
    await mine.setRemoteDescription(other.localDescription);
  }
}

/** Milliseconds by which `voice` comes after `mic`, and how alike they are there. */
function delay({ mic, voice, rate }) {
  // Each eighth sample, averaged: what is searched for is the envelope's and the low voice's place.
  const thin = (samples) => Float64Array.from({ length: Math.floor(samples.length / 8) }, (_, i) => {
    let sum = 0;
    for (let k = 0; k < 8; k += 1) sum += samples[i * 8 + k];
    return sum / 8;
  });
  const [a, b] = [thin(mic), thin(voice)];
  const most = Math.round((DELAY_MAX_MS / 1000) * (rate / 8));
  let best = { like: -1, shift: 0 };
  for (let shift = 0; shift < most; shift += 1) {
    let [ab, aa, bb] = [0, 0, 0];
    for (let i = 0; i + shift < b.length; i += 1) {
      ab += a[i] * b[i + shift];
      aa += a[i] * a[i];
      bb += b[i + shift] * b[i + shift];
    }
    const like = ab / Math.sqrt(aa * bb || 1);
    if (like > best.like) best = { like, shift };
  }
  return { ms: Math.round((best.shift / (rate / 8)) * 10_000) / 10, like: Math.round(best.like * 100) / 100 };
}

async function measure(browser, kind, wav) {
  const context = await browser.newContext();
  const page = await context.newPage();
  const tap = await new Tap(page).install({ microphone: true });
  await page.goto(url);
  // Sound wants a person's touch first.
  await page.mouse.click(9, 9);
  await page.evaluate(`(${call})(${JSON.stringify(kind)})`);
  await page.waitForFunction(() => window.peers[0].connectionState === "connected");
  await page.waitForTimeout(SETTLE_MS);
  await tap.record();
  await tap.say(wav);
  await page.waitForTimeout(SECONDS * 1000);
  const found = delay(await tap.recorded());
  const stats = await page.evaluate(async () => {
    for (const each of (await window.peers.at(-1).getStats()).values()) {
      if (each.type !== "inbound-rtp") continue;
      const { jitterBufferDelay, jitterBufferEmittedCount, packetsLost, concealedSamples } = each;
      return { jitterBufferMs: Math.round((jitterBufferDelay / jitterBufferEmittedCount) * 10_000) / 10, packetsLost, concealedSamples };
    }
    return null;
  });
  await context.close();
  console.log(kind, found, stats);
  return { kind, ...found, ...stats };
}

await temporary(async (folder) => {
  const wav = await recording(folder, { leadS: 0, silenceS: 1 });
  const browser = await launch({ args: DIRECT });
  const runs = [];
  try {
    for (let i = 0; i < RUNS; i += 1) for (const kind of ["browser", "echo"]) runs.push(await measure(browser, kind, wav));
  } finally {
    await browser.close();
  }
  const median = (kind) => runs.filter((run) => run.kind === kind).map(({ ms }) => ms).sort((a, b) => a - b)[Math.floor(RUNS / 2)];
  const [alone, through] = [median("browser"), median("echo")];
  const summary = `the browser alone ${alone} ms, through the edge ${through} ms: ${Math.round((through - alone) * 10) / 10} ms are ours`;
  console.log(summary);
  await writeFile(out, `${JSON.stringify({ summary, runs }, null, 1)}\n`);
});
