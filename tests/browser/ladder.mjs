// The ways in and back (ladder.js), the figures of the way (quality.js) and the word that sounds (spoken.js), in
// virtual time.
import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";
import { join } from "node:path";
import { WEB, Suite } from "./harness.mjs";

const load = (name) => import(pathToFileURL(join(WEB, name)));
const { Ladder } = await load("ladder.js");
const { Grade, Sampler } = await load("quality.js");
const { HeardClock, Pace, split } = await load("spoken.js");
const { Reading } = await load("reading.js");

/** What was decided, without what is only told. */
const deeds = (actions) => actions.filter((each) => !["status", "drop"].includes(each.do)).map(({ do: what, ...rest }) => [what, ...Object.values(rest)]);

function standing({ token = "t1", via = "direct" } = {}) {
  const ladder = new Ladder({ random: () => 0 });
  ladder.begin({ webrtc: via === "direct" });
  ladder.opened({ now: 0 });
  if (token) ladder.kept({ token, expiresInS: 30 });
  return ladder;
}

export async function ladders() {
  const suite = new Suite("ladder");

  await suite.test("the way in is WebRTC, then the socket; what no way can mend ends it", async () => {
    for (const reason of ["udp", "unsupported", "absent", "refused", "network"]) {
      const ladder = new Ladder();
      assert.deepEqual(deeds(ladder.begin({ webrtc: true })), [["open", "direct", null]]);
      assert.deepEqual(deeds(ladder.failed({ reason, now: 0 })), [["open", "socket", null]], reason);
      assert.equal(ladder.opened({ now: 1 })[0].blocked, reason === "udp");
    }
    for (const reason of ["full", "unauthorised", "unrecorded"]) {
      const ladder = new Ladder();
      ladder.begin({ webrtc: true });
      assert.deepEqual(deeds(ladder.failed({ reason, now: 0, retryAfterS: 4 })), [["fail", reason, 4]]);
    }
  });

  await suite.test("the way back: restart, a fresh call by the token, the socket by the token, a pause, and again", async () => {
    const ladder = standing();
    assert.deepEqual(deeds(ladder.lost({ reason: "ice", now: 1000 })), [["restart"]]);
    assert.deepEqual(deeds(ladder.failed({ reason: "absent", now: 5000 })), [["open", "direct", "t1"]]);
    assert.deepEqual(deeds(ladder.failed({ reason: "udp", now: 9000 })), [["open", "socket", "t1"]]);
    assert.deepEqual(deeds(ladder.failed({ reason: "unreachable", now: 9100 })), [["wait", 500]]);
    assert.deepEqual(deeds(ladder.waited({ now: 9600 })), [["open", "direct", "t1"]]);
    const [told] = ladder.opened({ now: 11_000 });
    assert.deepEqual([told.again, told.resumed, told.awayMs], [true, true, 10_000]);
  });

  await suite.test("without a network no other protocol is tried, only time, and the tries have an end", async () => {
    const ladder = standing();
    ladder.lost({ reason: "ice", now: 0 });
    const waits = [];
    let actions = ladder.failed({ reason: "network", now: 0 });
    while (deeds(actions)[0][0] === "wait" && waits.length < 20) {
      waits.push(deeds(actions)[0][1]);
      assert.deepEqual(deeds(ladder.waited({ now: 10 })), [["restart"]], "the same call may still be there");
      actions = ladder.failed({ reason: "network", now: 10 });
    }
    assert.deepEqual(waits, [500, 1000, 2000, 4000, 8000, 8000]);
    assert.deepEqual(deeds(actions), [["fail", "lost"]]);
  });

  await suite.test("a token is used as long as it may be good, and no longer", async () => {
    const ladder = standing();
    ladder.lost({ reason: "ice", now: 0 });
    ladder.failed({ reason: "network", now: 0 });
    assert.deepEqual(deeds(ladder.waited({ now: 51_000 })), [["fail", "expired"]]);
    const anew = ladder.again({ now: 52_000, anew: true });
    assert.deepEqual(deeds(anew), [["open", "direct", null]]);
    assert.deepEqual([ladder.opened({ now: 53_000 })[0].again, ladder.opened({ now: 53_000 })[0].resumed], [true, false]);
  });

  await suite.test("a way that heals by itself while we wait is taken, and the wait forgotten", async () => {
    const ladder = standing();
    ladder.lost({ reason: "ice", now: 0 });
    ladder.failed({ reason: "network", now: 100 });
    assert.deepEqual(deeds(ladder.mended({ now: 300 })), [["wait", null]]);
    assert.deepEqual(ladder.waited({ now: 600 }), []);
    assert.deepEqual(deeds(ladder.lost({ reason: "ice", now: 700 })), [["restart"]], "and the ladder stands ready");
  });

  await suite.test("a restart for a new network is silent, unless the old way is dead", async () => {
    const quiet = standing();
    assert.deepEqual(quiet.network({ now: 0 }), [{ do: "restart" }]);
    assert.deepEqual(quiet.restarted({ now: 100 }), []);
    const failing = standing();
    failing.network({ now: 0 });
    assert.deepEqual(failing.failed({ reason: "network", now: 100 }), [], "nothing was missed so far");
    assert.deepEqual(deeds(failing.lost({ reason: "ice", now: 200 })), [["restart"]]);
    const dead = standing();
    dead.network({ now: 0 });
    assert.equal(dead.lost({ reason: "ice", now: 100 })[0].status, "reconnecting");
    assert.deepEqual(deeds(dead.failed({ reason: "absent", now: 4000 })), [["open", "direct", "t1"]]);
  });

  await suite.test("where the server answers and no UDP comes through, no fresh call is wasted on the same way", async () => {
    const ladder = standing();
    ladder.lost({ reason: "ice", now: 0 });
    assert.deepEqual(deeds(ladder.failed({ reason: "udp", now: 4000 })), [["open", "socket", "t1"]]);
    const [told] = ladder.opened({ now: 4100 });
    assert.deepEqual([told.via, told.resumed, told.blocked], ["socket", true, true]);
  });

  await suite.test("what the other side closed and no longer knows is ended, what was lost is expired", async () => {
    const ended = standing();
    assert.deepEqual(deeds(ended.lost({ reason: "channel", now: 0 })), [["open", "direct", "t1"]]);
    assert.deepEqual(deeds(ended.failed({ reason: "expired", now: 1 })), [["fail", "ended"]]);
    const lost = standing();
    lost.lost({ reason: "ice", now: 0 });
    lost.failed({ reason: "absent", now: 1 });
    assert.deepEqual(deeds(lost.failed({ reason: "expired", now: 2 })), [["fail", "expired"]]);
  });

  await suite.test("a session without a token is ended before a new one is opened, so that its seat is free", async () => {
    const ladder = standing({ token: null });
    ladder.lost({ reason: "ice", now: 0 });
    const actions = ladder.failed({ reason: "absent", now: 1 });
    assert.deepEqual(actions.find((each) => each.do === "drop"), { do: "drop", hangup: true });
    assert.equal(ladder.opened({ now: 2 })[0].resumed, false);
    const kept = standing();
    kept.lost({ reason: "ice", now: 0 });
    assert.equal(kept.failed({ reason: "absent", now: 1 }).find((each) => each.do === "drop").hangup, false);
  });

  await suite.test("whatever happens in whatever order, something always comes next or the call is over", async () => {
    let seed = 7;
    const random = () => ((seed = (seed * 48271) % 2147483647) / 2147483647);
    const pick = (list) => list[Math.floor(random() * list.length)];
    for (let round = 0; round < 300; round += 1) {
      const ladder = new Ladder({ random });
      let now = 0;
      let pending = ladder.begin({ webrtc: random() < 0.7, token: pick([null, "t"]) });
      for (let step = 0; step < 60; step += 1) {
        now += Math.floor(random() * 5000);
        const last = pending.filter((each) => ["open", "restart", "wait", "fail"].includes(each.do)).at(-1);
        if (last?.do === "fail") break;
        if (ladder.rung === "live") pending = pick([() => ladder.lost({ reason: pick(["ice", "channel", "socket"]), now }), () => ladder.network({ now })])();
        else if (ladder.rung === "wait") pending = ladder.waited({ now });
        else if (ladder.rung === "restart") pending = pick([() => ladder.restarted({ now }), () => ladder.failed({ reason: pick(["udp", "network", "absent"]), now })])();
        else if (ladder.rung === "dial") pending = pick([() => ladder.opened({ now }), () => ladder.failed({ reason: pick(["udp", "network", "refused", "unreachable"]), now })])();
        const rest = ["live", "wait", "restart", "dial"].includes(ladder.rung);
        assert.ok(rest || pending.some((each) => each.do === "fail"), `stuck on ${ladder.rung} in round ${round}`);
        if (ladder.rung === "dial") assert.ok(pending.some((each) => each.do === "open"), "a dial that dials nothing");
      }
    }
  });

  await figures(suite);
  await words(suite);
  return suite;
}

