// The room against the real server, over WebRTC and over what is left when that fails. First on the test kit's
// engines, where only the edge is real; then on real weights, where the answer is recorded in the page and
// recognised by Viva itself.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { DIRECT, Suite, binary, eventually, launch, recording, start, temporary, treePage } from "./harness.mjs";
import { Relay } from "./relay.mjs";
import { Tap, heardByViva, loudness, writeWav } from "./tap.mjs";

const run = promisify(execFile);

// Fake engines need no weights: the server is there at once.
const START_LIMIT_MS = 20_000;
// Real weights are read and engines started before the line is printed; a cold disk is slow.
const WEIGHTS_LIMIT_MS = 120_000;
const ANSWER_LIMIT_MS = 60_000;
// Above this a 10 ms piece is heard, below it is not: the voice lies near 0.1, the codec's noise under 0.001.
const AUDIBLE = 0.008;
// A pause longer than this between two sounds of a voice is no pause of speech.
const GONE_MS = 250;
// What we want, and what a busy two-core machine without sound hardware may add to it.
const BARGE_IN_MS = 150;
const BARGE_IN_SLACK_MS = 150;

const phase = (page) => page.evaluate(() => document.documentElement.dataset.phase);
const stats = (page) => page.evaluate(() => window.vivaStats);
const words = async (page, side) => (await page.locator(`.line.${side} .words`).allTextContents()).filter(Boolean);
const live = (page) => eventually("live", async () => ["listening", "hearing", "thinking", "speaking", "held"].includes(await phase(page)), 15_000);
const restored = (page, count) => eventually("restored", async () => (await page.locator(".note").count()) === count, 15_000);
const answered = (page, count = 1) => eventually(`answer ${count}`, async () => (await words(page, "interviewer")).length >= count, ANSWER_LIMIT_MS);

async function server(args, { config = "", folder, limitMs = START_LIMIT_MS }) {
  const path = join(folder, `viva-${Math.random().toString(36).slice(2)}.toml`);
  await writeFile(path, config);
  return start(binary(), ["serve", "--listen", "127.0.0.1:0", "--config", path, ...args], {
    line: /listening on (http:\/\/127\.0\.0\.1:\d+)/,
    timeoutMs: limitMs,
  });
}

/** A page in the room, with ears of the test's own. */
async function enter(browser, url, { microphone = false } = {}) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  const faults = [];
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("console", (message) => /Content Security Policy|Refused to/.test(message.text()) && faults.push(message.text()));
  const requests = [];
  page.on("request", (request) => /realtime\/calls/.test(request.url()) && requests.push({ method: request.method(), url: request.url() }));
  page.on("websocket", (socket) => requests.push({ method: "SOCKET", url: socket.url() }));
  const tap = await new Tap(page).install({ microphone });
  await treePage(page);
  await page.goto(url);
  await page.click("#start");
  await live(page).catch(async (error) => {
    throw new Error(`${error.message}\nthe page: ${(await page.locator("main").innerText()).replaceAll("\n", " | ")}\n${JSON.stringify(requests)} ${faults}`);
  });
  const done = async () => {
    await page.close();
    assert.deepEqual(faults, [], "the page threw or broke the server's policy");
  };
  return { page, tap, requests, done };
}

/** 1.2 s of a loud hum: speech to the test kit's ears. */
async function hum(folder, seconds = 1.2) {
  const path = join(folder, `hum-${seconds}.wav`);
  await run("ffmpeg", ["-v", "error", "-y", "-f", "lavfi", "-i", `sine=f=180:r=48000:d=${seconds},volume=3`, "-ac", "1", path]);
  return path;
}

/** A sentence of a person who is not Viva. */
async function sentence(folder, name, text) {
  const path = join(folder, `${name}.wav`);
  await run("espeak-ng", ["-w", path, "-s", "150", text]);
  return path;
}

/** Where the caller begins, and how long the interviewer is heard after that; milliseconds. */
function afterBargeIn({ mic, voice, rate }) {
  const said = loudness(mic, rate);
  const heard = loudness(voice, rate);
  const begun = said.findIndex((value, i) => value > AUDIBLE && heard.slice(Math.max(0, i - 10), i + 1).some((v) => v > AUDIBLE));
  assert.ok(begun > 0, "the caller spoke over the interviewer");
  let last = begun;
  for (let i = begun; i < heard.length && i - last < GONE_MS / 10; i += 1) if (heard[i] > AUDIBLE) last = i;
  return { begunMs: begun * 10, audibleMs: (last - begun) * 10 };
}

