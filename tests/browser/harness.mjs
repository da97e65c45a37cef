// What the browser tests share: Chromium, a static server for the page, recordings made for the
// microphone, a count of what passed. Everything started here is ended by its own handle.
import { execFile, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { homedir, tmpdir } from "node:os";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const HERE = dirname(fileURLToPath(import.meta.url));
export const ROOT = join(HERE, "..", "..");
export const WEB = join(ROOT, "web-demo");

// The strictest policy the page must work under; the server may send the same one.
export const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const KINDS = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
  ".woff2": "font/woff2",
};

const QUIET = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--autoplay-policy=user-gesture-required",
];

// What WebRTC on one machine needs: loopback as a candidate, and addresses instead of mDNS names. A page that a
// test serves in place of the server (treePage) counts as a stranger to it, so that check is off as well.
export const DIRECT = ["--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns,LocalNetworkAccessChecks"];

/** playwright-core lives outside the checkout: `npm install --prefix $VIVA_NODE playwright-core`. */
function playwright(part = "playwright-core") {
  const folder = process.env.VIVA_NODE ?? join(homedir(), ".cache", "viva", "node");
  try {
    return createRequire(join(folder, "package.json"))(part);
  } catch {
    throw new Error(`playwright-core is missing. run: npm install --prefix ${folder} playwright-core@1.65.1`);
  }
}

/** A WebSocket client for node, whose own has no `on`. */
export const webSocketOf = () => playwright("playwright-core/lib/utilsBundle").ws;

function chromiumPath() {
  const found = [process.env.VIVA_CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
  const path = found.find((each) => each && existsSync(each));
  if (!path) throw new Error("no Chromium found. Install the package `chromium`, or set VIVA_CHROMIUM");
  return path;
}

/**
 * A browser of its own. `microphone`: a WAV file, "none" (no device at all) or "refused".
 * @returns {Promise<import("playwright-core").Browser>}
 */
export async function launch({ microphone = "none", args = [] } = {}) {
  const audio = [];
  if (microphone !== "refused") audio.push("--use-fake-ui-for-media-stream");
  if (microphone !== "none") audio.push("--use-fake-device-for-media-stream");
  if (microphone.endsWith(".wav")) audio.push(`--use-file-for-fake-audio-capture=${microphone}%noloop`);
  return playwright().chromium.launch({
    executablePath: chromiumPath(),
    headless: true,
    args: [...QUIET, ...audio, ...args],
    timeout: 30_000,
  });
}

/** The server under test. */
export function binary() {
  const target = process.env.CARGO_TARGET_DIR ?? join(ROOT, "target");
  const path = process.env.VIVA_BIN ?? join(target, "release", "viva");
  if (!existsSync(path)) throw new Error(`no server to test: ${path} is missing. run: cargo build --release, or set VIVA_BIN`);
  return path;
}

/** With VIVA_TREE_PAGE=1 the page comes from the checkout, so that a change of it needs no build of the server. */
export async function treePage(page) {
  if (process.env.VIVA_TREE_PAGE !== "1") return;
  await page.route("**/*", (route) => {
    const path = new URL(route.request().url()).pathname;
    const file = join(WEB, path === "/" ? "index.html" : normalize(path));
    if (route.request().method() !== "GET" || !existsSync(file)) return route.fallback();
    return route.fulfill({ path: file, contentType: KINDS[extname(file)] });
  });
}

/** Serves web-demo/ on a free loopback port, with the strict policy. `status` answers other paths. */
export async function serveStatic({ status = 404, headers = {} } = {}) {
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://x").pathname));
    const file = join(WEB, path === "/" ? "index.html" : path);
    try {
      const body = await readFile(file);
      const type = KINDS[extname(file)] ?? "application/octet-stream";
      response.writeHead(200, { "Content-Type": type, "Content-Security-Policy": CSP });
      response.end(body);
    } catch {
      response.writeHead(status, headers);
      response.end();
    }
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const { port } = server.address();
  return {
    port,
    url: `http://127.0.0.1:${port}/`,
    close: () => {
      server.closeAllConnections();
      return new Promise((done) => server.close(done));
    },
  };
}

/** A human sentence, then silence: what the fake microphone plays, once. */
export async function recording(folder, { silenceS = 25, leadS = 1 } = {}) {
  const wav = join(folder, "caller.wav");
  const human = process.env.VIVA_TEST_CLIP ?? "/usr/share/pocketsphinx/test/data/librivox/sense_and_sensibility_01_austen_64kb-0870.wav";
  const pad = `adelay=${leadS * 1000}:all=1,apad=pad_dur=${silenceS}`;
  if (existsSync(human)) {
    await run("ffmpeg", ["-v", "error", "-y", "-i", human, "-af", pad, "-ar", "48000", "-ac", "1", wav]);
  } else {
    const said = join(folder, "said.wav");
    await run("espeak-ng", ["-w", said, "-s", "150", "Hello. I am here for the interview about the engineering role."]);
    await run("ffmpeg", ["-v", "error", "-y", "-i", said, "-af", pad, "-ar", "48000", "-ac", "1", wav]);
  }
  return wav;
}

export async function temporary(use) {
  const folder = await mkdtemp(join(tmpdir(), "viva-browser-"));
  try {
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Starts a program and waits for a line of its output; `stop` ends that very process. */
export async function start(command, args, { line, timeoutMs = 60_000, env = {} }) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...env } });
  let output = "";
  const found = await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no "${line}" in ${timeoutMs} ms:\n${output}`)), timeoutMs);
    const read = (data) => {
      output = (output + data).slice(-20_000);
      const match = line.exec(output);
      if (match) {
        clearTimeout(timer);
        resolve(match);
      }
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.on("error", reject);
    child.on("exit", (code) => {
      clearTimeout(timer);
      reject(new Error(`${command} ended with ${code}:\n${output}`));
    });
  }).catch((error) => {
    child.kill("SIGKILL");
    throw error;
  });
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((done) => child.once("exit", done));
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), 15_000);
    await gone;
    clearTimeout(timer);
  };
  return { found, stop, output: () => output };
}

export class Suite {
  constructor(name) {
    this.name = name;
    this.passed = 0;
    this.failed = 0;
    const wanted = process.env.VIVA_ONLY;
    this.only = wanted ? new RegExp(wanted) : null;
  }

  /** One named behaviour, with a limit on its time. */
  async test(name, check, timeoutMs = 30_000) {
    if (this.only && !this.only.test(name)) return;
    const started = Date.now();
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`not done after ${timeoutMs} ms`)), timeoutMs);
    });
    try {
      await Promise.race([check(), late]);
      this.passed += 1;
      console.log(`ok    ${this.name}: ${name} (${Date.now() - started} ms)`);
    } catch (error) {
      this.failed += 1;
      console.log(`FAIL  ${this.name}: ${name}\n      ${String(error.stack ?? error).replaceAll("\n", "\n      ")}`);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Looks again until `probe` gives something true; says what it last saw when it never does. */
export async function eventually(what, probe, timeoutMs = 10_000) {
  const end = Date.now() + timeoutMs;
  let last;
  while (Date.now() < end) {
    last = await probe();
    if (last) return last;
    await new Promise((next) => setTimeout(next, 50));
  }
  throw new Error(`never happened in ${timeoutMs} ms: ${what} (last seen: ${JSON.stringify(last)})`);
}
