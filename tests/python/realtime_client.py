"""Talks to a running server with the official `openai` client, as an outside party.

Every event must validate against the client's own type definitions, and the events of a spoken turn must
come in the order its users rely on. Prints a line for each feature that it has seen work; exits with 1 and a sentence on the first
thing that is wrong.

    realtime_client.py http://127.0.0.1:8790 answer.wav
"""

import base64
import json
import queue
import sys
import threading
import time
import wave

from openai import OpenAI
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

RATE = 24_000
FRAME = RATE // 50 * 2  # bytes of 20 ms
WITHIN = 20.0  # seconds any answer may take; the fake engines need a fraction of it
FINISHED = ("completed", "incomplete")  # a real model may well reach the token limit
EVENT = TypeAdapter(RealtimeServerEvent)

# What must come before what, within one spoken turn and its spoken reply.
TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.input_audio_transcription.delta",
    "conversation.item.input_audio_transcription.completed",
    "conversation.item.done",
]
REPLY = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
    "rate_limits.updated",
]


def check(condition, sentence):
    if not condition:
        raise AssertionError(sentence)


class Caller:
    """One connection: a thread reads and validates, the main thread speaks and waits."""

    def __init__(self, url):
        client = OpenAI(base_url=f"{url}/v1", api_key="none")
        self.manager = client.realtime.connect(model="viva")
        self.connection = self.manager.enter()
        self.inbox = queue.Queue()
        self.seen = []
        self.ids = set()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        try:
            while True:
                data = json.loads(self.connection.recv_bytes())
                EVENT.validate_python(data)
                self.inbox.put(data)
        except Exception as error:  # handed to whoever waits, who knows whether it was expected
            self.inbox.put(error)

    def next(self, within=WITHIN):
        event = self.inbox.get(timeout=within)
        if isinstance(event, Exception):
            raise event
        check(event["event_id"] not in self.ids, f"event_id {event['event_id']} came twice")
        self.ids.add(event["event_id"])
        self.seen.append(event)
        return event

    def until(self, kind, within=WITHIN):
        end = time.monotonic() + within
        mark = len(self.seen)
        while time.monotonic() < end:
            try:
                event = self.next(max(0.01, end - time.monotonic()))
            except queue.Empty:
                break
            if event["type"] == kind:
                return event
            check(event["type"] != "error" or kind == "error", f"while waiting for {kind}: {event}")
        raise AssertionError(f"no {kind} within {within} s; came: {[e['type'] for e in self.seen[mark:]]}")

    def send(self, kind, **fields):
        self.connection.send({"type": kind, **fields})

    def refused(self, code, kind, **fields):
        self.send(kind, event_id=f"mine_{code}", **fields)
        error = self.until("error")["error"]
        check(error["code"] == code, f"expected {code}, got {error}")
        check(error.get("event_id") == f"mine_{code}", f"the error does not name our event: {error}")
        return error

    def speak(self, pcm):
        """In real time, as a microphone does."""
        start = time.monotonic()
        for i, at in enumerate(range(0, len(pcm), FRAME)):
            frame = pcm[at : at + FRAME]
            self.connection.input_audio_buffer.append(audio=base64.b64encode(frame).decode())
            time.sleep(max(0.0, start + (i + 1) * 0.02 - time.monotonic()))

    def hush(self, until, within=WITHIN):
        """A microphone that hears nothing, until something comes."""
        stop = threading.Event()
        silence = bytes(FRAME)

        def microphone():
            while not stop.is_set():
                self.connection.input_audio_buffer.append(audio=base64.b64encode(silence).decode())
                time.sleep(0.02)

        thread = threading.Thread(target=microphone, daemon=True)
        thread.start()
        try:
            return self.until(until, within)
        finally:
            stop.set()
            thread.join()

    def close(self):
        self.connection.close()


