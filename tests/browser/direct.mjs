// The room over WebRTC, in real Chromium, against a peer in the test's own hands (mock-rtc.mjs): the way in, the
// ladder back, devices in mid-call, and what the page says of all that.
import assert from "node:assert/strict";
import { lowContrast } from "./contrast.mjs";
import { DIRECT, Suite, eventually, launch, recording, serveStatic, temporary } from "./harness.mjs";
import { MockServer } from "./mock.mjs";
import { MockPeer } from "./mock-rtc.mjs";

const text = (page, id) => page.locator(`#${id}`).textContent();
const phase = (page) => page.evaluate(() => document.documentElement.dataset.phase);

async function open(browser, url, { peer = {}, prepare = () => {}, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(String(error)));
  const socket = await new MockServer(page).install();
  const mock = await new MockPeer(page).install(peer);
  prepare(socket);
  await page.goto(url);
  const done = async () => {
    await context.close();
    assert.deepEqual(faults, [], "the page threw");
  };
  return { page, mock, socket, done };
}

const live = (page) => eventually("live", async () => (await phase(page)) === "listening", 15_000);

async function enter({ page }) {
  await page.click("#start");
  await live(page);
}

/** The page believes its ICE to be broken, once. */
const breakIce = (mock) => mock.run((at) => at.ice("failed"));
const posts = async (mock) => (await mock.requests()).filter(({ method }) => method === "POST");

export async function direct() {
  const suite = new Suite("direct");
  await temporary(async (folder) => {
    const site = await serveStatic();
    const wav = await recording(folder, { silenceS: 20, leadS: 0 });
    const browser = await launch({ microphone: wav, args: DIRECT });
    try {
      await wayIn(suite, browser, site);
      await wayBack(suite, browser, site);
      await inTheRoom(suite, browser, site);
      await looks(suite, browser, site);
      await leaving(suite, browser, site);
    } finally {
      await browser.close();
      await site.close();
    }
  });
  return suite;
}

