// The room in Firefox, against the real server on the test kit's engines. playwright-core drives only a Firefox of
// its own, so this one is asked over WebDriver BiDi, which stock Firefox speaks. On a machine without a sound device
// Firefox runs no audio graph, so what is heard is not looked at here. Run by name only; without a Firefox it is
// skipped, and says so.
import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Suite, binary, eventually, start, temporary, webSocketOf } from "./harness.mjs";

const LIMIT_MS = 30_000;
// A microphone that hums, no question about it, and loopback as a candidate.
const PREFERENCES = {
  "media.navigator.streams.fake": true,
  "media.navigator.permission.disabled": true,
  "media.peerconnection.ice.loopback": true,
  "media.autoplay.default": 0,
  "browser.shell.checkDefaultBrowser": false,
  "datareporting.policy.dataSubmissionEnabled": false,
  "app.update.enabled": false,
  "browser.aboutwelcome.enabled": false,
};

function firefoxPath() {
  const places = [process.env.VIVA_FIREFOX, "/usr/bin/firefox-esr", "/usr/bin/firefox"];
  return places.find((each) => each && existsSync(each)) ?? null;
}

/** A page in Firefox: what of WebDriver BiDi these tests need. */
class Bidi {
  constructor(socket) {
    this.socket = socket;
    this.asked = new Map();
    this.last = 0;
    socket.on("message", (data) => this.receive(JSON.parse(data)));
  }

  static async connect(address) {
    const Socket = webSocketOf();
    const socket = new Socket(`${address}/session`);
    await new Promise((ready, fail) => socket.once("open", ready).once("error", fail));
    const bidi = new Bidi(socket);
    await bidi.ask("session.new", { capabilities: {} });
    const { contexts } = await bidi.ask("browsingContext.getTree", {});
    bidi.context = contexts[0].context;
    return bidi;
  }

  ask(method, params) {
    this.last += 1;
    const id = this.last;
    this.socket.send(JSON.stringify({ id, method, params }));
    return new Promise((resolve, reject) => this.asked.set(id, { resolve, reject, method }));
  }

  receive({ id, result, error, message }) {
    const asked = this.asked.get(id);
    this.asked.delete(id);
    if (error) asked?.reject(new Error(`${asked.method}: ${error}: ${message}`));
    else asked?.resolve(result);
  }

  goto(url) {
    return this.ask("browsingContext.navigate", { context: this.context, url, wait: "complete" });
  }

  /** The value of an expression in the page, as JSON; with the rights of a click. */
  async run(expression) {
    const wrapped = `(async () => JSON.stringify((await (${expression})) ?? null))()`;
    const target = { context: this.context };
    const { type, result, exceptionDetails } = await this.ask("script.evaluate", { expression: wrapped, target, awaitPromise: true, userActivation: true });
    if (type !== "success") throw new Error(exceptionDetails.text);
    return JSON.parse(result.value);
  }

  close() {
    this.socket.close();
  }
}

export async function firefox() {
  const suite = new Suite("firefox");
  const path = firefoxPath();
  if (!path) {
    console.log("skip  firefox: none is installed (package firefox-esr, or VIVA_FIREFOX)");
    return suite;
  }
  await temporary(async (folder) => {
    const profile = join(folder, "profile");
    await mkdir(profile);
    const lines = Object.entries(PREFERENCES).map(([name, value]) => `user_pref("${name}", ${JSON.stringify(value)});`);
    await writeFile(join(profile, "user.js"), lines.join("\n"));
    const server = await start(binary(), ["serve", "--engines", "fake", "--listen", "127.0.0.1:0"], { line: /listening on (http:\/\/127\.0\.0\.1:\d+)/ });
    const browser = await start(path, ["--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"], {
      line: /WebDriver BiDi listening on (ws:\/\/\S+)/,
      env: { HOME: folder, MOZ_DISABLE_CONTENT_SANDBOX: "1" },
    });
    const page = await Bidi.connect(browser.found[1]);
    try {
      await call(suite, page, server.found[1]);
    } finally {
      page.close();
      await browser.stop();
      await server.stop();
    }
  });
  return suite;
}

async function call(suite, page, url) {
  const phase = () => page.run("document.documentElement.dataset.phase");
  const stats = () => page.run("window.vivaStats");
  const answers = () => page.run("[...document.querySelectorAll('.line.interviewer .words')].filter((each) => each.textContent).length");
  const click = (id) => page.run(`document.getElementById("${id}").click()`);

  await suite.test("a call is entered, a typed line is answered in captions, and it ends", async () => {
    await page.goto(url);
    await click("start");
    await eventually("live", async () => ["listening", "hearing"].includes(await phase()), LIMIT_MS).catch(async (error) => {
      throw new Error(`${error.message}\nthe page: ${(await page.run("document.querySelector('main').innerText")).replaceAll("\n", " | ")}`);
    });
    // A Firefox that finds no candidate on loopback cannot reach a server there over UDP: it talks over the socket.
    console.log(`      over: ${(await stats()).via}`);
    // The hum of the fake microphone would be an endless turn.
    await click("mute");
    await page.run("(document.getElementById('typed').value = 'Good morning.', document.getElementById('composer').requestSubmit())");
    await eventually("an answer", async () => (await answers()) >= 1, LIMIT_MS);
    await click("leave");
    await click("end");
    await eventually("the summary", () => page.run("!document.getElementById('summary').hidden"), LIMIT_MS);
  }, 4 * LIMIT_MS);
}
