"""Holds a spoken conversation with a running server through Pipecat's `OpenAIRealtimeLLMService`, as an outside party: a
pipeline as its users build one, with a caller in front of it who speaks in real time. Writes every event as it came to a
file for whoever validates them, and prints a line for each feature that it has seen work.

    pipecat_client.py http://127.0.0.1:8790 spoken|functions events.jsonl
"""

import asyncio
import sys
import time

from loguru import logger

logger.remove()
logger.add(sys.stderr, level="WARNING")

from pipecat.adapters.llm.schemas.function_schema import FunctionSchema  # noqa: E402
from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema  # noqa: E402
from pipecat.frames.frames import (  # noqa: E402
    ErrorFrame,
    InputAudioRawFrame,
    LLMRunFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline  # noqa: E402
from pipecat.pipeline.worker import PipelineParams, PipelineWorker  # noqa: E402
from pipecat.processors.aggregators.llm_context import LLMContext  # noqa: E402
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair  # noqa: E402
from pipecat.processors.frame_processor import FrameProcessor  # noqa: E402
from pipecat.services.openai.realtime import events  # noqa: E402
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService  # noqa: E402
from pipecat.workers.runner import WorkerRunner  # noqa: E402

from mouth import RATE, Mouth  # noqa: E402

WITHIN = 20.0  # seconds anything may take; the fake engines need a fraction of it
SETTINGS = OpenAIRealtimeLLMService.Settings(
    model="viva",
    system_instruction="Be brief.",
    session_properties=events.SessionProperties(
        audio=events.AudioConfiguration(
            input=events.AudioInput(
                transcription=events.InputAudioTranscription(),
                turn_detection=events.SemanticTurnDetection(),
            )
        )
    ),
)


def check(condition, sentence):
    if not condition:
        raise AssertionError(sentence)


def kinds(events):
    """The types of events in their order, each run of one type once."""
    return [event.type for n, event in enumerate(events) if not n or events[n - 1].type != event.type]


class Heard(FrameProcessor):
    """What the service says to the rest of the pipeline."""

    def __init__(self):
        super().__init__()
        self.voice, self.words, self.caller, self.errors = 0, "", "", []

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.voice += len(frame.audio)
        elif isinstance(frame, TTSTextFrame):
            self.words += frame.text
        elif isinstance(frame, TranscriptionFrame):
            self.caller += frame.text
        elif isinstance(frame, ErrorFrame):
            self.errors.append(frame.error)
        await self.push_frame(frame, direction)


class Caller:
    """One conversation: the pipeline, and what came through it."""

    def __init__(self, url, log):
        self.seen, self.asked, self.mouth, self.log = [], [], Mouth(), log
        self.heard, self.above = Heard(), Heard()
        self.llm = OpenAIRealtimeLLMService(
            api_key="none", base_url=url.replace("http", "ws") + "/v1/realtime", settings=SETTINGS
        )

    def listen(self):
        """Keeps every message as it comes, before the service reads it; a type without a model would be passed over."""
        parse = events.parse_server_event

        def kept(message):
            self.log.write(message.strip() + "\n")
            event = parse(message)
            check(event is not None, f"the service does not know {message[:200]}")
            self.seen.append(event)
            return event

        events.parse_server_event = kept

    def came(self, kind, after=0):
        return [event for event in self.seen[after:] if event.type == kind]

    async def until(self, what, condition):
        end = time.monotonic() + WITHIN
        while not condition():
            check(not self.heard.errors and not self.above.errors, f"{self.heard.errors + self.above.errors}")
            check(time.monotonic() < end, f"no {what} in time; came {kinds(self.seen)}")
            await asyncio.sleep(0.02)

    async def microphone(self, worker):
        async for audio in self.mouth.frames():
            await worker.queue_frame(InputAudioRawFrame(audio=audio, sample_rate=RATE, num_channels=1))


async def weather(params):
    params.llm.viva_asked.append(params.arguments["city"])
    await params.result_callback({"rain": True})


async def spoken(caller, worker):
    await caller.mouth.speak(1.2)
    await caller.until("end of the reply", lambda: caller.came("response.done"))
    check(caller.came("response.done")[0].response.status == "completed", f"{caller.seen[-1]}")
    await caller.until("voice", lambda: caller.heard.voice > RATE)
    print("proved spoken turn")
    await caller.until("words", lambda: len(caller.heard.words) > 10 and caller.above.caller.startswith("word1"))
    print("proved captions")
    await caller.mouth.speak(1.2)
    mark = len(caller.seen)
    await caller.until("the next reply", lambda: caller.came("response.output_audio.delta", mark))
    mark = len(caller.seen)
    await caller.mouth.speak(1.2)
    await caller.until("a cancelled reply", lambda: caller.came("response.done", mark))
    done = caller.came("response.done", mark)[0].response
    check((done.status, done.status_details["reason"]) == ("cancelled", "turn_detected"), f"{done}")
    print("proved interruption")
    # The service says how much of it was played, as soon as it hears of the interruption.
    await caller.until("truncation", lambda: caller.came("conversation.item.truncated", mark))
    print("proved truncation")
    # And reads items back when it is asked for its history.
    item = caller.came("conversation.item.truncated", mark)[0].item_id
    read = await asyncio.wait_for(caller.llm.retrieve_conversation_item(item), WITHIN)
    check(read.id == item and read.role == "assistant", f"{read}")
    print("proved items")


async def functions(caller, worker):
    await worker.queue_frame(LLMRunFrame())
    await caller.until("call", lambda: caller.llm.viva_asked)
    check(caller.llm.viva_asked[0] == "Oslo", f"{caller.llm.viva_asked}")
    results = lambda: [e for e in caller.came("conversation.item.added") if e.item.type == "function_call_output"]
    await caller.until("result", results)
    check(results()[0].item.output == '{"rain": true}', f"{results()[0]}")
    print("proved functions")


async def main(url, scenario, path):
    with open(path, "w") as log:
        caller = Caller(url, log)
        caller.listen()
        caller.llm.viva_asked = caller.asked
        tools, messages = None, []
        if scenario == "functions":
            city = {"city": {"type": "string"}}
            tell = FunctionSchema("weather", "Tells the weather of a city.", city, ["city"], handler=weather)
            tools = ToolsSchema(standard_tools=[tell])
            messages = [{"role": "user", "content": "Does it rain in Oslo?"}]
        context = LLMContext(messages, **({"tools": tools} if tools else {}))
        pair = LLMContextAggregatorPair(context)
        # What the caller said goes up the pipeline, where the aggregator takes it; what is answered goes down.
        pipeline = Pipeline([pair.user(), caller.above, caller.llm, caller.heard, pair.assistant()])
        worker = PipelineWorker(pipeline, cancel_on_idle_timeout=False, enable_rtvi=False, params=PipelineParams())
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        running = asyncio.create_task(runner.run())
        microphone = asyncio.create_task(caller.microphone(worker))
        try:
            await caller.until("session", lambda: caller.came("session.updated"))
            await {"spoken": spoken, "functions": functions}[scenario](caller, worker)
        finally:
            microphone.cancel()
            await worker.cancel()
            await asyncio.wait_for(running, WITHIN)
    print(f"ok {scenario}, {len(caller.seen)} events")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
