"""Calls a server over WebRTC with aiortc, as an outside party with a stack of its own.

Starts the server itself, once for every network, on the fake engines: run it in a network namespace whose
loopback has the address given, because aioice does not use 127.0.0.1. Prints one line a network; exits with 1
and a sentence on the first thing that is wrong.

    aiortc_client.py /path/to/viva answer.wav 10.99.0.1
"""

import asyncio
import fractions
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
import wave

import av
import numpy
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

RATE = 48_000
FRAME = RATE // 50
LOUD = 300  # of 32768: our voice is far above, silence at 0
WITHIN = 40.0  # seconds any answer may take: SCTP alone waits for seconds when 15 % are lost

# Faults of the network in both directions, and the share of the words that must come through.
NETWORKS = [
    ("a calm network", None, 3),
    ("5 % lost", "loss=0.05", 3),
    ("15 % lost", "loss=0.15", 2),
    ("60 ms of jitter, reordered", "jitter=60", 3),
    ("5 % lost and 60 ms of jitter", "loss=0.05,jitter=60", 2),
]


def check(condition, sentence):
    if not condition:
        raise AssertionError(sentence)


class Server:
    """`viva serve` on the fake engines."""

    def __init__(self, program, address, faults):
        more = ["--impair", faults] if faults else []
        self.process = subprocess.Popen(
            [program, "serve", "--engines", "fake", "--listen", f"{address}:0", *more],
            stdout=subprocess.PIPE,
            text=True,
            # Its network is one of the test's own.
            env={**os.environ, "VIVA_IDENTITY_OPEN": "true"},
        )
        line = self.process.stdout.readline()
        found = re.search(r"listening on (http://\S+)", line)
        check(found, f"the server does not listen: {line!r}")
        self.url = found.group(1)

    def request(self, method, path, body=None, kind="application/sdp"):
        request = urllib.request.Request(self.url + path, data=body, method=method, headers={"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.headers, response.read().decode()

    def counted(self, what):
        _, _, page = self.request("GET", "/metrics")
        found = re.search(rf'viva_rtp_packets_total{{what="{what}"}} (\d+)', page)
        return int(found.group(1)) if found else 0

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)


class Mouth(MediaStreamTrack):
    """Silent until it is told to say something, in real time."""

    kind = "audio"

    def __init__(self):
        super().__init__()
        self.queue = []
        self.began = None
        self.samples = 0

    def say(self, samples):
        self.queue = [samples[at : at + FRAME] for at in range(0, len(samples) - FRAME + 1, FRAME)]

    async def recv(self):
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        if self.began is None:
            self.began = now
        due = self.began + self.samples / RATE
        await asyncio.sleep(max(0.0, due - now))
        samples = self.queue.pop(0) if self.queue else numpy.zeros(FRAME, dtype=numpy.int16)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.pts = self.samples
        frame.time_base = fractions.Fraction(1, RATE)
        self.samples += FRAME
        return frame


class Caller:
    def __init__(self, server):
        self.server = server
        self.connection = RTCPeerConnection()
        self.mouth = Mouth()
        self.events = []
        self.loud_ms = 0.0
        self.opened = asyncio.Event()
        self.hearing = None

    async def call(self):
        self.connection.addTrack(self.mouth)
        self.channel = self.connection.createDataChannel("oai-events")
        self.channel.on("message", lambda text: self.events.append(json.loads(text)))
        self.channel.on("open", self.opened.set)
        self.connection.on("track", self.listen)
        await self.connection.setLocalDescription(await self.connection.createOffer())
        offer = self.connection.localDescription.sdp.encode()
        status, headers, answer = await asyncio.to_thread(
            self.server.request, "POST", "/v1/realtime/calls?events=extended", offer
        )
        check(status == 201, f"the offer was answered with {status}")
        check(headers["Content-Type"] == "application/sdp", "the answer is no SDP")
        check(headers["ETag"] and headers["Location"], "the call has no address or no version")
        self.location = headers["Location"]
        await self.connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await asyncio.wait_for(self.opened.wait(), WITHIN)

    def listen(self, track):
        async def hear():
            try:
                while True:
                    frame = await track.recv()
                    loudest = numpy.abs(frame.to_ndarray().astype(numpy.int32)).max()
                    if loudest > LOUD:
                        self.loud_ms += frame.samples * 1000 / frame.sample_rate
            except MediaStreamError:
                pass

        self.hearing = asyncio.ensure_future(hear())

    async def until(self, kind, since=0):
        end = time.monotonic() + WITHIN
        while time.monotonic() < end:
            for event in self.events[since:]:
                check(event["type"] != "error", f"the server complains: {event}")
                if event["type"] == kind:
                    return event
            await asyncio.sleep(0.02)
        raise AssertionError(f"no {kind} in time; came {[e['type'] for e in self.events[since:]]}")

    async def hang_up(self):
        status, _, _ = await asyncio.to_thread(self.server.request, "DELETE", self.location)
        check(status == 200, f"hanging up was answered with {status}")
        await self.connection.close()
        if self.hearing:
            self.hearing.cancel()


def recording(path):
    """The recording at the track's own rate."""
    with wave.open(path) as wav:
        check(wav.getframerate() == RATE // 2, "the recording is at 24 kHz")
        samples = numpy.frombuffer(wav.readframes(wav.getnframes()), dtype=numpy.int16)
    return numpy.repeat(samples, 2)


async def conversation(server, speech, words):
    caller = Caller(server)
    began = time.monotonic()
    await caller.call()
    stood = time.monotonic() - began
    await caller.until("session.created")
    update = {"type": "realtime", "audio": {"input": {"transcription": {"model": "whisper-1"}}}}
    caller.channel.send(json.dumps({"type": "session.update", "session": update}))
    await caller.until("session.updated")
    for _ in range(2):
        since = len(caller.events)
        before = caller.loud_ms
        caller.mouth.say(speech)
        heard = await caller.until("conversation.item.input_audio_transcription.completed", since)
        count = len(heard["transcript"].split())
        check(count >= words, f"understood {heard['transcript']!r}, {words} words at least were said")
        started = await caller.until("output_audio_buffer.started", since)
        done = await caller.until("response.done", since)
        check(done["response"]["status"] == "completed", f"the reply ended as {done['response']['status']}")
        check(started["response_id"] == done["response"]["id"], "the voice is of another reply")
        await caller.until("output_audio_buffer.stopped", since)
        await asyncio.sleep(0.3)
        check(caller.loud_ms - before > 700, f"only {caller.loud_ms - before:.0f} ms of the reply were heard")
    kinds = {event["type"] for event in caller.events}
    check("response.output_audio.delta" not in kinds, "audio came in an event, and belongs on the track")
    await caller.hang_up()
    return stood


async def main():
    program, path, address = sys.argv[1:4]
    speech = recording(path)
    for name, faults, words in NETWORKS:
        server = Server(program, address, faults)
        try:
            stood = await conversation(server, speech, words)
            lost, late, made_up = (server.counted(what) for what in ("lost", "late", "made_up"))
            if faults and "loss" in faults:
                check(lost > 0 and made_up > 0, f"packets were lost, and {lost} counted, {made_up} made up")
            elif faults:
                # The first packets may overtake each other, too: what comes before the first that came is late.
                check(late <= 3 and lost == 0, f"nothing was lost, and {lost} counted as lost, {late} late")
            print(f"{name}: stood after {stood * 1000:.0f} ms; {lost} lost, {late} late, {made_up} made up", flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except AssertionError as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