function report({ received = 0, lost = 0, jitter = 0.002, rtt = 0.02, emitted = received * 960, buffered = emitted * 0.04, there = 0 }) {
  return [
    { type: "inbound-rtp", kind: "audio", packetsReceived: received, packetsLost: lost, jitter, jitterBufferDelay: buffered, jitterBufferEmittedCount: emitted },
    { type: "remote-inbound-rtp", kind: "audio", fractionLost: there, jitter: 0.001, roundTripTime: 0.5 },
    { type: "transport", selectedCandidatePairId: "p2" },
    { type: "candidate-pair", id: "p1", nominated: true, state: "succeeded", currentRoundTripTime: 0.9 },
    { type: "candidate-pair", id: "p2", localCandidateId: "c", currentRoundTripTime: rtt },
    { type: "local-candidate", id: "c", candidateType: "relay" },
  ];
}

async function figures(suite) {
  await suite.test("figures are of the last seconds, of the pair in use, and of the worse direction", async () => {
    const sampler = new Sampler();
    for (let s = 0; s <= 20; s += 1) sampler.take(report({ received: 50 * s, lost: 100 }));
    const now = sampler.take(report({ received: 1050, lost: 125 }));
    assert.ok(Math.abs(now.loss - 25 / 275) < 1e-9, `only the window counts: ${now.loss}`);
    assert.deepEqual([now.rttMs, now.jitterMs, Math.round(now.bufferedMs), now.relayed], [20, 2, 40, true]);
    assert.equal(sampler.take(report({ received: 1100, lost: 125, there: 0.3 })).loss, 0.3);
    assert.equal(new Sampler().take([]).rttMs, null, "nothing known is no fault");
  });

  await suite.test("a hiccup changes no bar; two bad seconds do, and good ones come back late", async () => {
    const grade = new Grade();
    const good = { loss: 0, jitterMs: 3, rttMs: 30 };
    const bad = { loss: 0.2, jitterMs: 3, rttMs: 30 };
    assert.deepEqual([bad, good, bad, good].map((each) => grade.take(each)), [3, 3, 3, 3]);
    assert.deepEqual([bad, bad].map((each) => grade.take(each)), [3, 1]);
    assert.deepEqual([good, good, good, good].map((each) => grade.take(each)), [1, 1, 1, 3]);
    const fair = { loss: 0.03, jitterMs: 3, rttMs: null };
    assert.equal((grade.take(fair), grade.take(fair)), 2);
  });
}

