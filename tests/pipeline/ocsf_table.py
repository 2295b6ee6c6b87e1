"""Makes the table of OCSF's classes and objects that the pipeline ships: `python -m tests.pipeline.ocsf_table`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from ocsf_json_schema import get_ocsf_schema

from tidegate.ocsf import OCSF_VERSION
from tidegate.pipeline import ocsf_schema

__all__ = ["SHIPPED", "table"]

SHIPPED = Path(ocsf_schema.__file__).with_name(f"ocsf-{OCSF_VERSION}.json")
_SHORT = {"string_t": "s", "integer_t": "i", "long_t": "i", "float_t": "f", "boolean_t": "b", "json_t": "j"}


def table() -> bytes:
    """The content of the file, as `tidegate.pipeline.ocsf_schema` describes it."""
    ocsf = get_ocsf_schema(OCSF_VERSION)
    types = ocsf["dictionary"]["types"]["attributes"]

    def written(each: dict[str, Any]) -> str:
        if each["type"] == "object_t" or "object_type" in each:
            kind = each["object_type"] if ocsf["objects"][each["object_type"]]["attributes"] else "o"
        else:
            kind = _SHORT.get(each["type"]) or _SHORT[types[each["type"]]["type"]]
        # What is required under a profile only, is not for records without it.
        required = each.get("requirement") == "required" and not (each.get("profile") or each.get("profiles"))
        return kind + ("[]" if each.get("is_array") else "") + ("!" if required else "")

    def shape(one: dict[str, Any]) -> dict[str, Any]:
        attributes = {name: written(each) for name, each in sorted(one["attributes"].items())}
        choice = (one.get("constraints") or {}).get("at_least_one", [])
        return {"attributes": attributes, "any": sorted(choice)} if choice else {"attributes": attributes}

    classes = {str(one["uid"]): shape(one) for one in ocsf["classes"].values()}
    common = {
        name: text
        for name, text in classes["0"]["attributes"].items()
        if all(one["attributes"].get(name) == text for one in classes.values())
    }
    for one in classes.values():
        one["attributes"] = {name: text for name, text in one["attributes"].items() if name not in common}
    objects = {name: shape(one) for name, one in ocsf["objects"].items()}
    made = {"version": OCSF_VERSION, "common": common, "classes": classes, "objects": objects}
    return msgspec.json.encode(made, order="sorted") + b"\n"


if __name__ == "__main__":
    SHIPPED.write_bytes(table())
