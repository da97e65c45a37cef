// The room on a server that asks for keys, in Chromium against the real server on the test kit's engines: the lobby
// asks for the key, and with it the room is what it always was. The key is in no address and in no log.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { lowContrast } from "./contrast.mjs";
import { DIRECT, Suite, binary, eventually, launch, recording, start, temporary, treePage } from "./harness.mjs";

const run = promisify(execFile);
const LIMIT_MS = 60_000;
const viva = (page) => page.locator(".line.interviewer .words").allTextContents();

export async function keys() {
  const suite = new Suite("keys");
  await temporary(async (folder) => {
    const config = join(folder, "viva.toml");
    await writeFile(config, "");
    const file = join(folder, "keys.toml");
    const made = await run(binary(), ["keys", "--keys", file, "add", "operator"]);
    const key = made.stdout.trim();
    const served = await start(binary(), ["serve", "--engines", "fake", "--listen", "127.0.0.1:0", "--config", config, "--keys", file], {
      line: /listening on (http:\/\/127\.0\.0\.1:\d+)/,
    });
    const browser = await launch({ microphone: await recording(folder), args: DIRECT });
    try {
      await entered(suite, browser, `${served.found[1]}/`, key, served);
    } finally {
      await browser.close();
      await served.stop();
    }
  });
  return suite;
}

async function open(browser, url, { direct = true } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  const faults = [];
  const addresses = [];
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("console", (message) => /Content Security Policy|Refused to/.test(message.text()) && faults.push(message.text()));
  page.on("request", (request) => addresses.push(request.url()));
  page.on("websocket", (socket) => addresses.push(socket.url()));
  // A browser that has no WebRTC goes over a socket at once.
  if (!direct) await page.addInitScript(() => delete window.RTCPeerConnection);
  await treePage(page);
  await page.goto(url);
  const done = async () => {
    await context.close();
    assert.deepEqual(faults, [], "the page threw or broke the server's policy");
  };
  return { page, addresses, done };
}

async function leave(page) {
  await page.click("#leave");
  await page.click("#end");
  await eventually("the summary", () => page.locator("#summary").isVisible());
}

async function entered(suite, browser, url, key, served) {
  await suite.test("who brings no key is asked for one, and with it an interview is held over WebRTC", async () => {
    const { page, addresses, done } = await open(browser, url);
    await eventually("the question for a key", () => page.locator("#entry").isVisible());
    assert.equal(await page.locator("#choice").isVisible(), false);
    assert.deepEqual(await page.evaluate(lowContrast), []);
    await page.fill("#key", "sk-viva-0000000000000000");
    await page.keyboard.press("Enter");
    await eventually("a wrong key is called one", async () => /does not know/.test(await page.locator("#key-note").textContent()));
    assert.equal(await page.evaluate(() => sessionStorage.getItem("viva.key")), null, "and is not kept");
    await page.fill("#key", key);
    await page.keyboard.press("Enter");
    await eventually("the lobby", () => page.locator("#choice").isVisible());
    assert.equal(await page.locator("#entry").isVisible(), false);
    await page.fill("#role", "baker");
    await page.click("#start");
    await eventually("the greeting", async () => (await viva(page)).some((line) => /baker/.test(line)), LIMIT_MS);
    assert.equal(await page.evaluate(() => window.vivaStats.via), "direct");
    const brought = addresses.filter((address) => address.includes(key) || address.includes("ek_"));
    assert.deepEqual(brought, [], "no address brings a key");
    await leave(page);
    // A page that is loaded again in this tab has it; it is in no other storage.
    await page.reload();
    await eventually("the lobby again", () => page.locator("#choice").isVisible());
    assert.equal(await page.locator("#entry").isVisible(), false);
    assert.equal(await page.evaluate((k) => Object.values(localStorage).some((value) => value.includes(k)), key), false);
    await done();
  }, 90_000);

  await suite.test("a free talk goes over a socket, with the key that a link brought once", async () => {
    const { page, addresses, done } = await open(browser, `${url}#key=${key}`, { direct: false });
    await eventually("the lobby", () => page.locator("#choice").isVisible());
    assert.equal(page.url(), url, "the key is taken out of the address at once");
    await page.selectOption("#interviewer", "friendly");
    await page.fill("#role", "");
    await page.click("#start-typing");
    await eventually("the room", () => page.locator("#talk").isVisible());
    await eventually("listening", () => page.evaluate(() => document.documentElement.dataset.phase === "listening"), LIMIT_MS);
    await page.fill("#typed", "Good morning.");
    await page.keyboard.press("Enter");
    await eventually("an answer", async () => (await viva(page)).some((line) => line.length > 0), LIMIT_MS);
    assert.equal(await page.evaluate(() => window.vivaStats.via), "socket");
    const brought = addresses.slice(1).filter((address) => address.includes(key));
    assert.deepEqual(brought, [], "no request's address brings the key");
    await leave(page);
    await done();
  }, 60_000);

  await suite.test("the server's log knows no key", async () => {
    assert.equal(served.output().includes(key.slice(-16)), false);
  });
}
