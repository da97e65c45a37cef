// All browser tests: the page's pure parts, the page against a mocked socket and a mocked peer, and the page
// against the real server. `node tests/browser/run.mjs [unit] [ladder] [page] [direct] [room]
// [interview] [keys] [firefox] [talk]`; VIVA_ONLY picks tests by name.
import { direct } from "./direct.mjs";
import { firefox } from "./firefox.mjs";
import { interview } from "./interview.mjs";
import { keys } from "./keys.mjs";
import { ladders } from "./ladder.mjs";
import { page } from "./page.mjs";
import { room } from "./room.mjs";
import { talk } from "./talk.mjs";
import { units } from "./unit.mjs";

// Long enough for every test's own limit on a busy machine; a hang ends here.
const LIMIT_MS = 12 * 60_000;

const all = { unit: units, ladder: ladders, page, direct, room, interview, keys, firefox, talk };
// Firefox is no part of what every machine has.
const usual = Object.keys(all).filter((name) => name !== "firefox");
const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !Object.hasOwn(all, name));
if (unknown.length > 0) {
  console.error(`no such suite: ${unknown.join(", ")}. There are: ${Object.keys(all).join(", ")}`);
  process.exit(2);
}

const watchdog = setTimeout(() => {
  console.error(`the browser tests did not end within ${LIMIT_MS / 1000} s`);
  process.exit(1);
}, LIMIT_MS);

let passed = 0;
let failed = 0;
for (const name of wanted.length > 0 ? wanted : usual) {
  try {
    const suite = await all[name]();
    passed += suite.passed;
    failed += suite.failed;
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}: could not run\n      ${String(error.stack ?? error).replaceAll("\n", "\n      ")}`);
  }
}
clearTimeout(watchdog);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 || (passed === 0 && !wanted.includes("firefox")) ? 1 : 0;
