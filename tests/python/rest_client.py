"""Uses every HTTP endpoint of a running server with the official `openai` client, as an outside party.

The client validates what it reads against its own types; what it would let pass is checked here. Prints one line a
feature; exits with 1 and a sentence on the first thing that is wrong.

    rest_client.py http://127.0.0.1:8790
"""

import io
import math
import struct
import sys
import wave

import openai
from openai import OpenAI
from pydantic import BaseModel


def check(condition, sentence):
    if not condition:
        raise AssertionError(sentence)


def refused(kind, param, call):
    try:
        call()
    except kind as error:
        check(error.param == param, f"the error names {error.param!r}, not {param!r}: {error}")
        return
    raise AssertionError(f"nothing was refused for {param}")


def recording():
    """3.2 seconds of a tone at 24 kHz: ten words to the fake recogniser."""
    samples = (int(9000 * math.sin(i * 0.0576)) for i in range(76_800))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(b"".join(struct.pack("<h", s) for s in samples))
    return ("answer.wav", out.getvalue())


def models(client):
    names = [model.id for model in client.models.list()]
    check("viva" in names and "viva-embed" in names, f"models: {names}")
    check(client.models.retrieve("viva").owned_by == "viva", "one model")
    refused(openai.NotFoundError, "model", lambda: client.models.retrieve("gpt-nine"))


def embeddings(client):
    # The client asks for base64 by itself and decodes it.
    one = client.embeddings.create(model="text-embedding-3-small", input="hello")
    many = client.embeddings.create(model="m", input=["hello", "you"], encoding_format="float")
    check(len(many.data) == 2 and many.usage.total_tokens > 0, "two vectors with their usage")
    gap = max(abs(a - b) for a, b in zip(one.data[0].embedding, many.data[0].embedding))
    check(gap < 1e-6, "both encodings say the same")
    refused(openai.BadRequestError, "dimensions",
            lambda: client.embeddings.create(model="m", input="a", dimensions=99_999))


def speech(client):
    said = client.audio.speech.create(model="tts-1", voice="alloy", input="Hello there.", response_format="pcm")
    check(len(said.read()) > 24_000, "PCM of some length")
    default = client.audio.speech.create(model="tts-1", voice="nova", input="Hello.")
    check(default.response.headers["content-type"].startswith("audio/"), "a default format")
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="One. Two. Three.", response_format="wav", speed=1.5
    ) as response:
        pieces = [piece for piece in response.iter_bytes()]
    check(b"".join(pieces).startswith(b"RIFF") and len(pieces) > 1, "a stream of pieces")
    refused(openai.BadRequestError, "voice",
            lambda: client.audio.speech.create(model="tts-1", voice="bob", input="Hello."))


def transcriptions(client):
    def ask(**more):
        return client.audio.transcriptions.create(model="whisper-1", file=recording(), **more)

    words = " ".join(f"word{n}" for n in range(1, 11))
    check(ask().text == words, "json")
    check(ask(response_format="text").strip() == words, "text")
    check(ask(response_format="srt").startswith("1\n00:00:00,"), "srt")
    check(ask(response_format="vtt").startswith("WEBVTT"), "vtt")
    verbose = ask(response_format="verbose_json", timestamp_granularities=["word", "segment"], language="en")
    check(len(verbose.words) == 10 and verbose.segments and abs(verbose.duration - 3.2) < 0.01, "verbose_json")
    events = list(ask(stream=True))
    check([e.type for e in events] == ["transcript.text.delta", "transcript.text.done"], "a stream")
    check(events[-1].text == words, "the stream's end")
    refused(openai.BadRequestError, "response_format", lambda: ask(response_format="diarized_json"))
    refused(openai.BadRequestError, "model",
            lambda: client.audio.translations.create(model="whisper-1", file=recording()))


class Verdict(BaseModel):
    good: bool
    reason: str


def chat(client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    whole = client.chat.completions.create(model="gpt-4o-mini", messages=messages, max_tokens=50, temperature=0)
    check(whole.choices[0].finish_reason == "stop" and whole.usage.completion_tokens > 1, "an answer")
    stream = client.chat.completions.create(
        model="m", messages=messages, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    check(said == whole.choices[0].message.content, "the stream says the same")
    check(chunks[-1].usage.completion_tokens > 1 and not chunks[-1].choices, "usage comes last")
    short = client.chat.completions.create(model="m", messages=messages, max_completion_tokens=2)
    check(short.choices[0].finish_reason == "length", "an answer that was cut")
    schema = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": Verdict.model_json_schema()}}
    client.chat.completions.create(model="m", messages=messages, response_format=schema)
    refused(openai.BadRequestError, "logprobs",
            lambda: client.chat.completions.create(model="m", messages=messages, logprobs=True))
    refused(openai.BadRequestError, "n", lambda: client.chat.completions.create(model="m", messages=messages, n=3))


def main(url):
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    for feature in (models, embeddings, speech, transcriptions, chat):
        feature(client)
        print(f"proved {feature.__name__}")


if __name__ == "__main__":
    main(*sys.argv[1:])