def in_order(events, expected):
    """Each expected type occurs, and its first occurrence comes after the one before it."""
    at = 0
    for kind in expected:
        found = next((i for i in range(at, len(events)) if events[i]["type"] == kind), None)
        types = [e["type"] for e in events]
        check(found is not None, f"{kind} is missing or out of order in {types}")
        at = found + 1


def session(caller, **audio_input):
    """Settings as a stock client sends them, with these for the caller's side."""
    pcm = {"type": "audio/pcm", "rate": RATE}
    caller.connection.session.update(
        session={
            "type": "realtime",
            "output_modalities": ["audio"],
            "audio": {
                "input": {"format": pcm, "transcription": {"model": "gpt-4o-mini-transcribe"}, **audio_input},
                "output": {"format": pcm, "voice": "marin"},
            },
        }
    )
    return caller.until("session.updated")["session"]


def spoken_turn(caller, pcm):
    caller.speak(pcm)
    caller.hush("rate_limits.updated")
    events = caller.seen
    in_order(events, TURN + REPLY)
    first = next(i for i, e in enumerate(events) if e["type"] == "input_audio_buffer.speech_started")
    turn = events[first:]
    user = next(e for e in turn if e["type"] == "input_audio_buffer.committed")["item_id"]
    done = next(e for e in turn if e["type"] == "response.done")["response"]
    check(done["status"] in FINISHED, f"the reply ended {done['status']}: {done['status_details']}")
    item = done["output"][0]
    audio = b"".join(base64.b64decode(e["delta"]) for e in turn if e["type"] == "response.output_audio.delta")
    check(len(audio) > RATE // 5, f"only {len(audio)} bytes of reply")
    deltas = "".join(e["delta"] for e in turn if e["type"] == "response.output_audio_transcript.delta")
    spoken = item["content"][0]["transcript"]
    check(spoken and spoken.split() == deltas.split(), f"deltas {deltas!r}, in the end {spoken!r}")
    added = [e for e in turn if e["type"] == "conversation.item.added"]
    check(added[1]["previous_item_id"] == user, "the reply does not follow the caller's item")
    check(added[1]["item"]["content"] == [] and added[1]["item"]["status"] == "in_progress", "item while made")
    return user, item["id"], len(audio) * 1000 // 2 // RATE


def items(caller, user, reply, reply_ms):
    for name, role in [(user, "user"), (reply, "assistant")]:
        caller.connection.conversation.item.retrieve(item_id=name)
        item = caller.until("conversation.item.retrieved")["item"]
        check((item["id"], item["role"]) == (name, role), f"{item}")
    caller.refused(
        "invalid_value",
        "conversation.item.truncate",
        item_id=reply,
        content_index=0,
        audio_end_ms=reply_ms + 60_000,
    )
    caller.connection.conversation.item.truncate(item_id=reply, content_index=0, audio_end_ms=100)
    check(caller.until("conversation.item.truncated")["audio_end_ms"] == 100, "truncated elsewhere")
    caller.connection.conversation.item.delete(item_id=user)
    check(caller.until("conversation.item.deleted")["item_id"] == user, "another item was deleted")
    caller.refused("item_not_found", "conversation.item.retrieve", item_id=user)
    caller.refused("item_not_found", "conversation.item.delete", item_id=user)
    caller.connection.conversation.item.create(
        item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello there."}]}
    )
    check(caller.until("conversation.item.done")["item"]["content"][0]["text"] == "Hello there.", "its text")


def mistakes(caller):
    # The silence since the last turn is audio, too.
    caller.connection.input_audio_buffer.clear()
    caller.until("input_audio_buffer.cleared")
    caller.refused("input_audio_buffer_commit_empty", "input_audio_buffer.commit")
    caller.refused("response_cancel_not_active", "response.cancel")
    caller.refused("unsupported", "output_audio_buffer.clear")
    caller.refused("invalid_value", "no.such.event")
    caller.refused("invalid_base64", "input_audio_buffer.append", audio="***")
    caller.refused("invalid_audio", "input_audio_buffer.append", audio="AAAA")
    error = caller.refused("invalid_type", "session.update", session={"type": "realtime", "instructions": 1})
    check(error["param"] == "session.instructions", f"{error}")


def reply_on_request(caller):
    caller.connection.response.create(response={"metadata": {"mark": "1"}})
    created = caller.until("response.created")["response"]
    check(created["metadata"] == {"mark": "1"}, f"metadata {created['metadata']}")
    caller.refused("conversation_already_has_active_response", "response.create")
    caller.connection.response.cancel()
    done = caller.until("response.done")["response"]
    check(done["id"] == created["id"] and done["status"] == "cancelled", f"{done}")
    check(done["status_details"]["reason"] == "client_cancelled", f"{done['status_details']}")


def written_reply(caller):
    caller.connection.response.create(response={"output_modalities": ["text"]})
    mark = len(caller.seen)
    done = caller.until("response.done")["response"]
    types = [e["type"] for e in caller.seen[mark:]]
    check("response.output_text.delta" in types and "response.output_audio.delta" not in types, f"{types}")
    check(done["output"][0]["content"][0]["type"] == "output_text", f"{done['output']}")


def by_hand(url, pcm):
    """Turn detection off: the client commits and asks for the reply at once, as stock examples do."""
    caller = Caller(url)
    caller.until("session.created")
    got = session(caller, turn_detection=None)
    check(got["audio"]["input"]["turn_detection"] is None, "turn detection is still on")
    caller.speak(pcm)
    caller.connection.input_audio_buffer.commit()
    caller.connection.response.create()
    caller.until("rate_limits.updated")
    in_order(caller.seen, TURN[2:] + REPLY)
    check(not any("speech_started" in e["type"] for e in caller.seen), "it took turns by itself")
    done = next(e for e in caller.seen if e["type"] == "response.done")["response"]
    check(done["status"] in FINISHED, f"{done}")
    caller.close()


def interruption(url, pcm):
    caller = Caller(url)
    caller.until("session.created")
    session(caller, turn_detection={"type": "server_vad", "silence_duration_ms": 300})
    caller.speak(pcm)
    caller.hush("response.output_audio.delta")
    mark = len(caller.seen)
    caller.speak(pcm)
    done = caller.hush("response.done")["response"]
    check(done["status"] == "cancelled", f"we spoke over it, and it ended {done['status']}")
    check(done["status_details"]["reason"] == "turn_detected", f"{done['status_details']}")
    in_order(caller.seen[mark:], ["input_audio_buffer.speech_started", "response.done"])
    caller.close()


def conversation(url, pcm):
    caller = Caller(url)
    created = caller.until("session.created")["session"]
    check(len(caller.seen) == 1, "something came before session.created")
    check(created["type"] == "realtime" and created["id"].startswith("sess_"), f"{created}")
    got = session(caller, turn_detection={"type": "semantic_vad", "eagerness": "high"})
    check(got["audio"]["input"]["turn_detection"]["eagerness"] == "high", f"{got}")
    print("session: created and updated")
    user, reply, reply_ms = spoken_turn(caller, pcm)
    print(f"proved spoken turn\nproved captions\n{reply_ms} ms of reply, in order")
    items(caller, user, reply, reply_ms)
    print("proved items\nproved truncation")
    mistakes(caller)
    print("mistakes: each named, the session goes on")
    reply_on_request(caller)
    written_reply(caller)
    print("proved reply on request")
    caller.close()


def main():
    url, path = sys.argv[1:3]
    with wave.open(path) as file:
        check((file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2), "24 kHz mono PCM16")
        pcm = file.readframes(file.getnframes())
    conversation(url, pcm)
    by_hand(url, pcm)
    print("by hand: commit and response.create")
    interruption(url, pcm)
    print("proved interruption")
    # Each was validated when it was read.
    print("proved valid events")


if __name__ == "__main__":
    try:
        main()
    except AssertionError as wrong:
        print(f"wrong: {wrong}", file=sys.stderr)
        sys.exit(1)