async function wayIn(suite, browser, site) {
  await suite.test("the call goes over WebRTC first: one offer, no waiting, events on the channel, voices on tracks", async () => {
    const room = await open(browser, `${site.url}#key=abc123`);
    const { page, mock, socket } = room;
    await enter(room);
    const [post, ...more] = await mock.requests();
    assert.deepEqual([post.method, more.length], ["POST", 0]);
    assert.deepEqual(post.query, { model: "viva", events: "extended" });
    assert.equal(post.headers["Content-Type"], "application/sdp");
    assert.equal(post.headers.Authorization, "Bearer abc123");
    assert.match(post.body, /^m=audio[\s\S]*^a=sendrecv[\s\S]*^m=application/m);
    assert.doesNotMatch(post.body, /^a=candidate/m, "the offer did not wait for candidates");
    const [{ session }] = await eventually("settings", async () => (await mock.of("session.update")).length && mock.of("session.update"));
    assert.equal(session.audio.input.turn_detection.type, "semantic_vad");
    assert.ok((await mock.run((at) => at.loudest(1500))) > 0.02, "the caller is heard");
    await mock.speaks("a1", "Welcome to the room. Tell me about your last project.");
    await eventually("the interviewer is heard", () => page.evaluate(() => window.vivaStats.peak > 0.1));
    assert.equal(await phase(page), "speaking");
    await mock.quiet("a1");
    await live(page);
    assert.match(await text(page, "connection-link"), /direct line/);
    await eventually("a grade", async () => (await text(page, "connection-word")) === "Good");
    assert.match(await text(page, "connection-numbers"), /There and back\d+ ms/);
    assert.equal(socket.sockets.length, 0);
    assert.equal((await mock.of("input_audio_buffer.append")).length, 0, "the voice is not sent twice");
    assert.equal(await page.evaluate(() => window.vivaStats.chunks), 0, "nor is it prepared for the other way");
    await room.done();
  });

  await suite.test("where no UDP comes through, the socket takes over within seconds, and it is said", async () => {
    const room = await open(browser, site.url, { peer: { blocked: true } });
    const { page, mock, socket } = room;
    const started = Date.now();
    await page.click("#start");
    await eventually("the socket", () => socket.of("session.update").length === 1, 9000);
    const took = Date.now() - started;
    assert.ok(took > 3500 && took < 7500, `after ${took} ms`);
    const [, hangup] = await mock.requests();
    assert.deepEqual([hangup.method, hangup.path], ["DELETE", "/v1/realtime/calls/rtc_1"], "the call that never stood is ended");
    await live(page);
    assert.match(await text(page, "connection-link"), /No UDP comes through/);
    assert.match(await text(page, "status"), /WebSocket/);
    await eventually("the microphone flows", () => socket.audioChunks > 5);
    assert.ok(await page.locator("#banner").isHidden(), "nothing alarming");
    socket.send({ type: "viva.resume", token: "t", expires_in_s: 30 });
    socket.send({ type: "viva.state", event_id: "e7", state: "listening" });
    await page.click("#leave");
    await page.click("#step-out");
    await eventually("the socket is left", () => socket.closed.at(-1) === 4001);
    await page.click("#return");
    await eventually("the socket again", () => socket.sockets.length === 2, 9000);
    const asked = new URL(socket.sockets[1].url()).searchParams;
    assert.deepEqual([asked.get("resume"), asked.get("last_event")], ["t", "e7"], "and what was missed");
    socket.send({ type: "viva.resumed", session_id: "sess_mock", away_ms: 1000, replayed: 0, complete: true });
    await live(page);
    await page.click("#leave");
    await page.click("#end");
    await eventually("hung up", () => socket.closed.at(-1) === 1000);
    await room.done();
  });

  await suite.test("a server without WebRTC is called over the socket at once", async () => {
    const room = await open(browser, site.url, { peer: { offer: { webrtc: false } } });
    await room.page.click("#start");
    await eventually("the socket", () => room.socket.of("session.update").length === 1, 3000);
    assert.deepEqual(await room.mock.requests(), []);
    await room.done();
  });

  await suite.test("a full server says when to come back, and is not asked twice", async () => {
    const room = await open(browser, site.url);
    await room.mock.run((mock) => (mock.refuse.POST = [{ status: 503, headers: { "Retry-After": "8" } }]));
    await room.page.click("#start");
    await room.page.waitForSelector("#problem:not([hidden])");
    assert.equal(await text(room.page, "problem-title"), "All rooms are taken");
    assert.match(await text(room.page, "problem-wait"), /[78] s/);
    assert.equal(room.socket.sockets.length, 0);
    await room.done();
  });

  await suite.test("who types has a call over WebRTC too, and may open a microphone in it", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await page.click("#start-typing");
    await live(page);
    await page.keyboard.type("Good morning.");
    await page.keyboard.press("Enter");
    await eventually("asked", async () => (await mock.of("response.create")).length === 1);
    await mock.speaks("a1", "Good morning.");
    await eventually("audible", () => page.evaluate(() => window.vivaStats.peak > 0.1));
    assert.equal(await mock.run((at) => at.loudest(300)), 0, "no microphone is open");
    await page.click("#open-settings");
    await page.selectOption("#microphone", { index: 1 });
    await eventually("the microphone", () => mock.run((at) => at.loudest(200).then((peak) => peak > 0.01)));
    assert.equal((await mock.requests()).length, 1, "nothing was negotiated for it");
    await room.done();
  });
}

