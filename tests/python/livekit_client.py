"""Holds a spoken conversation with a running server through LiveKit's `openai.realtime.RealtimeModel`, as an outside party:
a session of the model's, fed and heard as LiveKit's agents do it. Writes every event as it came to a file for whoever
validates them, and prints a line for each feature that it has seen work.

    livekit_client.py http://127.0.0.1:8790 spoken|functions events.jsonl
"""

import asyncio
import json
import sys
import time

import aiohttp
from livekit import rtc
from livekit.agents import llm
from livekit.plugins import openai

from mouth import FRAME, RATE, Mouth

WITHIN = 20.0  # seconds anything may take; the fake engines need a fraction of it


def check(condition, sentence):
    if not condition:
        raise AssertionError(sentence)


def kinds(events):
    """The types of events in their order, each run of one type once."""
    return [event["type"] for n, event in enumerate(events) if not n or events[n - 1]["type"] != event["type"]]


class Reply:
    """What a generation brought: LiveKit hands its parts over as streams."""

    def __init__(self, event):
        self.event, self.id, self.voice, self.words, self.calls = event, None, 0.0, "", []
        self.reading = asyncio.create_task(self._read())

    async def _read(self):
        async def messages():
            async for message in self.event.message_stream:
                self.id = message.message_id
                await asyncio.gather(voice(message), words(message))

        async def voice(message):
            async for frame in message.audio_stream:
                self.voice += frame.duration

        async def words(message):
            async for text in message.text_stream:
                self.words += text

        async def calls():
            async for call in self.event.function_stream:
                self.calls.append(call)

        await asyncio.gather(messages(), calls())


class Caller:
    """One session of the model's, and what it told."""

    def __init__(self, model, log):
        self.session = model.session()
        self.seen, self.replies, self.heard, self.errors = [], [], [], []
        self.mouth = Mouth()
        self.session.on("openai_server_event_received", lambda event: self._came(event, log))
        self.session.on("generation_created", lambda event: self.replies.append(Reply(event)))
        self.session.on("error", self.errors.append)

        def transcribed(event):
            if event.is_final:
                self.heard.append(event.transcript)

        self.session.on("input_audio_transcription_completed", transcribed)

    def _came(self, event, log):
        log.write(json.dumps(event) + "\n")
        self.seen.append(event)

    def came(self, kind, after=0):
        return [event for event in self.seen[after:] if event["type"] == kind]

    async def until(self, what, condition):
        end = time.monotonic() + WITHIN
        while not condition():
            check(not self.errors, f"{self.errors}")
            check(time.monotonic() < end, f"no {what} in time; came {kinds(self.seen)}")
            await asyncio.sleep(0.02)

    async def microphone(self):
        async for audio in self.mouth.frames():
            self.session.push_audio(rtc.AudioFrame(audio, RATE, 1, FRAME))


async def spoken(caller):
    await caller.session.update_instructions("Be brief.")
    await caller.until("settings", lambda: [
        e for e in caller.came("session.updated") if e["session"]["instructions"] == "Be brief."])
    await caller.mouth.speak(1.2)
    await caller.until("reply", lambda: caller.replies and caller.replies[0].reading.done())
    reply = caller.replies[0]
    check(reply.voice > 0.5, f"{reply.voice} s of voice")
    print("proved spoken turn")
    check(len(reply.words) > 10, f"its words: {reply.words!r}")
    await caller.until("the caller's words", lambda: caller.heard)
    check(caller.heard[0].startswith("word1"), f"{caller.heard}")
    print("proved captions")
    # As an agent does it that was interrupted in playing.
    mark = len(caller.seen)
    caller.session.truncate(message_id=reply.id, modalities=["audio"], audio_end_ms=100)
    await caller.until("truncation", lambda: caller.came("conversation.item.truncated", mark))
    print("proved truncation")
    await caller.mouth.speak(1.2)
    await caller.until("voice", lambda: len(caller.replies) > 1 and caller.replies[1].voice > 0)
    mark = len(caller.seen)
    await caller.mouth.speak(1.2)
    await caller.until("a cancelled reply", lambda: caller.came("response.done", mark))
    done = caller.came("response.done", mark)[0]["response"]
    check((done["status"], done["status_details"]["reason"]) == ("cancelled", "turn_detected"), f"{done}")
    print("proved interruption")
    await caller.until("the last reply", lambda: len(caller.replies) > 2 and caller.replies[2].reading.done())
    # The agent's own history is laid beside the server's: one message goes, another one comes.
    history = caller.session.chat_ctx.copy()
    check(any(item.id == reply.id for item in history.items), f"{history.items}")
    history.items.pop(0)
    history.add_message(role="user", content="Hello there.")
    mark = len(caller.seen)
    await caller.session.update_chat_ctx(history)
    check(caller.came("conversation.item.deleted", mark), "no item was deleted")
    added = [e["item"] for e in caller.came("conversation.item.added", mark)]
    check(added and added[0]["content"][0]["text"] == "Hello there.", f"{added}")
    print("proved items")
    asked = await asyncio.wait_for(caller.session.generate_reply(instructions="Say hello."), WITHIN)
    check(asked.user_initiated, f"{asked}")
    await caller.until("the reply that was asked for", lambda: caller.replies[-1].reading.done())
    print("proved reply on request")


@llm.function_tool
async def weather(city: str) -> str:
    """Tells the weather of a city."""
    return "It rains."


async def functions(caller):
    await caller.session.update_tools([weather])
    history = llm.ChatContext.empty()
    history.add_message(role="user", content="Does it rain in Oslo?")
    await caller.session.update_chat_ctx(history)
    await asyncio.wait_for(caller.session.generate_reply(), WITHIN)
    await caller.until("call", lambda: caller.replies[0].calls)
    call = caller.replies[0].calls[0]
    check((call.name, json.loads(call.arguments)) == ("weather", {"city": "Oslo"}), f"{call}")
    history = caller.session.chat_ctx.copy()
    output = await weather(**json.loads(call.arguments))
    history.items.append(
        llm.FunctionCallOutput(call_id=call.call_id, name=call.name, output=output, is_error=False))
    mark = len(caller.seen)
    await caller.session.update_chat_ctx(history)
    results = [e["item"] for e in caller.came("conversation.item.added", mark)]
    check(results and results[0]["output"] == "It rains.", f"{results}")
    print("proved functions")


async def main(url, scenario, path):
    async with aiohttp.ClientSession() as http:
        model = openai.realtime.RealtimeModel(base_url=f"{url}/v1", model="viva", api_key="none", http_session=http)
        with open(path, "w") as log:
            caller = Caller(model, log)
            microphone = asyncio.create_task(caller.microphone())
            try:
                await caller.until("session", lambda: caller.came("session.updated"))
                await {"spoken": spoken, "functions": functions}[scenario](caller)
            finally:
                microphone.cancel()
                await asyncio.wait_for(caller.session.aclose(), WITHIN)
    print(f"ok {scenario}, {len(caller.seen)} events")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
