"""Validates recorded server events, one JSON object a line, against the types of the official `openai` client.

    validate_events.py events.jsonl
"""

import json
import sys
from collections import Counter

from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

EVENT = TypeAdapter(RealtimeServerEvent)


def main(path):
    kinds = Counter()
    with open(path) as lines:
        for line in lines:
            event = json.loads(line)
            EVENT.validate_python(event)
            kinds[event["type"]] += 1
    if not kinds:
        sys.exit("there are no events")
    print("valid:", ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())))


if __name__ == "__main__":
    main(*sys.argv[1:])