async function wayBack(suite, browser, site) {
  await suite.test("a broken way is renewed for the same call: one PATCH, the same session, nothing told twice", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    await mock.speaks("a1", "How did it fail?");
    await mock.quiet("a1");
    const ufrag = (sdp) => /^a=ice-ufrag:(\S+)/m.exec(sdp)[1];
    await breakIce(mock);
    await eventually("reconnecting is shown", async () => (await phase(page)) === "reconnecting");
    await mock.run((at) => at.ice(null));
    await live(page);
    const [post, patch, ...more] = await mock.requests();
    assert.deepEqual([patch.method, patch.path, patch.headers["If-Match"], more.length], ["PATCH", "/v1/realtime/calls/rtc_1", "*", 0]);
    assert.notEqual(ufrag(patch.body), ufrag(post.body), "a restart has new credentials");
    assert.equal((await mock.of("conversation.item.create")).length, 0);
    assert.equal((await mock.of("session.update")).length, 1);
    assert.match(await text(page, "captions"), /Connection restored/);
    await mock.run((at) => (at.voice.gain.value = 0));
    assert.ok(await mock.run((at) => at.pagePeers.length === 1 && at.channel.readyState === "open"));
    await room.done();
  });

  await suite.test("two seconds of disconnection start the ladder, one does not", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    await mock.run((at) => at.ice("disconnected"));
    await page.waitForTimeout(1000);
    await mock.run((at) => at.ice("connected"));
    await page.waitForTimeout(1500);
    assert.equal((await mock.requests()).length, 1, "it healed by itself");
    const since = Date.now();
    await mock.run((at) => at.ice("disconnected"));
    await eventually("a restart", async () => (await mock.requests()).length === 2);
    assert.ok(Date.now() - since >= 1900, `after ${Date.now() - since} ms`);
    await room.done();
  });

  await suite.test("a call the server no longer has is called anew with the token, onto the same interview", async () => {
    const room = await open(browser, site.url);
    const { page, mock, socket } = room;
    await enter(room);
    await mock.speaks("a1", "How did it fail?");
    await mock.quiet("a1");
    await mock.run((at) => (at.refuse.PATCH = [{ status: 404 }]));
    await breakIce(mock);
    await eventually("a second call", async () => (await posts(mock)).length === 2);
    await live(page);
    const [, second] = await posts(mock);
    assert.equal(second.query.resume, "token_1");
    assert.ok(!(await mock.requests()).some(({ method }) => method === "DELETE"), "losing the way is no hanging up");
    assert.equal((await mock.of("session.update")).length, 1, "its settings stand");
    assert.equal((await mock.of("conversation.item.create")).length, 0, "it knows what was said");
    assert.match(await text(page, "captions"), /How did it fail\?[\s\S]*Connection restored/);
    await mock.speaks("a2", "Go on.");
    await eventually("heard again", () => page.evaluate(() => window.vivaStats.phase === "speaking"));
    await mock.run((at) => (at.refuse.PATCH = [{ status: 404 }]));
    await breakIce(mock);
    await eventually("a third call", async () => (await posts(mock)).length === 3);
    assert.equal((await posts(mock))[2].query.resume, "token_2", "each token is used once");
    assert.equal(socket.sockets.length, 0);
    await room.done();
  });

  await suite.test("where the fresh call fails too, the socket takes the interview up by its token", async () => {
    const room = await open(browser, site.url);
    const { page, mock, socket } = room;
    let address = "";
    socket.onConnect = (at) => {
      address = at.url();
      socket.greet(at);
    };
    await enter(room);
    await mock.run((at) => (at.refuse = { PATCH: [{ status: 404 }], POST: [{ status: 500 }] }));
    await breakIce(mock);
    await eventually("the socket", () => socket.sockets.length === 1);
    await live(page);
    assert.equal(new URL(address).searchParams.get("resume"), "token_1");
    assert.equal(socket.of("session.update").length, 0);
    await eventually("the microphone goes there now", () => socket.audioChunks > 5);
    await socket.interviewer("a9", "And what then?", { ms: 600 });
    await eventually("its voice is heard", () => page.evaluate(() => window.vivaStats.chunks > 0 && window.vivaStats.peak > 0.1));
    assert.match(await text(page, "connection-link"), /WebSocket/);
    await room.done();
  });

  await suite.test("a network that is away for a while is waited out, and the way renewed", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    await mock.run((at) => (at.refuse.PATCH = ["network", "network"]));
    await breakIce(mock);
    await eventually("tries are counted", async () => /Try 1 in .* Your place is kept/.test(await text(page, "state-note")));
    await page.waitForTimeout(600);
    await mock.run((at) => at.ice("disconnected"));
    await eventually("the third try", async () => (await mock.requests()).filter(({ method }) => method === "PATCH").length === 3, 8000);
    await mock.run((at) => at.ice(null));
    await live(page);
    assert.equal((await posts(mock)).length, 1, "it is the same call");
    await room.done();
  });

  await suite.test("another network renews the way before it is missed, and nobody is alarmed", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    await page.evaluate(() => window.dispatchEvent(new Event("online")));
    await eventually("a restart", async () => (await mock.requests()).length === 2);
    await page.waitForTimeout(400);
    assert.equal((await mock.requests())[1].method, "PATCH");
    assert.equal(await phase(page), "listening");
    assert.doesNotMatch(await text(page, "captions"), /restored/);
    await room.done();
  });

  await suite.test("an interview whose time is over is said to be so, and goes on in a new session if wanted", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    await mock.speaks("a1", "How did it fail?");
    await mock.quiet("a1");
    const expired = { status: 404, body: { error: { code: "resume_expired", message: "Nothing is kept under this token." } } };
    await mock.run((at, gone) => (at.refuse = { PATCH: [{ status: 404 }], POST: [gone] }), expired);
    await breakIce(mock);
    await page.waitForSelector("#banner:not([hidden])");
    assert.match(await text(page, "banner"), /Your place could not be kept.*30 s/);
    await page.click("#banner-act");
    await eventually("told what was said", async () => (await mock.of("conversation.item.create")).length === 1);
    assert.equal((await posts(mock)).at(-1).query.resume, undefined);
    await live(page);
    await room.done();
  });

  await suite.test("a call the other side ends is over, not lost", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    const expired = { status: 404, body: { error: { code: "resume_expired" } } };
    await mock.run((at, gone) => (at.refuse.POST = [gone]), expired);
    await mock.run((at) => at.channel.close());
    await page.waitForSelector("#summary:not([hidden])");
    await room.done();
  });
}

