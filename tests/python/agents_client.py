"""Holds a spoken conversation with a running server through `openai-agents`, as an outside party. Writes every event as it
came to a file for whoever validates them, and prints a line for each feature that it has seen work.

    agents_client.py http://127.0.0.1:8790 spoken|functions events.jsonl
"""

import asyncio
import json
import math
import struct
import sys

from agents import function_tool
from agents.realtime import RealtimeAgent, RealtimeRunner

RATE = 24_000
WITHIN = 20.0


def check(condition, sentence):
    if not condition:
        raise AssertionError(sentence)


@function_tool
def weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"It rains in {city}."


def frame(n, level):
    """20 ms of a tone, or of silence."""
    samples = (int(level * math.sin((n * 480 + i) * 0.0576)) for i in range(480))
    return b"".join(struct.pack("<h", s) for s in samples)


async def speak(session, over):
    n = 0
    while not over.is_set():
        await session.send_audio(frame(n, 9_000 if n < 60 else 0))
        n += 1
        await asyncio.sleep(0.02)


async def listen(session, log, until):
    """Reads up to an event that is the one; what was heard, and all there was."""
    audio, seen = 0, []
    async for event in session:
        seen.append(event)
        if event.type == "raw_model_event" and event.data.type == "raw_server_event":
            log.write(json.dumps(event.data.data) + "\n")
        if event.type == "audio":
            audio += len(event.audio.data)
        check(event.type != "error", f"an error: {getattr(event, 'error', None)}")
        if until(event):
            return audio, seen
    raise AssertionError("the session ended early")


def said(history, role):
    """What one side said, by the session's own history."""
    of_role = [item for item in history if getattr(item, "role", None) == role]
    return "".join(getattr(part, "transcript", None) or "" for item in of_role for part in item.content)


async def spoken(session, log):
    history = []

    def told(event):
        history[:] = event.history if event.type == "history_updated" else history
        over = [e for e in ended if e == "agent_end"] or event.type == "agent_end"
        ended.append(event.type)
        # The session's history holds what both sides said.
        return over and said(history, "user").startswith("word1") and len(said(history, "assistant")) > 10

    ended, over = [], asyncio.Event()
    speaking = asyncio.create_task(speak(session, over))
    audio, seen = await asyncio.wait_for(listen(session, log, told), WITHIN)
    over.set()
    await speaking
    check(audio > RATE and "history_added" in [event.type for event in seen], f"{audio} bytes of voice")
    print("proved spoken turn")
    print("proved captions")


async def functions(session, log):
    await session.send_message("Does it rain in Oslo?")
    _, seen = await asyncio.wait_for(listen(session, log, lambda event: event.type == "tool_end"), WITHIN)
    check(seen[-1].output == "It rains in Oslo.", f"{seen[-1]}")
    taken = lambda event: event.type == "raw_model_event" and event.data.type == "raw_server_event" and (
        event.data.data["type"] == "conversation.item.added" and event.data.data["item"]["type"] == "function_call_output")
    await asyncio.wait_for(listen(session, log, taken), WITHIN)
    print("proved functions")


async def main(url, scenario, path):
    tools = [weather] if scenario == "functions" else []
    runner = RealtimeRunner(RealtimeAgent(name="Viva", instructions="Be brief.", tools=tools))
    where = url.replace("http", "ws") + "/v1/realtime?model=viva"
    with open(path, "w") as log:
        async with await runner.run(model_config={"url": where, "api_key": "none"}) as session:
            await {"spoken": spoken, "functions": functions}[scenario](session, log)
    print(f"ok {scenario}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
