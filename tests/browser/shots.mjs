// Pictures of every view, for a person to look at: node shots.mjs FOLDER. Not a test.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { launch, recording, serveStatic, temporary } from "./harness.mjs";
import { METRICS, MockServer } from "./mock.mjs";

const folder = process.argv[2] ?? "shots";
const SIZES = { desktop: [1280, 800], phone: [390, 844], small: [360, 640] };

async function shoot(browser, url, size, scheme) {
  const [width, height] = SIZES[size];
  const name = (what) => join(folder, `${size}-${scheme}-${what}.png`);
  const page = await browser.newPage({ viewport: { width, height }, colorScheme: scheme });
  const mock = await new MockServer(page).install();
  await page.goto(url);
  await page.waitForTimeout(400);
  await page.screenshot({ path: name("1-lobby") });
  await page.click("#start");
  await page.waitForSelector("#talk:not([hidden])");
  await page.waitForTimeout(300);
  mock.candidate("u1", "Hello. I am here for the position on the platform team.");
  await mock.interviewer("a1", "Good morning, and welcome. To begin, tell me about a system you built that other people came to depend on.", { ms: 800 });
  mock.send(METRICS);
  mock.candidate("u2", "We had a billing service that nobody dared to touch, so over a year I split the ledger from the invoices, and the two teams could ship on their own.");
  const speaking = mock.interviewer("a2", "A ledger is a good place to draw that line. What broke first, and how did you find out?", { ms: 2600 });
  mock.send({ ...METRICS, turn: 2, endpoint_ms: 240, asr_final_ms: 198, llm_first_token_ms: 402, first_sentence_ms: 655, first_audio_ms: 790, voice_to_voice_ms: 842 });
  await page.waitForTimeout(1600);
  await page.screenshot({ path: name("2-speaking") });
  await speaking;
  mock.send({ type: "viva.state", state: "hearing" });
  await page.waitForTimeout(700);
  await page.screenshot({ path: name("3-hearing") });
  if (size !== "small") {
    mock.send({ type: "viva.state", state: "thinking" });
    await page.click("#mute");
    await page.waitForTimeout(900);
    await page.screenshot({ path: name("4-thinking-muted") });
    await page.click("#open-settings");
    await page.waitForTimeout(300);
    await page.screenshot({ path: name("5-settings") });
    await page.keyboard.press("Escape");
  }
  await page.click("#leave");
  await page.click("#end");
  await page.waitForTimeout(300);
  await page.screenshot({ path: name("6-summary") });
  await page.close();
}

await mkdir(folder, { recursive: true });
await temporary(async (where) => {
  const site = await serveStatic({ status: 503, headers: { "Retry-After": "20" } });
  const browser = await launch({ microphone: await recording(where, { silenceS: 30, leadS: 3 }) });
  try {
    for (const size of Object.keys(SIZES)) {
      for (const scheme of ["light", "dark"]) {
        if (size === "small" && scheme === "dark") continue;
        await shoot(browser, site.url, size, scheme);
      }
    }
    const page = await browser.newPage({ viewport: { width: 390, height: 844 } });
    await page.goto(site.url);
    await page.click("#start");
    await page.waitForSelector("#problem:not([hidden])");
    await page.screenshot({ path: join(folder, "phone-light-full.png") });
  } finally {
    await browser.close();
    await site.close();
  }
});