async function inTheRoom(suite, browser, site) {
  await suite.test("muted, the track itself is off and nothing of the voice leaves", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    assert.ok((await mock.run((at) => at.loudest(1500))) > 0.02);
    await page.click("#mute");
    await page.waitForTimeout(500);
    assert.equal(await mock.run((at) => at.pagePeers[0].getSenders()[0].track.enabled), false);
    assert.ok((await mock.run((at) => at.loudest(800))) < 1e-3, "silence arrives");
    assert.match(await text(page, "state-note"), /muted/);
    await page.click("#open-settings");
    await page.selectOption("#microphone", { index: 1 });
    await page.waitForTimeout(500);
    assert.equal(await mock.run((at) => at.pagePeers[0].getSenders()[0].track.enabled), false, "another microphone stays muted");
    await room.done();
  });

  await suite.test("a cut answer is marked and not reported: the server knows what it sent", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    await mock.speaks("a1", "This is a long answer that will not be heard to its end.");
    await page.waitForTimeout(400);
    await mock.quiet("a1", "cleared");
    await eventually("the mark", () => page.locator(".interviewer.is-cut").count());
    await page.waitForTimeout(300);
    assert.equal((await mock.of("conversation.item.truncate")).length, 0);
    await room.done();
  });

  await suite.test("the word that sounds is marked, stands still while held, and the marks go with the voice", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    const now = () => page.evaluate(() => {
      const words = [...document.querySelectorAll(".interviewer .word")];
      return words.findIndex((word) => word.classList.contains("now"));
    });
    await mock.speaks("a1", "Welcome to the room, and thank you for coming. Tell me about a system you built that others depend on.");
    await eventually("a first word", async () => (await now()) >= 0);
    await page.waitForTimeout(1500);
    const early = await now();
    assert.ok(early >= 2 && early <= 8, `word ${early} after 1.5 s`);
    await mock.send({ type: "viva.state", state: "held" });
    await page.waitForTimeout(200);
    const held = await now();
    await page.waitForTimeout(800);
    assert.equal(await now(), held, "held");
    await mock.send({ type: "viva.state", state: "speaking" });
    await eventually("it goes on", async () => (await now()) > held);
    await mock.quiet("a1");
    await eventually("no marks", async () => (await page.locator(".interviewer .word").count()) === 0);
    assert.match(await page.locator(".interviewer .words").textContent(), /^Welcome to the room, and thank you for coming\. Tell/);
    await room.done();
  });

  await suite.test("a recording is made only where the server offers one and the caller ticks it", async () => {
    const plain = await open(browser, site.url);
    assert.ok(await plain.page.locator("#consent").isHidden());
    await plain.done();
    const room = await open(browser, site.url, { peer: { offer: { recording: true } } });
    const { page, mock } = room;
    await page.waitForSelector("#consent:not([hidden])");
    assert.equal(await page.locator("#record").isChecked(), false, "nobody consents by default");
    await page.check("#record");
    await enter(room);
    assert.equal((await posts(mock))[0].query.record, "true");
    assert.ok(await page.locator("#recording").isVisible());
    await room.done();
  });
}

