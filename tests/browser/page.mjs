// The page in real Chromium, against a server in the test's own hands (mock.mjs): the states no real
// server can be brought into on demand, the keyboard, what a screen reader is told, contrast, sizes.
import assert from "node:assert/strict";
import { lowContrast } from "./contrast.mjs";
import { Suite, eventually, launch, recording, serveStatic, temporary } from "./harness.mjs";
import { METRICS, MockServer } from "./mock.mjs";

const text = (page, id) => page.locator(`#${id}`).textContent();
const phase = (page) => page.evaluate(() => document.documentElement.dataset.phase);

/** Opens the page with a mocked server; fails on any error the page throws or the policy blocks. */
async function open(browser, url, { mock: use = () => {}, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("console", (message) => {
    if (/Content Security Policy|Refused to/.test(message.text())) faults.push(message.text());
  });
  const mock = await new MockServer(page).install();
  use(mock);
  await page.goto(url);
  const done = async () => {
    await context.close();
    assert.deepEqual(faults, [], "the page threw or broke its policy");
  };
  return { page, mock, done };
}

async function enter({ page, mock }) {
  await page.click("#start");
  await eventually("session.update sent", () => mock.of("session.update").length === 1);
}

export async function page() {
  const suite = new Suite("page");
  await temporary(async (folder) => {
    const site = await serveStatic();
    try {
      const wav = await recording(folder, { silenceS: 20, leadS: 0 });
      const talking = await launch({ microphone: wav });
      await conversation(suite, talking, site).finally(() => talking.close());
      await refusals(suite, site);
    } finally {
      await site.close();
    }
  });
  return suite;
}

async function conversation(suite, browser, site) {
  await suite.test("the session is set up as agreed and the microphone streams at 24 kHz", async () => {
    const room = await open(browser, site.url);
    await enter(room);
    const { session } = room.mock.of("session.update")[0];
    assert.deepEqual(session.audio.input.format, { type: "audio/pcm", rate: 24000 });
    assert.deepEqual(session.audio.output.format, { type: "audio/pcm", rate: 24000 });
    assert.equal(session.audio.input.turn_detection.type, "semantic_vad");
    assert.ok(session.audio.input.transcription);
    await eventually("a first chunk", () => room.mock.audioChunks > 0);
    const before = room.mock.audioChunks;
    const started = Date.now();
    await room.page.waitForTimeout(3000);
    const rate = ((room.mock.audioChunks - before) * 480) / ((Date.now() - started) / 1000);
    assert.ok(Math.abs(rate - 24000) < 1200, `${Math.round(rate)} samples a second`);
    const pcm = Buffer.concat(room.mock.audio.map((chunk) => Buffer.from(chunk, "base64")));
    let peak = 0;
    for (let i = 0; i < pcm.length; i += 2) peak = Math.max(peak, Math.abs(pcm.readInt16LE(i)));
    assert.ok(peak > 1000, `the caller's voice is in it: peak ${peak}`);
    assert.ok(room.mock.audio.every((chunk) => Buffer.from(chunk, "base64").length === 960), "20 ms each");
    await room.done();
  });

  await suite.test("both sides are captioned, the answer sounds, the latency is plotted", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    mock.candidate("u1", "Hello, I am here for the interview.");
    assert.ok(await eventually("hearing or thinking", async () => ["hearing", "thinking"].includes(await phase(page))));
    await mock.interviewer("a1", "Welcome. Tell me about your last project.", { ms: 900 });
    mock.send(METRICS);
    await eventually("latency", async () => (await text(page, "latency-figure")) === "0.75 s");
    assert.equal(await page.locator("#latency-plot li").count(), 6);
    const lines = await page.locator("#captions .words").allTextContents();
    assert.deepEqual(lines, ["Hello, I am here for the interview.", "Welcome. Tell me about your last project."]);
    await eventually("audible", () => page.evaluate(() => window.vivaStats.peak > 0.1));
    await eventually("listening", async () => (await phase(page)) === "listening");
    const said = await text(page, "announcer");
    assert.match(said, /You: Hello, I am here.*Viva: Welcome\./s, "finished lines reach the screen reader");
    await room.done();
  });

  await suite.test("a cut silences the player and reports what was really heard", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    const full = "This is a long answer that will not be heard to its end.";
    const speaking = mock.interviewer("a1", full, { ms: 6000 });
    await eventually("sound", () => page.evaluate(() => window.vivaStats.peak > 0.1));
    await page.waitForTimeout(900);
    mock.stopped = true;
    await speaking;
    mock.send({ type: "playback.clear", item_id: "a1" });
    const [cut] = await eventually("truncate", () => mock.of("conversation.item.truncate").length && mock.of("conversation.item.truncate"));
    assert.equal(cut.item_id, "a1");
    assert.equal(cut.content_index, 0);
    const ahead = mock.sentMs - cut.audio_end_ms;
    assert.ok(ahead >= 0 && ahead < 500, `${mock.sentMs} ms were sent, ${cut.audio_end_ms} ms were heard`);
    mock.send({ type: "response.done", response: { id: "resp_a1", status: "cancelled", output: [{ id: "a1" }] } });
    mock.send({ type: "conversation.item.truncated", item_id: "a1", content_index: 0, audio_end_ms: cut.audio_end_ms });
    await eventually("retrieve", () => mock.of("conversation.item.retrieve").length === 1);
    const heard = [{ type: "output_audio", transcript: "This is a long answer" }];
    mock.send({ type: "conversation.item.retrieved", item: { id: "a1", type: "message", role: "assistant", content: heard } });
    await eventually("the cut line", async () => /^This is a long answer —/.test(await page.locator(".interviewer .text").textContent()));
    await page.waitForTimeout(300);
    assert.equal(mock.of("conversation.item.truncate").length, 1, "one cut, one report");
    await room.done();
  });

  await suite.test("a cut leaves the sound of a newer answer alone", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    // A second of each at once, as a server that does not pace would send it.
    mock.lead = 5000;
    await mock.interviewer("a1", "Old.", { ms: 1000, finish: false });
    await mock.interviewer("a2", "New.", { ms: 1000, finish: false });
    mock.send({ type: "playback.clear", item_id: "a1" });
    await eventually("truncate of the old", () => mock.of("conversation.item.truncate").length === 1);
    await page.waitForTimeout(1500);
    mock.send({ type: "playback.clear", item_id: "a2" });
    const [, cut] = await eventually("truncate of the new", () => mock.of("conversation.item.truncate").length === 2 && mock.of("conversation.item.truncate"));
    assert.deepEqual([cut.item_id, cut.audio_end_ms], ["a2", 1000], "it was heard to its end");
    await room.done();
  });

  await suite.test("a hold stops the player at once, with everything still in it, and it goes on from there", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    // All of it at once: what falls silent is the player, not the server.
    mock.lead = 5000;
    await mock.interviewer("a1", "A second, and two more.", { ms: 3000, finish: false });
    await eventually("sound", () => page.evaluate(() => window.vivaStats.peak > 0.1));
    const began = Date.now();
    await page.waitForTimeout(300);
    mock.send({ type: "viva.state", state: "held" });
    const heldAt = Date.now() - began;
    await page.waitForTimeout(1000);
    mock.send({ type: "viva.state", state: "speaking" });
    await page.waitForTimeout(400);
    mock.send({ type: "playback.clear", item_id: "a1" });
    const soundedMs = Date.now() - began - 1000;
    const [cut] = await eventually("truncate", () => mock.of("conversation.item.truncate").length && mock.of("conversation.item.truncate"));
    // Before the first look at the peak some was heard, and a busy machine is late to act.
    assert.ok(cut.audio_end_ms < soundedMs + 400, `${cut.audio_end_ms} ms were heard in ${soundedMs}: not while it was held`);
    assert.ok(cut.audio_end_ms > heldAt + 200, `${cut.audio_end_ms} ms were heard, ${heldAt} before the hold: it went on`);
    await room.done();
  });

  await suite.test("held speech is silence: the state says so and the rest plays on afterwards", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    await mock.interviewer("a1", "One moment.", { ms: 600, finish: false });
    mock.send({ type: "viva.state", state: "held" });
    await eventually("held", async () => (await text(page, "state-word")) === "Paused for you");
    await page.waitForTimeout(400);
    await mock.interviewer("a1", "", { ms: 600 });
    await eventually("listening", async () => (await phase(page)) === "listening");
    assert.equal(mock.of("conversation.item.truncate").length, 0, "a hold is not a cut");
    await room.done();
  });

  await suite.test("a lost connection comes back, with the talk so far told again", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    mock.candidate("u1", "I built a billing system.");
    await mock.interviewer("a1", "How did it fail?", { ms: 300 });
    await mock.sockets[0].close({ code: 1011, reason: "gone" });
    await eventually("reconnecting", async () => (await phase(page)) === "reconnecting");
    await eventually("a second session", () => mock.of("session.update").length === 2);
    await eventually("retold", () => mock.of("conversation.item.create").length === 2);
    const told = mock.of("conversation.item.create").map(({ item }) => [item.role, item.content[0].text]);
    assert.deepEqual(told, [["user", "I built a billing system."], ["assistant", "How did it fail?"]]);
    await eventually("live", async () => (await phase(page)) === "listening");
    assert.match(await text(page, "captions"), /Connection restored/);
    const before = mock.audioChunks;
    await eventually("the microphone flows on", () => mock.audioChunks > before + 10);
    await room.done();
  });

  await suite.test("a connection that stays lost ends in a clear choice, within bounds", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    // The clock is the page's own: 0.5 to 8 s of backoff pass in a moment.
    await page.evaluate(() => {
      const real = window.setTimeout;
      window.setTimeout = (work, ms, ...rest) => real(work, ms > 9000 ? ms : ms / 50, ...rest);
    });
    mock.onConnect = (socket) => socket.close({ code: 1011 });
    await mock.sockets[0].close({ code: 1011 });
    await page.waitForSelector("#banner:not([hidden])");
    assert.match(await text(page, "banner"), /The connection is gone/);
    assert.equal(mock.sockets.length, 7, "one call and six tries");
    mock.onConnect = (socket) => mock.greet(socket);
    await page.click("#banner-act");
    await eventually("live again", async () => (await phase(page)) === "listening");
    await room.done();
  });

  await suite.test("a server that is full says when to come back", async () => {
    const room = await open(browser, site.url, {
      mock: (mock) => {
        mock.onConnect = (socket) => socket.close({ code: 1013, reason: "retry after 7 s" });
      },
    });
    await room.page.click("#start");
    await room.page.waitForSelector("#problem:not([hidden])");
    assert.equal(await text(room.page, "problem-title"), "All rooms are taken");
    assert.match(await text(room.page, "problem-wait"), /[67] s/);
    assert.equal(await text(room.page, "start-label"), "Try again");
    assert.equal(await room.page.evaluate(() => document.activeElement.id), "start");
    await room.done();
  });

  await suite.test("an error event is shown in words and the call goes on", async () => {
    const room = await open(browser, site.url);
    await enter(room);
    room.mock.send({ type: "error", error: { type: "server_error", message: "The voice engine restarts." } });
    await room.page.waitForSelector("#banner:not([hidden])");
    assert.match(await text(room.page, "banner"), /The voice engine restarts\./);
    await room.page.click("#banner-close");
    assert.ok(await room.page.locator("#banner").isHidden());
    assert.equal(await phase(room.page), "listening");
    await room.done();
  });

  await suite.test("muted, the microphone sends silence and the page says so", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await enter(room);
    await page.click("#mute");
    assert.equal(await page.getAttribute("#mute", "aria-pressed"), "true");
    assert.match(await text(page, "state-note"), /muted/);
    await page.waitForTimeout(400);
    mock.audio.length = 0;
    await eventually("chunks", () => mock.audio.length >= 10);
    assert.ok(mock.audio.every((chunk) => Buffer.from(chunk, "base64").every((byte) => byte === 0)));
    await room.done();
  });

  await suite.test("a key in the address goes into the subprotocol, and nowhere else", async () => {
    const room = await open(browser, `${site.url}#key=abc123`, {
      mock: (mock) => {
        mock.onConnect = (socket) => {
          mock.url = socket.url();
          mock.greet(socket);
        };
      },
    });
    await room.page.evaluate(() => {
      const Real = window.WebSocket;
      window.offered = [];
      window.WebSocket = class extends Real {
        constructor(url, protocols) {
          super(url, protocols);
          window.offered.push(protocols);
        }
      };
    });
    await enter(room);
    assert.deepEqual(await room.page.evaluate(() => window.offered), [["realtime", "openai-insecure-api-key.abc123"]]);
    assert.match(room.mock.url, /\/v1\/realtime\?model=viva&events=extended$/);
    await room.done();
  });

  await suite.test("the whole call is made by keyboard alone", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    const reach = async (id) => {
      for (let i = 0; i < 14; i += 1) {
        if ((await page.evaluate(() => document.activeElement.id)) === id) return;
        await page.keyboard.press("Tab");
      }
      throw new Error(`Tab never reached #${id}`);
    };
    await reach("start");
    await page.keyboard.press("Enter");
    await eventually("live", async () => (await phase(page)) === "listening");
    assert.equal(await page.evaluate(() => document.activeElement.id), "talk-title", "focus follows the view");
    await reach("typed");
    await page.keyboard.type("I prefer to write this one.");
    await page.keyboard.press("Enter");
    await eventually("asked", () => mock.of("response.create").length === 1);
    const [{ item }] = mock.of("conversation.item.create");
    assert.deepEqual([item.role, item.content], ["user", [{ type: "input_text", text: "I prefer to write this one." }]]);
    await reach("mute");
    await page.keyboard.press("Space");
    assert.equal(await page.getAttribute("#mute", "aria-pressed"), "true");
    await reach("leave");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "end", "the question how to leave has the focus");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#summary:not([hidden])");
    assert.equal(await page.evaluate(() => document.activeElement.id), "summary-title");
    await reach("download");
    await room.done();
  });

  await suite.test("text is readable (contrast AA) in every view, light and dark", async () => {
    for (const colorScheme of ["light", "dark"]) {
      const room = await open(browser, site.url, { colorScheme });
      const { page, mock } = room;
      const weak = async (view) => assert.deepEqual(await page.evaluate(lowContrast), [], `${colorScheme} ${view}`);
      await weak("lobby");
      await enter(room);
      mock.candidate("u1", "Hello.");
      await mock.interviewer("a1", "Welcome.", { ms: 100 });
      mock.send(METRICS, { type: "error", error: { message: "Something to read." } });
      await page.waitForSelector("#banner:not([hidden])");
      await page.waitForTimeout(500);
      await weak("talk");
      await page.click("#leave");
      await page.click("#end");
      await weak("summary");
      await room.done();
    }
  });

  await suite.test("nothing overflows at 360 px, controls are big enough to touch", async () => {
    const room = await open(browser, site.url, { viewport: { width: 360, height: 640 }, hasTouch: true });
    const { page, mock } = room;
    const fits = async (view) => {
      const { wide, small } = await page.evaluate(() => ({
        wide: document.documentElement.scrollWidth,
        small: [...document.querySelectorAll("button, input, select, a.secondary")]
          .filter((each) => each.checkVisibility() && each.type !== "checkbox")
          .filter((each) => each.getBoundingClientRect().height < 40)
          .map((each) => each.id),
      }));
      assert.ok(wide <= 360, `${view}: ${wide} px wide`);
      assert.deepEqual(small, [], view);
    };
    await fits("lobby");
    await enter(room);
    mock.candidate("u1", "Hello, a_very_long_word_without_any_place_to_break_it_because_people_say_such_things.");
    await page.waitForTimeout(200);
    await fits("talk");
    const end = await page.locator("#leave").boundingBox();
    assert.ok(end.y + end.height <= 640, "the call's controls stay on the screen");
    await room.done();
  });

  await suite.test("every control has a name, and motion stops for those who ask", async () => {
    const room = await open(browser, site.url, { reducedMotion: "reduce" });
    const { page } = room;
    await enter(room);
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll("button, input, select, a, canvas, section, dialog")]
        .filter((each) => each.checkVisibility())
        .filter((each) => {
          const label = each.getAttribute("aria-label") || each.getAttribute("aria-labelledby") || each.textContent.trim();
          return !label && !each.labels?.length;
        })
        .map((each) => each.outerHTML.slice(0, 80)));
    assert.deepEqual(nameless, []);
    const picture = () => page.evaluate(() => document.getElementById("presence").toDataURL().length);
    await page.click("#mute");
    await page.waitForTimeout(1500);
    const first = await picture();
    await page.waitForTimeout(600);
    assert.equal(await picture(), first, "the rings stand still in silence");
    await room.done();
  });

  await suite.test("without a microphone track the talk can be typed, and heard", async () => {
    const room = await open(browser, site.url);
    const { page, mock } = room;
    await page.click("#start-typing");
    await eventually("focus in the box", async () => (await page.evaluate(() => document.activeElement.id)) === "typed");
    await page.keyboard.type("Good morning.");
    await page.keyboard.press("Enter");
    await eventually("asked", () => mock.of("response.create").length === 1);
    await mock.interviewer("a1", "Good morning. Shall we begin?", { ms: 600 });
    await eventually("audible", () => page.evaluate(() => window.vivaStats.peak > 0.1));
    assert.equal(mock.audioChunks, 0, "no microphone was opened");
    await room.done();
  });
}

