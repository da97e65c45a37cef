"""Validates events, one JSON object a line, against the JSON Schema of Viva's events; and that what is no event is none.

    validate_schema.py docs/events.schema.json ServerEvent|ClientEvent events.jsonl
"""

import json
import sys

from jsonschema import Draft202012Validator


def main(schema_path, kind, events_path):
    with open(schema_path) as file:
        document = json.load(file)
    Draft202012Validator.check_schema(document)
    validator = Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": document["$defs"]})
    seen = {}
    with open(events_path) as lines:
        for line in lines:
            event = json.loads(line)
            validator.validate(event)
            seen[event["type"]] = event
    if not seen:
        sys.exit("there are no events")
    for name, event in seen.items():
        wrong = {**event, "type": f"{name}.x"}
        if validator.is_valid(wrong):
            sys.exit(f"what is called {wrong['type']} is taken for an event")
        for field in event.keys() - {"type", "event_id"}:
            if isinstance(event[field], (str, int, dict)) and validator.is_valid({**event, field: [[]]}):
                sys.exit(f"{name}: anything is taken for '{field}'")
    print("valid:", ", ".join(sorted(seen)))


if __name__ == "__main__":
    main(*sys.argv[1:])