async function looks(suite, browser, site) {
  await suite.test("a narrow phone holds the room with a recording, and every word in it can be read, light and dark", async () => {
    for (const colorScheme of ["light", "dark"]) {
      const room = await open(browser, site.url, { peer: { offer: { recording: true } }, colorScheme, viewport: { width: 360, height: 640 } });
      const { page, mock } = room;
      const check = async (view) => {
        assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 360, `${colorScheme} ${view} is too wide`);
        await page.waitForTimeout(400);
        assert.deepEqual(await page.evaluate(lowContrast), [], `${colorScheme} ${view}`);
      };
      await page.waitForSelector("#consent:not([hidden])");
      await page.check("#record");
      await check("lobby");
      await enter(room);
      await mock.speaks("a1", "Welcome to the room, and thank you for coming. Tell me about a system you built.");
      await eventually("a second word", () => page.evaluate(() => document.querySelectorAll(".word.ahead").length < 14));
      await check("speaking");
      await page.click("#connection summary");
      await check("connection");
      await mock.quiet("a1");
      await page.click("#leave");
      await check("leaving");
      await page.click("#step-out");
      await page.waitForSelector("#waiting:not([hidden])");
      await check("waiting");
      await room.done();
    }
  });
}

async function leaving(suite, browser, site) {
  await suite.test("ending hangs up: the server is told, and no way leads back", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    await page.click("#leave");
    await page.click("#end");
    await page.waitForSelector("#summary:not([hidden])");
    await eventually("hung up", async () => (await mock.requests()).some(({ method }) => method === "DELETE"));
    await page.click("#again");
    assert.ok(await page.locator("#waiting").isHidden());
    await room.done();
  });

  await suite.test("stepping out keeps the place: coming back, or a reload, goes on where it stood", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    await mock.speaks("a1", "How did it fail?");
    await mock.quiet("a1");
    await page.click("#leave");
    assert.match(await text(page, "step-note"), /30\ss/);
    await page.click("#step-out");
    await page.waitForSelector("#waiting:not([hidden])");
    assert.ok(!(await mock.requests()).some(({ method }) => method === "DELETE"));
    assert.equal(await page.evaluate(() => document.activeElement.id), "return");
    assert.match(await text(page, "waiting-left"), /^0:(30|29|28)$/);
    await page.click("#return");
    await live(page);
    assert.equal((await posts(mock)).at(-1).query.resume, "token_1");
    assert.equal((await posts(mock)).at(-1).query.last_event, "e0", "what came after it is asked for");
    assert.match(await text(page, "captions"), /How did it fail\?/);
    await page.reload();
    await page.waitForSelector("#waiting:not([hidden])");
    await page.click("#return");
    await live(page);
    const again = await posts(mock);
    assert.deepEqual([again.length, again[0].query.resume], [1, "token_2"], "the page of before is gone, its token is not");
    assert.match(await text(page, "captions"), /How did it fail\?/);
    await room.done();
  });
}