/** A recording of the test is kept where VIVA_KEEP names a folder. */
async function keep(name, { voice, mic, rate }) {
  if (!process.env.VIVA_KEEP) return;
  await mkdir(process.env.VIVA_KEEP, { recursive: true });
  await writeWav(join(process.env.VIVA_KEEP, `${name}-viva.wav`), voice, rate);
  await writeWav(join(process.env.VIVA_KEEP, `${name}-caller.wav`), mic, rate);
}

export async function room() {
  const suite = new Suite("room");
  await temporary(async (folder) => {
    const browser = await launch({ microphone: await recording(folder, { leadS: 1, silenceS: 60 }), args: DIRECT });
    try {
      await onFakes(suite, browser, folder);
      if (process.env.VIVA_FAKES_ONLY !== "1") await onWeights(suite, folder);
    } finally {
      await browser.close();
    }
  });
  return suite;
}

async function onFakes(suite, browser, folder) {
  const fake = await server(["--engines", "fake"], { folder });
  try {
    const url = fake.found[1];
    await call(suite, browser, url, folder);
    await bargeIn(suite, browser, url, folder);
    await back(suite, browser, url, folder);
    if (suite.failed > 0) console.log(`the server said:\n${fake.output().slice(-4000)}`);
  } finally {
    await fake.stop();
  }
  const nowhere = await server(["--engines", "fake"], { folder, config: '[webrtc]\npublic = ["127.0.0.1:9"]\n' });
  try {
    await blocked(suite, browser, nowhere.found[1]);
  } finally {
    await nowhere.stop();
  }
  await spoiled(suite, browser, folder);
}

async function call(suite, browser, url) {
  await suite.test("a voice goes in over WebRTC and an answer comes out, with captions and figures", async () => {
    const room = await enter(browser, url);
    const { page, requests } = room;
    assert.equal((await stats(page)).via, "direct");
    await answered(page);
    await eventually("it is heard", async () => (await stats(page)).peak > 0.05);
    assert.ok((await words(page, "candidate")).length > 0);
    await eventually("the latency", async () => (await page.textContent("#latency-figure")) !== "–");
    await eventually("figures of the way", async () => (await stats(page)).figures?.rttMs !== undefined);
    assert.deepEqual(requests.map(({ method }) => method), ["POST"]);
    assert.equal((await stats(page)).chunks, 0, "no chunk of the microphone took the other way");
    await page.click("#leave");
    await page.click("#end");
    await eventually("hung up", () => requests.some(({ method }) => method === "DELETE"));
    await room.done();
  }, 2 * ANSWER_LIMIT_MS);
}

async function bargeIn(suite, browser, url, folder) {
  await suite.test("who speaks over Viva stops it", async () => {
    const room = await enter(browser, url, { microphone: true });
    const { page, tap } = room;
    const first = await hum(folder);
    const after = [];
    for (let turn = 1; turn <= 3; turn += 1) {
      // What the browser still held of the answer before is no part of this one.
      await page.waitForTimeout(500);
      await tap.record();
      await tap.say(first);
      await eventually("it speaks", async () => (await phase(page)) === "speaking", ANSWER_LIMIT_MS);
      await page.waitForTimeout(900);
      await tap.say(first);
      await page.waitForTimeout(1300);
      const sound = await tap.recorded();
      await keep(`barge-in-fake-${turn}`, sound);
      after.push(afterBargeIn({ ...sound, mic: late(sound) }).audibleMs);
      await eventually("cut", async () => (await page.locator(".interviewer.is-cut").count()) === turn, ANSWER_LIMIT_MS);
      // What was said over Viva is a turn of its own, and answered.
      await answered(page, 2 * turn);
      await eventually("the next answer is over", async () => (await phase(page)) === "listening", ANSWER_LIMIT_MS);
    }
    console.log(`      audible after barge-in: ${after.join(", ")} ms (wanted: ${BARGE_IN_MS})`);
    assert.ok(after.every((ms) => ms > 0 && ms <= BARGE_IN_MS + BARGE_IN_SLACK_MS), `${after} ms`);
    await room.done();
  }, 3 * ANSWER_LIMIT_MS);
}

/** The caller's side without what was said before Viva's answer. */
function late({ mic, voice, rate }) {
  const heard = loudness(voice, rate);
  const answer = heard.findIndex((value) => value > AUDIBLE);
  const out = mic.slice();
  out.fill(0, 0, Math.max(0, answer) * Math.round(rate / 100));
  return out;
}

