"""Talks to a running server with the official `openai` client: functions, transcription sessions, a caller's silence,
responses beside the conversation.
Every event must validate against the client's own type definitions. Prints one line a scenario.

    sessions_client.py http://127.0.0.1:8790 functions|listening|silence|beside
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


def beside(url):
    """Responses outside the conversation, while one of the conversation is under way."""
    caller = Caller(url)
    caller.until("session.created")
    caller.send(typed("I led a team of four."))
    item = caller.until("conversation.item.done")["item"]["id"]

    def ask(**response):
        caller.send({"type": "response.create", "response": {"conversation": "none", **response}})

    def given(text):
        return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}

    caller.seen.clear()
    ask(output_modalities=["text"], instructions="Say what it is about.", metadata={"topic": "judge"},
        max_output_tokens=200, input=[{"type": "item_reference", "id": item}, given("What was that about?")])
    done = caller.until("response.done")["response"]
    order = [kind for kind, before in zip(caller.kinds(), [None] + caller.kinds()) if kind != before]
    check(order == ["response.created", "response.output_item.added", "response.content_part.added",
                    "response.output_text.delta", "response.output_text.done", "response.content_part.done",
                    "response.output_item.done", "response.done"], f"the order: {order}")
    check(done["status"] == "completed" and done["conversation_id"] is None, f"{done}")
    check(done["metadata"] == {"topic": "judge"} and done["max_output_tokens"] == 200, f"{done}")
    text = "".join(e["delta"] for e in caller.seen if e["type"] == "response.output_text.delta")
    check(text and done["output"][0]["content"] == [{"type": "output_text", "text": text}], f"{done}")
    check(done["usage"]["output_tokens"] > 0, f"{done}")
    # It has left nothing behind.
    caller.send({"type": "conversation.item.retrieve", "item_id": done["output"][0]["id"]})
    check(caller.until("error")["error"]["code"] == "item_not_found", "the conversation does not know it")
    # What it reads is what it is given: nothing, the conversation, or more.
    read = []
    for more in ({"input": []}, {}, {"input": [given("word " * 200)]}):
        ask(output_modalities=["text"], instructions="Be brief.", **more)
        read.append(caller.until("response.done")["response"]["usage"]["input_tokens"])
    check(read[0] < read[1] < read[2], f"{read}")
    # One of the conversation and one beside it, each with events of its own.
    caller.seen.clear()
    caller.send({"type": "response.create"})
    within = caller.until("response.created")["response"]
    ask(output_modalities=["text"])
    ends = [caller.until("response.done")["response"] for _ in range(2)]
    check({end["status"] for end in ends} == {"completed"}, f"{ends}")
    check({end["conversation_id"] for end in ends} == {within["conversation_id"], None}, f"{ends}")
    added = [e["item"]["id"] for e in caller.seen if e["type"] == "conversation.item.added"]
    check(added == [end["output"][0]["id"] for end in ends if end["conversation_id"]], f"{added}")
    # Spoken, on a socket.
    caller.seen.clear()
    ask(input=[given("Read this.")])
    done = caller.until("response.done")["response"]
    voice = sum(len(base64.b64decode(e["delta"])) for e in caller.seen if e["type"] == "response.output_audio.delta")
    check(done["output_modalities"] == ["audio"] and voice > RATE, f"a second and more is heard: {voice}")
    # Four at once and not five; one is ended by its name.
    for n in range(5):
        ask(output_modalities=["text"], metadata={"n": str(n)})
    check(caller.until("error")["error"]["code"] == "too_many_responses", "the fifth is refused")
    begun = [e["response"] for e in caller.seen if e["type"] == "response.created" and e["response"]["metadata"]]
    while len(begun) < 4:
        begun.append(caller.until("response.created")["response"])
    last = next(r for r in begun if r["metadata"] == {"n": "3"})
    caller.send({"type": "response.cancel", "response_id": last["id"]})
    ends = {}
    while len(ends) < 4:
        done = caller.until("response.done")["response"]
        ends[done["metadata"]["n"]] = (done["status"], done["status_details"].get("reason"))
    check(ends["3"] == ("cancelled", "client_cancelled"), f"{ends}")
    check(all(ends[n][0] == "completed" for n in "012"), f"{ends}")
    caller.send({"type": "response.cancel", "response_id": last["id"]})
    check(caller.until("error")["error"]["code"] == "response_cancel_not_active", "it is over")
    # What is wrong is named.
    for response, param in (
        ({"conversation": "maybe"}, "response.conversation"),
        ({"conversation": "none", "input": [{"type": "item_reference", "id": "item_x"}]}, "response.input[0].id"),
        ({"conversation": "none", "input": [given("x"), {"type": "message", "role": "user", "content": []}]},
         "response.input[1].content"),
        ({"conversation": "none", "metadata": {"x": "y" * 20_000}}, "response.metadata"),
        ({"input": [given("x")]}, "response.input"),
    ):
        caller.send({"type": "response.create", "response": response})
        error = caller.until("error")["error"]
        check(error["param"] == param, f"{param}: {error}")


if __name__ == "__main__":
    {"functions": functions, "listening": listening, "silence": silence, "beside": beside}[sys.argv[2]](sys.argv[1])
    print(f"ok {sys.argv[2]}")
