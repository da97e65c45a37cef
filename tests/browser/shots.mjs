// Pictures of every view, for a person to look at: node shots.mjs FOLDER. Not a test.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { DIRECT, launch, recording, serveStatic, temporary } from "./harness.mjs";
import { MockPeer } from "./mock-rtc.mjs";
import { METRICS, MockServer } from "./mock.mjs";

const folder = process.argv[2] ?? "shots";
const SIZES = { desktop: [1280, 800], phone: [390, 844], small: [360, 640] };

async function shoot(browser, url, size, scheme) {
  const [width, height] = SIZES[size];
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme });
  const page = await context.newPage();
  let number = 0;
  const take = (what) => page.screenshot({ path: join(folder, `${size}-${scheme}-${(number += 1)}-${what}.png`) });
  const socket = await new MockServer(page).install();
  const peer = await new MockPeer(page).install({ offer: { recording: true } });
  const turn = (...list) => {
    // The mocked socket's events, spoken by the mocked peer.
    socket.send = (...events) => (socket.said = Promise.resolve(socket.said).then(() => peer.send(...events)));
    socket.candidate(...list);
    return socket.said;
  };
  await page.goto(url);
  await page.waitForTimeout(500);
  await take("lobby");
  await page.check("#record");
  await page.click("#start");
  await page.waitForFunction(() => document.documentElement.dataset.phase === "listening");
  await turn("u1", "Hello. I am here for the position on the platform team.");
  await peer.speaks("a1", "Good morning, and welcome. To begin, tell me about a system you built that other people came to depend on.");
  await page.waitForTimeout(300);
  await peer.quiet("a1");
  await peer.send(METRICS);
  await turn("u2", "We had a billing service that nobody dared to touch, so over a year I split the ledger from the invoices, and the two teams could ship on their own.");
  await peer.speaks("a2", "A ledger is a good place to draw that line. What broke first, and how did you find out?");
  await peer.send({ ...METRICS, turn: 2, endpoint_ms: 240, asr_final_ms: 198, llm_first_token_ms: 402, first_sentence_ms: 655, first_audio_ms: 790, voice_to_voice_ms: 842 });
  await page.waitForTimeout(2300);
  await take("speaking");
  await page.click("#connection summary");
  await page.waitForTimeout(300);
  await take("connection");
  await page.click("#connection summary");
  await peer.quiet("a2");
  const kind = "conversation.item.input_audio_transcription.delta";
  await peer.send({ type: "viva.state", state: "hearing" }, { type: kind, item_id: "u3", content_index: 0, delta: "The invoices broke, and we learned it from" });
  await page.waitForTimeout(700);
  await take("hearing");
  await peer.run((mock) => mock.ice("failed"));
  await peer.run((mock) => (mock.refuse.PATCH = ["network", "network"]));
  await page.waitForTimeout(600);
  await take("reconnecting");
  await peer.run((mock) => mock.ice(null));
  await page.waitForFunction(() => document.documentElement.dataset.phase !== "reconnecting");
  await peer.send({ type: "viva.state", state: "thinking" });
  await page.click("#mute");
  await page.waitForTimeout(700);
  await take("thinking-muted");
  await page.click("#open-settings");
  await page.waitForTimeout(300);
  await take("settings");
  await page.keyboard.press("Escape");
  await page.click("#leave");
  await page.waitForTimeout(300);
  await take("leaving");
  await page.click("#step-out");
  await page.waitForTimeout(400);
  await take("waiting");
  await page.click("#return");
  await page.waitForFunction(() => document.documentElement.dataset.phase !== "connecting");
  await page.click("#leave");
  await page.click("#end");
  await page.waitForTimeout(300);
  await take("summary");
  await context.close();
}

await mkdir(folder, { recursive: true });
await temporary(async (where) => {
  const site = await serveStatic({ status: 503, headers: { "Retry-After": "20" } });
  const browser = await launch({ microphone: await recording(where, { silenceS: 30, leadS: 3 }), args: DIRECT });
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