/** Makes the page believe that its ICE broke. */
const breakIce = (tap) =>
  tap.run((at) => {
    const peer = at.peers.at(-1);
    Object.defineProperty(peer, "iceConnectionState", { configurable: true, get: () => "failed" });
    peer.dispatchEvent(new Event("iceconnectionstatechange"));
    delete peer.iceConnectionState;
  });

async function back(suite, browser, url, folder) {
  const said = await hum(folder);
  const speaksAgain = async ({ page, tap }, before) => {
    await tap.say(said);
    await answered(page, before + 1);
    await eventually("heard", async () => (await phase(page)) === "speaking", ANSWER_LIMIT_MS);
    await eventually("and over", async () => (await phase(page)) === "listening", ANSWER_LIMIT_MS);
  };

  await suite.test("an ICE restart keeps the call: same session, the talk goes on", async () => {
    const room = await enter(browser, url, { microphone: true });
    const { page, tap, requests } = room;
    await speaksAgain(room, 0);
    await breakIce(tap);
    await restored(page, 1);
    assert.deepEqual(requests.map(({ method }) => method), ["POST", "PATCH"]);
    await speaksAgain(room, 1);
    await page.evaluate(() => window.dispatchEvent(new Event("online")));
    await eventually("another", () => requests.length === 3);
    await speaksAgain(room, 2);
    assert.equal((await stats(page)).via, "direct");
    await room.done();
  }, 3 * ANSWER_LIMIT_MS);

  await suite.test("a call that is gone is taken up by a fresh one, in the middle of the talk", async () => {
    const room = await enter(browser, url, { microphone: true });
    const { page, tap, requests } = room;
    await speaksAgain(room, 0);
    await page.route("**/v1/realtime/calls/*", (route) => route.fulfill({ status: 404, body: "{}" }));
    await breakIce(tap);
    await restored(page, 1);
    assert.match(requests.at(-1).url, /resume=\w+/);
    assert.equal((await stats(page)).via, "direct");
    await speaksAgain(room, 1);
    await breakIce(tap);
    await restored(page, 2);
    await speaksAgain(room, 2);
    assert.equal((await words(page, "interviewer")).length, 3);
    await room.done();
  }, 3 * ANSWER_LIMIT_MS);

  await suite.test("where no fresh call is to be had, the socket takes the talk up", async () => {
    const room = await enter(browser, url, { microphone: true });
    const { page, tap, requests } = room;
    await speaksAgain(room, 0);
    await page.route(/\/v1\/realtime\/calls/, (route) => route.fulfill({ status: 404, body: "{}" }));
    await breakIce(tap);
    await restored(page, 1);
    assert.equal((await stats(page)).via, "socket");
    assert.deepEqual(requests.map(({ method }) => method), ["POST", "PATCH", "POST", "SOCKET"]);
    await speaksAgain(room, 1);
    await room.done();
  }, 3 * ANSWER_LIMIT_MS);

  await suite.test("stepping out and a reload keep the place", async () => {
    const room = await enter(browser, url, { microphone: true });
    const { page } = room;
    await speaksAgain(room, 0);
    await page.click("#leave");
    await page.click("#step-out");
    await page.waitForTimeout(1500);
    await page.click("#return");
    await restored(page, 1);
    assert.equal((await words(page, "interviewer")).length, 1);
    await page.reload();
    await page.waitForSelector("#waiting:not([hidden])");
    await page.click("#return");
    await restored(page, 1);
    await speaksAgain(room, 1);
    await room.done();
  }, 3 * ANSWER_LIMIT_MS);
}

