#!/usr/bin/env python3
"""Speaks answers.toml: writes the recordings, short.toml, long.toml and README.md beside it.

Needs `pip install piper-tts` (1.3 or later), sox with its tempo and pitch effects, and ffmpeg with libopus.
The voice is found as Viva finds it: VIVA_MODELS, or viva/models in the user's cache folder. Pauses and voices
are seeded; the sound itself is not, since VITS draws its own noise. Without piper-tts, `make.py --scripts`
writes the text files anew from the recordings that lie here.
"""

import os
import random
import subprocess
import sys
import tempfile
import tomllib
import wave
from pathlib import Path

HERE = Path(__file__).resolve().parent
HUMAN = "../../../models/tests/data"
# Seed of voices and pauses: the same answers are always as high, as quick and as hesitant.
SEED = 20
# Raised so that the two sides of a call are told apart by ear, and varied so that the detectors meet
# more than one voice; hundredths of a semitone, and times the voice's own pace.
CENTS = (150, 450)
TEMPO = (0.92, 1.08)
# A thinking pause, milliseconds.
PAUSE_MS = (500, 1800)
# Cuts silence off both ends: what is under 0.5 % of full scale for 20 ms.
TRIM = ["silence", "1", "0.02", "0.5%", "reverse"] * 2


def models() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("VIVA_MODELS") or cache / "viva" / "models")


def speak(voice, text: str, cents: int, tempo: float, out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        raw, even = f"{folder}/raw.wav", f"{folder}/even.wav"
        with wave.open(raw, "wb") as file:
            voice.synthesize_wav(text, file)
        effects = ["gain", "-6", "pitch", str(cents), "tempo", "-s", str(tempo), "rate", "24000", "norm", "-3", *TRIM]
        subprocess.run(["sox", raw, even, *effects], check=True)
        opus = ["-c:a", "libopus", "-b:a", "24k", "-ac", "1", "-map_metadata", "-1", "-fflags", "+bitexact"]
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", even, *opus, str(out)], check=True)


def seconds(path: Path) -> float:
    probe = ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", str(path)]
    return float(subprocess.run(probe, check=True, capture_output=True, text=True).stdout)


def answers() -> dict[str, list[dict]]:
    """The answers with their voices, parts and pauses."""
    with open(HERE / "answers.toml", "rb") as file:
        texts = tomllib.load(file)
    dice = random.Random(SEED)
    made = {"short": [], "long": [], "human": []}
    for kind in ("short", "long"):
        for name, text in texts[kind].items():
            parts = [part.strip() for part in text.split("|")]
            files = [f"{name}.opus"] if len(parts) == 1 else [f"{name}-{n}.opus" for n in range(1, len(parts) + 1)]
            # Skewed towards the short ones, as hesitations are: the mean lies near 0.9 s.
            pauses = [round(dice.triangular(*PAUSE_MS, 700), -1) for _ in parts[1:]]
            made[kind].append({
                "name": name, "parts": parts, "files": files, "pauses": [int(p) for p in pauses],
                "cents": dice.randint(*CENTS), "tempo": round(dice.uniform(*TEMPO), 3),
            })
    for name, text in texts["human"].items():
        made["human"].append({"name": name, "parts": [text], "files": [f"{HUMAN}/{name}.opus"], "pauses": []})
    return made


def scenario(title: str, said: list[dict]) -> str:
    lines = [f"# {title} Written by make.py.", f'name = "{title.rstrip(".")}"', "# One after the other."]
    lines += ["cycle_s = 0.0", ""]
    for answer in said:
        lines += ["[[scripts]]", f'name = "{answer["name"]}"', "steps = ["]
        for n, file in enumerate(answer["files"]):
            if n:
                lines.append(f'  {{ do = "pause", ms = {answer["pauses"][n - 1]} }},')
            lines.append(f'  {{ do = "play", file = "{file}" }},')
        lines += ['  { do = "wait" },', "]", ""]
    return "\n".join(lines).rstrip() + "\n"


def table(said: list[dict]) -> str:
    rows = ["| answer | seconds | voice | said |", "|---|---|---|---|"]
    for answer in said:
        length = sum(seconds(HERE / file) for file in answer["files"]) + sum(answer["pauses"]) / 1000
        voice = f"+{answer['cents']} ct, ×{answer['tempo']}" if "cents" in answer else "human"
        text = answer["parts"][0]
        for pause, part in zip(answer["pauses"], answer["parts"][1:]):
            text += f" **[{pause / 1000:.2f} s]** {part}"
        rows.append(f"| {answer['name']} | {length:.1f} | {voice} | {text} |")
    return "\n".join(rows)


README = """# Answers of candidates

What the benchmark (`benches/load.rs`) says to Viva, and anybody else can: `viva load --scenario short.toml`.
Everything here but `answers.toml` and `make.py` is written by `make.py`.

Spoken by the Piper voice *joe*, raised and paced as the table says, cut tightly, 24 kHz Opus at 24 kbit/s. The
long answers are in parts; between them the caller thinks for so long as stands in bold, in mid-sentence as
often as between sentences. The human ones are LibriVox readings (public domain) that lie in
`models/tests/data`. Seconds count the pauses.

## short.toml

{short}

## long.toml

{long}
"""


def main() -> None:
    said = answers()
    if "--scripts" not in sys.argv:
        from piper import PiperVoice

        voice = PiperVoice.load(models() / "tts" / "piper-joe" / "en_US-joe-medium.onnx")
        for answer in said["short"] + said["long"]:
            for part, file in zip(answer["parts"], answer["files"]):
                # A comma keeps the voice up where the sentence goes on.
                text = part if part[-1] in ".,?!" else part + ","
                speak(voice, text, answer["cents"], answer["tempo"], HERE / file)
    short = said["short"] + said["human"]
    (HERE / "short.toml").write_text(scenario("Short answers, 2 to 7 seconds.", short))
    (HERE / "long.toml").write_text(scenario("Long answers with thinking pauses, 20 to 60 seconds.", said["long"]))
    (HERE / "README.md").write_text(README.format(short=table(short), long=table(said["long"])))


main()
