// The picture in web-demo/screenshot.png, of a real talk: node portrait.mjs FILE.png. Not a test: a person looks at
// it. A built server on real weights (VIVA_TEST_PROFILE, or `test`) is called by a page whose microphone says
// recorded answers.
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { DIRECT, binary, eventually, launch, start, temporary, treePage } from "./harness.mjs";
import { Tap } from "./tap.mjs";

const run = promisify(execFile);
const picture = process.argv[2] ?? "portrait.png";
const ANSWERS = ["intro", "project", "team"];
const DATA = new URL("../data/interview/", import.meta.url).pathname;
const LIMIT_MS = 120_000;

const phase = (page) => page.evaluate(() => document.documentElement.dataset.phase);

await temporary(async (folder) => {
  const profile = process.env.VIVA_TEST_PROFILE ?? "test";
  const server = await start(binary(), ["serve", "--profile", profile, "--listen", "127.0.0.1:0"], {
    line: /listening on (http:\/\/127\.0\.0\.1:\d+)/,
    timeoutMs: LIMIT_MS,
  });
  const browser = await launch({ microphone: "none", args: DIRECT });
  try {
    const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
    const tap = await new Tap(page).install({ microphone: true });
    await treePage(page);
    await page.goto(server.found[1]);
    await page.click("#start");
    await eventually("live", async () => (await phase(page)) === "listening", LIMIT_MS);
    for (const [i, name] of ANSWERS.entries()) {
      const wav = join(folder, `${name}.wav`);
      await run("ffmpeg", ["-v", "error", "-y", "-i", join(DATA, `${name}.opus`), "-ar", "48000", "-ac", "1", wav]);
      const seconds = await tap.say(wav);
      await page.waitForTimeout(seconds * 1000);
      await eventually("it speaks", async () => (await phase(page)) === "speaking", LIMIT_MS);
      if (i === ANSWERS.length - 1) break;
      await eventually("and is done", async () => (await phase(page)) === "listening", LIMIT_MS);
      await page.waitForTimeout(800);
    }
    // In mid-sentence, with the meters in motion.
    await page.waitForTimeout(1400);
    await page.screenshot({ path: picture });
    console.log((await page.locator("#captions").innerText()).trim());
  } finally {
    await browser.close();
    await server.stop();
  }
});