async function blocked(suite, browser, url) {
  await suite.test("with UDP blocked the talk is held over the socket, after 4 s and a calm word", async () => {
    const started = Date.now();
    const room = await enter(browser, url);
    const { page, requests } = room;
    const took = Date.now() - started;
    assert.ok(took > 4000 && took < 10_000, `${took} ms`);
    assert.equal((await stats(page)).via, "socket");
    assert.match(await page.textContent("#connection-link"), /No UDP comes through/);
    assert.deepEqual(requests.map(({ method }) => method), ["POST", "DELETE", "SOCKET"]);
    await page.waitForTimeout(100);
    await page.click("#open-settings");
    await page.keyboard.press("Escape");
    await page.fill("#typed", "Good morning.");
    await page.keyboard.press("Enter");
    await answered(page);
    await eventually("it is heard", async () => (await stats(page)).peak > 0.05);
    await room.done();
  }, 2 * ANSWER_LIMIT_MS);

  await suite.test("the place is kept over the socket too: stepping out, and a reload in mid-answer", async () => {
    const room = await enter(browser, url, { microphone: true });
    const { page } = room;
    const type = async (words) => {
      await page.fill("#typed", words);
      await page.keyboard.press("Enter");
    };
    await type("Good morning.");
    await answered(page);
    await page.click("#leave");
    await page.click("#step-out");
    await page.waitForTimeout(1500);
    await page.click("#return");
    await restored(page, 1);
    assert.equal((await words(page, "interviewer")).length, 1);
    // To the end of its sound: who types while it still sounds cuts it off, and keeps what was heard.
    await eventually("the answer goes on to its end", async () => {
      const { phase, sounding } = await stats(page);
      return phase === "listening" && !sounding;
    }, ANSWER_LIMIT_MS);
    await type("And now?");
    await eventually("an answer begins", async () => (await phase(page)) === "speaking", ANSWER_LIMIT_MS);
    await page.reload();
    await page.waitForSelector("#waiting:not([hidden])");
    await page.waitForTimeout(1500);
    await page.click("#return");
    await restored(page, 1);
    await answered(page, 2);
    await eventually("it ends", async () => (await phase(page)) === "listening", ANSWER_LIMIT_MS);
    const [before, after] = (await words(page, "interviewer")).map((text) => text.trim());
    assert.equal(after, before, "the same words to the last, though the page was gone");
    await room.done();
  }, 2 * ANSWER_LIMIT_MS);
}

/** The page reaches the server through a network that the test can spoil. */
async function spoiled(suite, browser, folder) {
  const relay = await new Relay().open();
  const there = await server(["--engines", "fake"], { folder, config: `[webrtc]\npublic = ["${relay.address}"]\n` });
  const url = there.found[1];
  relay.toward(url);
  const said = await hum(folder);
  const speaksAgain = async ({ page, tap }, before) => {
    await tap.say(said);
    await answered(page, before + 1);
    await eventually("over", async () => (await phase(page)) === "listening", ANSWER_LIMIT_MS);
  };
  try {
    await suite.test("ten seconds without any network are survived, and the interview goes on where it stood", async () => {
      const room = await enter(browser, url, { microphone: true });
      const { page, tap, requests } = room;
      await speaksAgain(room, 0);
      await tap.say(said);
      await eventually("in mid-answer", async () => (await phase(page)) === "speaking", ANSWER_LIMIT_MS);
      relay.dead = true;
      await page.route(/\/v1\/realtime/, (route) => route.abort("internetdisconnected"));
      const gone = Date.now();
      await eventually("reconnecting is shown", async () => (await phase(page)) === "reconnecting", 11_000);
      const noticed = Date.now() - gone;
      assert.ok(noticed < 6000, `noticed after ${noticed} ms`);
      await page.waitForTimeout(10_000 - noticed);
      relay.dead = false;
      await page.unroute(/\/v1\/realtime/);
      const back = Date.now();
      await eventually("restored", async () => (await page.locator(".note").count()) === 1, 20_000);
      console.log(`      noticed after ${noticed} ms, restored ${Date.now() - back} ms after the network came back, by ${requests.map(({ method }) => method)}`);
      await eventually("the rest of the answer", async () => (await phase(page)) === "listening", ANSWER_LIMIT_MS);
      assert.equal(await page.locator(".interviewer.is-cut").count(), 0, "what was missed was no interruption");
      await speaksAgain(room, 2);
      assert.equal((await words(page, "interviewer")).length, 3);
      assert.equal((await stats(page)).via, "direct");
      await room.done();
    }, 4 * ANSWER_LIMIT_MS);

    await suite.test("where UDP dies in mid-call, the socket takes the interview up by its token", async () => {
      const room = await enter(browser, url, { microphone: true });
      const { page, requests } = room;
      await speaksAgain(room, 0);
      relay.dead = true;
      const gone = Date.now();
      await eventually("restored", async () => (await page.locator(".note").count()) === 1, 30_000);
      console.log(`      ${Date.now() - gone} ms from the last packet to the socket, by ${requests.map(({ method }) => method)}`);
      assert.ok(Date.now() - gone < 10_000, "silence of less than ten seconds");
      relay.dead = false;
      assert.equal((await stats(page)).via, "socket");
      assert.match(await page.textContent("#connection-link"), /No UDP comes through/);
      await speaksAgain(room, 1);
      await room.done();
    }, 3 * ANSWER_LIMIT_MS);

    await suite.test("a poor network is called poor, and good again when it is", async () => {
      const room = await enter(browser, url, { microphone: true });
      const word = (wanted) => eventually(wanted, async () => (await room.page.textContent("#connection-word")) === wanted, 25_000);
      await word("Good");
      relay.loss = 0.2;
      relay.jitterMs = 40;
      await room.tap.say(said);
      await word("Poor");
      const { loss, jitterMs } = (await stats(room.page)).figures;
      console.log(`      of 20 % loss and 0 to 40 ms of jitter the page sees ${(100 * loss).toFixed(0)} % and ${Math.round(jitterMs)} ms`);
      relay.loss = 0;
      relay.jitterMs = 0;
      await word("Good");
      assert.equal(await room.page.locator(".note").count(), 0, "the call stood all the time");
      await room.done();
    }, 2 * ANSWER_LIMIT_MS);
    if (suite.failed > 0) console.log(`the server said:\n${there.output().slice(-3000)}`);
  } finally {
    relay.close();
    await there.stop();
  }
}