/** Chromium started so that the failure is real: no device, permission denied, an insecure address. */
async function refusals(suite, site) {
  const lobby = async (name, title, options, address = site.url) => {
    await suite.test(name, async () => {
      const browser = await launch(options);
      try {
        const room = await open(browser, address);
        await room.page.click("#start");
        await room.page.waitForSelector("#problem:not([hidden])", { timeout: 10_000 });
        assert.equal(await text(room.page, "problem-title"), title);
        assert.ok(await room.page.locator("#start-typing").isVisible(), "typing is offered");
        assert.equal(room.mock.sockets.length, 0, "no call was made");
        await room.page.click("#start-typing");
        await eventually("a call without a microphone", () => room.mock.of("session.update").length === 1);
        await room.done();
      } finally {
        await browser.close();
      }
    });
  };
  await lobby("no microphone: named, with a way on", "No microphone found", { microphone: "none" });
  await lobby("permission refused: named, with a way on", "The microphone is blocked", { microphone: "refused", args: ["--deny-permission-prompts"] });
  const insecure = { microphone: "none", args: ["--host-resolver-rules=MAP room.test 127.0.0.1"] };
  await lobby("an insecure address: named, typing still works", "This address isn’t secure", insecure, `http://room.test:${site.port}/`);

  for (const [name, status, headers, title] of [
    ["a refused handshake with 503", 503, { "Retry-After": "9" }, "All rooms are taken"],
    ["a refused handshake with 401", 401, {}, "This server asks for a key"],
  ]) {
    await suite.test(`${name} is told apart`, async () => {
      const refusing = await serveStatic({ status, headers });
      const browser = await launch({ microphone: "none" });
      try {
        const page = await browser.newPage();
        await page.goto(refusing.url);
        await page.click("#start-typing");
        await page.waitForSelector("#problem:not([hidden])", { timeout: 10_000 });
        assert.equal(await text(page, "problem-title"), title);
        if (status === 503) assert.match(await text(page, "problem-wait"), /[89] s/);
      } finally {
        await browser.close();
        await refusing.close();
      }
    });
  }
}
