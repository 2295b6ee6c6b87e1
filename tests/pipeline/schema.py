"""Checks events against the published schema of OCSF 1.8.0."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

__all__ = ["CLASS_NAMES", "problem_of"]

_OCSF = get_ocsf_schema("1.8.0")
CLASS_NAMES = {each["uid"]: name for name, each in _OCSF["classes"].items()}


@cache
def _validator(class_uid: int, profiles: tuple[str, ...]) -> Any:
    name = CLASS_NAMES[class_uid]
    schema = OcsfJsonSchemaEmbedded(_OCSF).get_class_schema(name, profiles=list(profiles))
    attributes = _OCSF["classes"][name]["attributes"]
    # What is required under a profile only is listed as required without it, too.
    schema["required"] = [
        each for each in schema["required"] if not (attributes[each].get("profile") or attributes[each].get("profiles"))
    ]
    return jsonschema.Draft202012Validator(schema)


def problem_of(event: dict[str, Any]) -> str | None:
    """What the schema of its class finds wrong with `event`."""
    if event["type_uid"] != event["class_uid"] * 100 + event["activity_id"]:
        return f"type_uid {event['type_uid']} does not fit class and activity"
    validator = _validator(event["class_uid"], tuple(event["metadata"].get("profiles", ())))
    error = jsonschema.exceptions.best_match(validator.iter_errors(event))
    if error is None:
        return None
    return f"{CLASS_NAMES[event['class_uid']]}: {'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