/** The part of `a`'s words that also stand in `b`. */
function agreement(a, b) {
  const list = (text) => text.toLowerCase().match(/[a-z']+/g) ?? [];
  const there = list(b);
  const found = list(a).filter((word) => {
    const at = there.indexOf(word);
    if (at >= 0) there.splice(at, 1);
    return at >= 0;
  });
  return found.length / Math.max(1, list(a).length);
}

async function onWeights(suite, folder) {
  const profile = process.env.VIVA_TEST_PROFILE ?? "test";
  const real = await server(["--profile", profile], { folder, limitMs: WEIGHTS_LIMIT_MS });
  const browser = await launch({ microphone: "none", args: DIRECT });
  try {
    await suite.test("the answer heard in the page is the answer in the captions, and a second voice stops it", async () => {
      const question = await sentence(folder, "question", "Good morning. I am here for the interview about the engineering role.");
      const over = await sentence(folder, "over", "Wait a moment please, I would like to add something about my last project.");
      const room = await enter(browser, real.found[1], { microphone: true });
      const { page, tap } = room;
      await tap.record();
      await tap.say(question);
      await eventually("it speaks", async () => (await phase(page)) === "speaking", ANSWER_LIMIT_MS);
      await eventually("and is done", async () => (await phase(page)) === "listening", ANSWER_LIMIT_MS);
      await page.waitForTimeout(400);
      const sound = await tap.recorded();
      await keep("answer", sound);
      const wav = join(folder, "answer.wav");
      await writeWav(wav, sound.voice, sound.rate);
      const [shown] = await words(page, "interviewer");
      const other = await browser.newPage();
      await other.goto(real.found[1]);
      const heard = await heardByViva(other, wav);
      await other.close();
      const share = agreement(shown, heard);
      console.log(`      shown: ${shown}\n      heard: ${heard}\n      ${Math.round(100 * share)} % of its words; the caller: ${(await words(page, "candidate")).join(" ")}`);
      assert.ok(share >= 0.7, "what was heard is what was shown");
      assert.ok(agreement("morning interview engineering role", (await words(page, "candidate")).join(" ")) >= 0.5);
      await page.waitForTimeout(500);
      await tap.record();
      await tap.say(question);
      await eventually("it speaks", async () => (await phase(page)) === "speaking", ANSWER_LIMIT_MS);
      await page.waitForTimeout(700);
      await tap.say(over);
      await eventually("cut", () => page.locator(".interviewer.is-cut").count(), ANSWER_LIMIT_MS);
      await page.waitForTimeout(600);
      const cut = await tap.recorded();
      await keep("barge-in", cut);
      const { audibleMs } = afterBargeIn({ ...cut, mic: late(cut) });
      console.log(`      audible after barge-in: ${audibleMs} ms (wanted: ${BARGE_IN_MS})`);
      assert.ok(audibleMs <= BARGE_IN_MS + BARGE_IN_SLACK_MS, `${audibleMs} ms`);
      await room.done();
    }, 5 * ANSWER_LIMIT_MS);
    if (suite.failed > 0) console.log(`the server said:\n${real.output().slice(-4000)}`);
  } finally {
    await browser.close();
    await real.stop();
  }
}
