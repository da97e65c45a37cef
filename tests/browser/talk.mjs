// The page against the real server, with real weights: a human voice goes in through the microphone,
// both sides are captioned and the answer is heard.
import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { DIRECT, Suite, binary, eventually, launch, recording, start, temporary, treePage } from "./harness.mjs";

// Weights are read and engines started before the line is printed; a cold disk is slow.
const START_LIMIT_MS = 120_000;
// The recording is 7 s of speech; the rest is room for a busy two-core machine.
const ANSWER_LIMIT_MS = 60_000;

const words = (page, side) => page.locator(`.line.${side} .words`).allTextContents();

async function pictures(page, folder) {
  await mkdir(folder, { recursive: true });
  for (const [name, width, height] of [["desktop", 1280, 800], ["phone", 390, 844]]) {
    await page.setViewportSize({ width, height });
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await page.waitForTimeout(250);
      await page.screenshot({ path: join(folder, `talk-${name}-${colorScheme}.png`) });
    }
  }
}

export async function talk() {
  const suite = new Suite("talk");
  await temporary(async (folder) => {
    const wav = await recording(folder, { leadS: 2, silenceS: 90 });
    const profile = process.env.VIVA_TEST_PROFILE ?? "test";
    const server = await start(binary(), ["serve", "--profile", profile, "--listen", "127.0.0.1:0"], {
      line: /listening on (http:\/\/127\.0\.0\.1:\d+)/,
      timeoutMs: START_LIMIT_MS,
    });
    try {
      await spoken(suite, server.found[1], wav);
      await typed(suite, server.found[1]);
      if (suite.failed > 0) console.log(`the server said:\n${server.output().slice(-4000)}`);
    } finally {
      await server.stop();
    }
  });
  return suite;
}

async function spoken(suite, url, wav) {
  await suite.test("a voice goes in, both sides are captioned, an answer is heard", async () => {
    const browser = await launch({ microphone: wav, args: DIRECT });
    try {
      const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
      const faults = [];
      page.on("pageerror", (error) => faults.push(String(error)));
      page.on("console", (message) => /Content Security Policy|Refused to/.test(message.text()) && faults.push(message.text()));
      await treePage(page);
      await page.goto(url);
      await page.click("#start");
      await page.waitForSelector("#clock:not([hidden])");
      const heard = await eventually("the caller's caption", async () => {
        const lines = (await words(page, "candidate")).filter(Boolean);
        return lines.join(" ").split(" ").length >= 4 && lines;
      }, ANSWER_LIMIT_MS);
      const said = await eventually("the interviewer's caption", async () => {
        const lines = (await words(page, "interviewer")).filter(Boolean);
        return lines.length > 0 && lines;
      }, ANSWER_LIMIT_MS);
      const peak = await eventually("audible output", () => page.evaluate(() => window.vivaStats.peak > 0.02 && window.vivaStats.peak), ANSWER_LIMIT_MS);
      const wait = await eventually("the turn's latency", async () => {
        const figure = await page.textContent("#latency-figure");
        return figure !== "–" && figure;
      }, ANSWER_LIMIT_MS);
      console.log(`      heard: ${heard.join(" ")}\n      said: ${said.join(" ")}\n      peak ${peak.toFixed(2)}, wait ${wait}`);
      if (process.env.VIVA_SHOTS) await pictures(page, process.env.VIVA_SHOTS);
      assert.deepEqual(faults, [], "the page threw or broke the server's policy");
      await page.click("#leave");
      await page.click("#end");
      await page.waitForSelector("#summary:not([hidden])");
    } finally {
      await browser.close();
    }
  }, 4 * ANSWER_LIMIT_MS);
}

async function typed(suite, url) {
  await suite.test("without a microphone, a typed line is answered aloud", async () => {
    const browser = await launch({ microphone: "none", args: DIRECT });
    try {
      const page = await browser.newPage();
      await treePage(page);
      await page.goto(url);
      await page.click("#start-typing");
      await eventually("the room", () => page.evaluate(() => document.activeElement.id === "typed"), ANSWER_LIMIT_MS);
      await page.keyboard.type("Good morning. Please ask me one short question.");
      await page.keyboard.press("Enter");
      await eventually("an answer", async () => (await words(page, "interviewer")).some(Boolean), ANSWER_LIMIT_MS);
      await eventually("audible output", () => page.evaluate(() => window.vivaStats.peak > 0.02), ANSWER_LIMIT_MS);
    } finally {
      await browser.close();
    }
  }, 3 * ANSWER_LIMIT_MS);
}
