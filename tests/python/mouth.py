"""A caller's mouth, for clients that are fed frame by frame."""

import asyncio
import math
import struct
import time

RATE = 24_000
FRAME = 480  # samples, 20 ms


class Mouth:
    """A tone while it speaks, silence otherwise."""

    def __init__(self):
        self.speaking = False

    async def frames(self):
        """A frame of 16-bit samples every 20 ms, for as long as somebody takes them."""
        n, due = 0, time.monotonic()
        while True:
            level = 9_000 if self.speaking else 0
            samples = (int(level * math.sin((n * FRAME + i) * 0.0576)) for i in range(FRAME))
            yield b"".join(struct.pack("<h", s) for s in samples)
            n, due = n + 1, due + 0.02
            await asyncio.sleep(max(0, due - time.monotonic()))

    async def speak(self, seconds):
        self.speaking = True
        await asyncio.sleep(seconds)
        self.speaking = False