async function words(suite) {
  await suite.test("the word that sounds moves on with what was heard, and ends with the last", async () => {
    const pace = new Pace();
    const line = "Welcome. Tell me about your last project.";
    let before = -1;
    for (let ms = 0; ms < 6000; ms += 50) {
      const at = pace.at(line, ms, 3000);
      assert.ok(at >= before && at - before <= 1, `from ${before} to ${at} at ${ms} ms`);
      before = at;
    }
    assert.equal(before, split(line).length - 1);
    assert.equal(pace.at("one four nine, nine four one", 1500, 3000), 2, "half the time, half the words");
    assert.equal(pace.at(line, 0), -1);
    assert.equal(pace.at("", 500), -1);
    assert.equal(pace.at(line, 2990, 3000), 6, "a known length ends on the last word");
  });

  await suite.test("the pace is learned from whole answers, slowly and within reason", async () => {
    const pace = new Pace();
    const line = "I see. And how did the two teams agree on that in the end?";
    const first = pace.msPerLetter;
    pace.learn(line, 9000);
    assert.ok(pace.msPerLetter > first);
    for (let i = 0; i < 40; i += 1) pace.learn(line, 900_000);
    assert.ok(pace.msPerLetter <= 140);
    const kept = pace.msPerLetter;
    pace.learn("Hm.", 9000);
    assert.equal(pace.msPerLetter, kept, "too short to say anything");
  });

  await suite.test("what was heard stands still while the voice is held", async () => {
    const clock = new HeardClock();
    clock.start("a", 1000);
    assert.equal(clock.at(1500), 500);
    clock.hold(true, 1500);
    clock.hold(true, 1700);
    assert.equal(clock.at(2500), 500);
    clock.hold(false, 2500);
    assert.equal(clock.at(2600), 600);
  });

  await suite.test("a voice that moves from its track to samples goes on where it was, also in what is reported", async () => {
    const marked = [];
    const reading = new Reading({ captions: { reading: (id, index) => marked.push([id, index]) } });
    reading.began("a", "One two three four five six seven eight nine ten.", 1000);
    reading.frame(2560);
    const [, before] = marked.at(-1);
    assert.ok(before >= 3);
    reading.turnToSamples(2560);
    assert.equal(reading.heardBefore("a"), 1500);
    assert.equal(reading.heardBefore("b"), 0);
    reading.arrived("a", "A".repeat(64 * 500));
    reading.heard({ item: "a", heardMs: 10, sounding: true });
    assert.equal(marked.at(-1)[1], before, "no step back");
    reading.complete("a");
    reading.heard({ item: "a", heardMs: 490, sounding: false });
    assert.deepEqual(marked.at(-1), [null, undefined], "the marks went with the voice");
  });
}
