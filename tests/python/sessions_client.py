"""Talks to a running server with the official `openai` client: functions, transcription sessions, a caller's silence.
Every event must validate against the client's own type definitions. Prints one line a scenario.

    sessions_client.py http://127.0.0.1:8790 functions|listening|silence
"""

import base64
import json
import math
import struct
import sys
import time

from openai import OpenAI
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

RATE = 24_000
EVENT = TypeAdapter(RealtimeServerEvent)
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def check(condition, sentence):
    if not condition:
        raise AssertionError(sentence)


class Caller:
    """One connection, read and validated event by event."""

    def __init__(self, url, **more):
        client = OpenAI(base_url=f"{url}/v1", api_key="none")
        self.connection = client.realtime.connect(model="viva", **more).enter()
        self.seen = []

    def until(self, *kinds):
        while True:
            event = json.loads(self.connection.recv_bytes())
            EVENT.validate_python(event)
            self.seen.append(event)
            check(event["type"] != "error" or "error" in kinds, f"an error: {event}")
            if event["type"] in kinds:
                return event

    def send(self, event):
        self.connection.send(event)

    def kinds(self):
        return [event["type"] for event in self.seen]

    def speak(self, ms, hertz=220):
        """Sends a tone, or silence, in real time."""
        for n in range(ms // 20):
            samples = (int(9000 * math.sin((n * 480 + i) * hertz * math.tau / RATE)) for i in range(480))
            frame = b"".join(struct.pack("<h", s) for s in samples)
            self.send({"type": "input_audio_buffer.append", "audio": base64.b64encode(frame).decode()})
            time.sleep(0.02)


def typed(text):
    return {"type": "conversation.item.create",
            "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}}


def functions(url):
    caller = Caller(url)
    caller.until("session.created")
    caller.send({"type": "session.update", "session": {"type": "realtime", "tools": [WEATHER], "tool_choice": "auto"}})
    check(caller.until("session.updated")["session"]["tools"][0]["name"] == "weather", "the tools are shown")
    caller.send(typed("Does it rain in Oslo?"))
    caller.until("conversation.item.done")
    caller.seen.clear()
    caller.send({"type": "response.create"})
    done = caller.until("response.done")["response"]
    check(caller.kinds() == [
        "response.created", "response.output_item.added", "conversation.item.added",
        "response.function_call_arguments.delta", "response.function_call_arguments.done",
        "conversation.item.done", "response.output_item.done", "response.done"], f"the order: {caller.kinds()}")
    call = done["output"][0]
    check(done["status"] == "completed" and call["type"] == "function_call", f"a call: {done}")
    check(json.loads(call["arguments"]) == {"city": "Oslo"} and call["call_id"].startswith("call_"), f"{call}")
    caller.send({"type": "conversation.item.retrieve", "item_id": call["id"]})
    check(caller.until("conversation.item.retrieved")["item"] == call, "the item is the same when it is asked for")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"rain": true}'}
    caller.send({"type": "conversation.item.create", "item": result})
    shown = caller.until("conversation.item.done")["item"]
    check(shown["type"] == "function_call_output" and shown["output"] == result["output"], f"{shown}")
    caller.send({"type": "response.create", "response": {"tool_choice": "none"}})
    done = caller.until("response.done")["response"]
    check(done["output"][0]["type"] == "message", f"words this time: {done}")
    caller.send({"type": "response.create", "response": {"tools": [{"type": "function", "name": "no name"}]}})
    check(caller.until("error")["error"]["param"] == "response.tools[0].name", "a wrong function is named")
    print("proved functions")


def listening(url):
    caller = Caller(url, extra_query={"intent": "transcription"})
    session = caller.until("session.created")["session"]
    check(session["type"] == "transcription" and "output_modalities" not in session, f"{session}")
    caller.send({"type": "session.update", "session": {"type": "transcription",
                 "audio": {"input": {"transcription": {"model": "m", "language": "en"}}}}})
    caller.until("session.updated")
    caller.speak(1_200)
    caller.speak(2_000, hertz=0)
    heard = caller.until("conversation.item.input_audio_transcription.completed")
    check(heard["transcript"].startswith("word1"), f"{heard}")
    caller.until("conversation.item.done")
    check(not any(kind.startswith("response") for kind in caller.kinds()), f"no reply: {caller.kinds()}")
    caller.send({"type": "response.create"})
    check(caller.until("error")["error"]["code"] == "unsupported", "no reply can be asked for")


def silence(url):
    caller = Caller(url)
    caller.until("session.created")
    detection = {"type": "server_vad", "idle_timeout_ms": 5_000}
    caller.send({"type": "session.update",
                 "session": {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}})
    caller.until("session.updated")
    caller.send({"type": "response.create"})
    caller.until("response.done")
    caller.seen.clear()
    told = caller.until("input_audio_buffer.timeout_triggered")
    check(told["audio_end_ms"] - told["audio_start_ms"] == 5_000, f"{told}")
    caller.until("response.done")
    added = next(e for e in caller.seen if e["type"] == "conversation.item.added")
    check(added["item"]["id"] == told["item_id"] and added["item"]["role"] == "user", f"{added}")


if __name__ == "__main__":
    {"functions": functions, "listening": listening, "silence": silence}[sys.argv[2]](sys.argv[1])
    print(f"ok {sys.argv[2]}")
