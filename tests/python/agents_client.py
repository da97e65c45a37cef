"""Holds a spoken conversation with a running server through `openai-agents`, as an outside party.

    agents_client.py http://127.0.0.1:8790
"""

import asyncio
import math
import struct
import sys

from agents.realtime import RealtimeAgent, RealtimeRunner

RATE = 24_000
WITHIN = 20.0


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


async def listen(session):
    """Reads until the reply is over; what was heard of each side."""
    audio, kinds = 0, set()
    async for event in session:
        kinds.add(event.type)
        if event.type == "audio":
            audio += len(event.audio.data)
        if event.type == "error":
            raise AssertionError(f"an error: {event.error}")
        if event.type == "agent_end":
            return audio, kinds
    raise AssertionError("the session ended early")


async def main(url):
    runner = RealtimeRunner(RealtimeAgent(name="Viva", instructions="Be brief."))
    where = url.replace("http", "ws") + "/v1/realtime?model=viva"
    session = await runner.run(model_config={"url": where, "api_key": "none"})
    async with session:
        over = asyncio.Event()
        speaking = asyncio.create_task(speak(session, over))
        audio, kinds = await asyncio.wait_for(listen(session), WITHIN)
        over.set()
        await speaking
    if audio < RATE or "history_added" not in kinds:
        raise AssertionError(f"{audio} bytes of voice; {sorted(kinds)}")
    print(f"ok a spoken conversation, {audio} bytes of voice")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
