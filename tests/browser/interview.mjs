// The lobby and the plan: an interview chosen, held and kept, in Chromium against the real server on the test kit's
// engines. What is said there is the interviewer's own; what is heard is what is typed.
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { lowContrast } from "./contrast.mjs";
import { DIRECT, Suite, binary, eventually, launch, start, temporary, treePage } from "./harness.mjs";

const LIMIT_MS = 60_000;
const text = (page, id) => page.locator(`#${id}`).textContent();
const parts = (page) => page.locator("#plan-sections li").evaluateAll((all) => all.map((li) => [li.firstChild.textContent, li.dataset.state]));
const viva = (page) => page.locator(".line.interviewer .words").allTextContents();

export async function interview() {
  const suite = new Suite("interview");
  await temporary(async (folder) => {
    const config = join(folder, "viva.toml");
    await writeFile(config, "");
    const served = await start(binary(), ["serve", "--engines", "fake", "--listen", "127.0.0.1:0", "--config", config], {
      line: /listening on (http:\/\/127\.0\.0\.1:\d+)/,
    });
    const browser = await launch({ args: DIRECT });
    try {
      await chosen(suite, browser, `${served.found[1]}/`, folder);
    } finally {
      await browser.close();
      await served.stop();
    }
  });
  return suite;
}

async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("console", (message) => /Content Security Policy|Refused to/.test(message.text()) && faults.push(message.text()));
  await treePage(page);
  await page.goto(url);
  await eventually("the choice", () => page.locator("#choice").isVisible());
  const done = async () => {
    await context.close();
    assert.deepEqual(faults, [], "the page threw or broke the server's policy");
  };
  return { page, done };
}

/** For good: a place that is kept is a caller whom a busy server protects from others. */
async function leave(page) {
  await page.click("#leave");
  await page.click("#end");
  await eventually("the summary", () => page.locator("#summary").isVisible());
}

async function chosen(suite, browser, url, folder) {
  await suite.test("the interviewer brings role, level and length, and all of it is reached by keyboard", async () => {
    const { page, done } = await open(browser, url);
    await page.selectOption("#interviewer", "ward");
    assert.equal(await page.getAttribute("#role", "placeholder"), "nurse");
    await page.focus("#role");
    const reached = [];
    for (let i = 0; i < 5; i += 1) {
      reached.push(await page.evaluate(() => document.activeElement.id));
      await page.keyboard.press("Tab");
    }
    assert.deepEqual(reached.slice(0, 4), ["role", "level", "minutes", "interviewer"]);
    assert.equal(await page.getByRole("textbox", { name: "Role" }).count(), 1);
    for (const name of ["Level", "Length", "Interviewer"]) assert.equal(await page.getByRole("combobox", { name }).count(), 1, name);
    await done();
  });

  await suite.test("an interview is held to its end: plan, question, time, transcript", async () => {
    const { page, done } = await open(browser, url, { acceptDownloads: true });
    const asked = [];
    page.on("request", (request) => request.method() === "POST" && request.url().includes("/interview/") && asked.push(request.postDataJSON()));
    const sockets = [];
    page.on("websocket", (socket) => sockets.push(socket.url()));
    await page.fill("#role", "baker");
    await page.selectOption("#minutes", "5");
    await page.click("#start-typing");
    await eventually("the greeting", async () => (await viva(page)).some((line) => /baker/.test(line)), LIMIT_MS);
    assert.deepEqual(asked, [{ role: "baker", level: "mid", minutes: 5, interviewer: "friendly" }]);
    assert.deepEqual((await parts(page))[0], ["Greeting", "now"]);
    assert.match(await text(page, "plan-left"), /min left/);
    assert.equal(await text(page, "plan-question"), "Shall we begin?");
    await eventually("listening", () => page.evaluate(() => document.documentElement.dataset.phase === "listening"), LIMIT_MS);
    await page.fill("#typed", "Yes, gladly.");
    await page.keyboard.press("Enter");
    await eventually("the first question", async () => (await parts(page)).some(([name, state]) => name === "About you" && state === "now"), LIMIT_MS);
    const question = await text(page, "plan-question");
    await eventually("it is said", async () => (await viva(page)).some((line) => line.includes(question)), LIMIT_MS);
    assert.equal(await page.locator("#plan-sections [aria-current=step]").count(), 1);
    assert.ok(await eventually("the reader is told", async () => /Now: About you/.test(await text(page, "status"))));
    await leave(page);
    await page.click("#sum-details summary");
    assert.ok((await page.locator("#sum-transcript").innerText()).includes("Yes, gladly."));
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
    const path = join(folder, "transcript.txt");
    await download.saveAs(path);
    const kept = await readFile(path, "utf8");
    assert.match(kept, /^Interview int_[0-9a-f]{32}\n/);
    assert.ok(kept.includes(question) && kept.includes("Yes, gladly."));
    await done();
  }, 90_000);

  await suite.test("without a role it is a free talk, and a refusal is said in the lobby", async () => {
    const { page, done } = await open(browser, url);
    await page.fill("#role", "baker {1}");
    await page.click("#start-typing");
    await eventually("the refusal", () => page.locator("#problem").isVisible());
    await page.fill("#role", "");
    await page.click("#start-typing");
    await eventually("the room", () => page.locator("#talk").isVisible());
    await page.waitForTimeout(500);
    assert.equal(await page.locator("#plan").isVisible(), false);
    await leave(page);
    await done();
  });

  for (const scheme of ["light", "dark"]) {
    await suite.test(`the choice and the plan can be read on a phone, ${scheme}`, async () => {
      const { page, done } = await open(browser, url, { viewport: { width: 360, height: 740 }, colorScheme: scheme });
      const fits = () => page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth);
      assert.ok(await fits(), "the lobby is no wider than the phone");
      assert.deepEqual(await page.evaluate(lowContrast), []);
      await page.fill("#role", "baker");
      await page.click("#start-typing");
      await eventually("the plan", () => page.locator("#plan").isVisible(), LIMIT_MS);
      await eventually("its question", async () => (await text(page, "plan-question")) !== "", LIMIT_MS);
      assert.ok(await fits(), "the room is no wider than the phone");
      assert.deepEqual(await page.evaluate(lowContrast), []);
      await leave(page);
      await done();
    }, 60_000);
  }
}
