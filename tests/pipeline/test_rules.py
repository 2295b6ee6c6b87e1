"""A rule that cannot work is refused when it is loaded, with file, line and the nearest valid name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.pipeline.data import RECEIVED_MS, SHARDS, one, run
from tests.pipeline.schema import problem_of
from tidegate.errors import ConfigError, RuleError
from tidegate.pipeline.library import load_pipeline
from tidegate.pipeline.runner import Pipeline

GOOD = """\
source = "door"
aliases = ["doors"]
select = ["kind"]
product = { name = "Door", vendor = "Locks" }
time = { from = ["at"] }
id = { from = ["number", "house"] }

[[correlation]]
from = ["house", "badge"]

[lookups.activity]
in = 1
out = 2

[groups.who]
"user.name" = "person.name"
"user.uid" = ["badge", "person.id"]

[[rule]]
name = "pass"
when = { kind = "pass", "person.name" = { exists = true } }
class = "authentication"
activity = { from = "way", lookup = "activity", default = 99 }
severity = 2
use = ["who"]
[rule.set]
"src_endpoint.ip" = "reader.ip"
"dst_endpoint.name" = { from = "house", default = "Unknown" }
"is_mfa" = "pin"
"""

PASS = {
    "kind": "pass",
    "at": "2025-06-15T14:00:00.250+02:00",
    "number": 17,
    "house": "north",
    "badge": "b-7",
    "way": "in",
    "person": {"name": "Ada", "id": 5},
    "reader": {"ip": "10.0.0.9", "volts": 5},
    "pin": "true",
}


def _load(folder: Path, text: str) -> Pipeline:
    (folder / "door.toml").write_text(text)
    return load_pipeline(SHARDS, folder)


def test_a_source_of_ones_own_is_mapped_by_its_rules(tmp_path: Path) -> None:
    event = one(_load(tmp_path, GOOD), "doors", PASS)
    assert problem_of(event) is None
    assert (event["class_uid"], event["activity_id"], event["severity_id"]) == (3002, 1, 2)
    assert event["time"] == 1_749_988_800_250
    assert event["user"] == {"name": "Ada", "uid": "b-7"}
    assert event["src_endpoint"] == {"ip": "10.0.0.9"}
    assert event["is_mfa"] is True
    assert event["metadata"]["correlation_uid"] == "north:b-7"
    assert {each["name"]: each["value"] for each in event["observables"]} == {
        "user.name": "Ada",
        "src_endpoint.ip": "10.0.0.9",
    }
    assert event["unmapped"] == {
        "kind": "pass",
        "number": 17,
        "way": "in",
        "person": {"id": 5},
        "reader": {"volts": 5},
    }


def test_the_id_of_a_record_with_its_own_id_does_not_depend_on_where_it_is(tmp_path: Path) -> None:
    pipeline = _load(tmp_path, GOOD)
    first = one(pipeline, "door", PASS)
    assert one(pipeline, "door", {**PASS, "way": "out"})["metadata"]["uid"] == first["metadata"]["uid"]
    assert one(pipeline, "door", {**PASS, "number": 18})["metadata"]["uid"] != first["metadata"]["uid"]


def test_a_value_that_fails_its_check_stays_in_unmapped(tmp_path: Path) -> None:
    event = one(_load(tmp_path, GOOD), "door", {**PASS, "reader": {"ip": "front"}, "pin": "perhaps"})
    assert "src_endpoint" not in event
    assert event["unmapped"]["reader"] == {"ip": "front"}
    assert event["unmapped"]["pin"] == "perhaps"


def test_a_record_that_lacks_what_its_class_requires_is_a_base_event_that_says_so(tmp_path: Path) -> None:
    rules = GOOD.replace('{ from = "house", default = "Unknown" }', '"house"')
    event = one(_load(tmp_path, rules), "door", {key: value for key, value in PASS.items() if key != "house"})
    assert event["class_uid"] == 0
    assert event["status_detail"] == "door.pass: authentication requires one of service, dst_endpoint"
    assert event["unmapped"]["person"] == {"name": "Ada", "id": 5}


def test_a_rule_may_have_a_time_of_its_own(tmp_path: Path) -> None:
    rules = GOOD.replace('use = ["who"]', 'use = ["who"]\ntime = ["seen.at", "at"]')
    event = one(_load(tmp_path, rules), "door", {**PASS, "seen": {"at": 1_749_980_000}})
    assert event["time"] == 1_749_980_000_000
    assert event["unmapped"]["at"] == PASS["at"]
    assert one(_load(tmp_path, rules), "door", PASS)["time"] == 1_749_988_800_250


def test_a_text_that_stands_for_no_value_is_no_time(tmp_path: Path) -> None:
    rules = GOOD.replace(
        'time = { from = ["at"] }', 'time = { from = ["at"], missing = "received" }\nabsent = ["never"]'
    )
    event = one(_load(tmp_path, rules), "door", {**PASS, "at": "never"})
    assert event["time"] == RECEIVED_MS
    assert event["metadata"]["original_time"] == "never"
    _, dead = run(_load(tmp_path, rules), "door", [msgspec.json.encode({**PASS, "at": "later"})])
    assert [letter.rule for letter in dead] == ["door.pass.time"]


def test_a_default_stands_back_for_an_attribute_of_an_inner_object(tmp_path: Path) -> None:
    rules = (
        GOOD + '"src_endpoint.svc_name" = { from = "reader.name", default = "Unknown", unless = "src_endpoint.ip" }\n'
    )
    pipeline = _load(tmp_path, rules)
    assert one(pipeline, "door", PASS)["src_endpoint"] == {"ip": "10.0.0.9"}
    assert one(pipeline, "door", {**PASS, "reader": {}})["src_endpoint"] == {"svc_name": "Unknown"}


def test_a_correlation_key_with_a_conversion_passes_over_what_that_cannot_take(tmp_path: Path) -> None:
    rules = GOOD.replace('from = ["house", "badge"]', 'from = "card"\nas = "guid"\n[[correlation]]\nfrom = "house"')
    pipeline = _load(tmp_path, rules)
    assert one(pipeline, "door", {**PASS, "card": "{AB-1}"})["metadata"]["correlation_uid"] == "ab-1"
    assert one(pipeline, "door", {**PASS, "card": {"no": 1}})["metadata"]["correlation_uid"] == "north"


def test_a_key_in_quotes_may_have_dots(tmp_path: Path) -> None:
    rules = GOOD.replace('"src_endpoint.ip" = "reader.ip"', """"src_endpoint.ip" = 'labels."door.io/ip".v4'""")
    labels = {"door.io/ip": {"v4": "10.0.0.8", "v6": "::1"}}
    event = one(_load(tmp_path, rules), "door", {**PASS, "labels": labels})
    assert event["src_endpoint"] == {"ip": "10.0.0.8"}
    assert event["unmapped"]["labels"] == {"door.io/ip": {"v6": "::1"}}


def test_a_condition_may_ask_how_a_field_ends(tmp_path: Path) -> None:
    pipeline = _load(tmp_path, GOOD.replace("{ exists = true }", '{ ends = ["Ada", "Lovelace"] }'))
    assert one(pipeline, "door", PASS)["class_uid"] == 3002
    assert one(pipeline, "door", {**PASS, "person": {"name": "Ada B"}})["class_uid"] == 0


@pytest.mark.parametrize(
    ("wrapped", "opened"),
    [
        ({"box": PASS}, True),
        ({"box": [PASS]}, True),
        ({"box": json.dumps(PASS)}, True),
        ({"box": [json.dumps(PASS)]}, True),
        ({"box": [PASS, PASS]}, False),
        ({"box": "{not JSON"}, False),
        ({"box": "[1]"}, False),
        ({"box": 5}, False),
    ],
)
def test_an_object_is_lifted_out_of_a_list_of_one_and_out_of_text(
    tmp_path: Path, wrapped: dict[str, Any], opened: bool
) -> None:
    rules = GOOD.replace("[lookups.activity]", '[[reshape]]\nwhen = "box"\nlift = ["box"]\n\n[lookups.activity]')
    pipeline = _load(tmp_path, rules)
    event = one(pipeline, "door", wrapped)
    if opened:
        assert event == one(pipeline, "door", PASS)
    else:
        assert (event["class_uid"], event["unmapped"]) == (0, wrapped)


def test_a_source_in_the_folder_wins_over_the_shipped_one(tmp_path: Path) -> None:
    pipeline = _load(tmp_path, GOOD.replace('"doors"', '"zeek"'))
    assert one(pipeline, "zeek", PASS)["class_uid"] == 3002


@pytest.mark.parametrize(
    ("old", "new", "line", "hint"),
    [
        ("select =", "selects =", 3, 'unknown key "selects"'),
        ('class = "authentication"', 'class = "authentification"', 22, 'did you mean "authentication"?'),
        ('"src_endpoint.ip"', '"src_endpont.ip"', 27, 'did you mean "src_endpoint"?'),
        ('"src_endpoint.ip"', '"src_endpoint.ipp"', 27, 'did you mean "ip"?'),
        ('"src_endpoint.ip"', '"src_endpoint"', 27, "is an object"),
        ('"is_mfa" = "pin"', '"is_mfa" = { from = "pin", as = "boool" }', 29, 'did you mean "bool"?'),
        ('lookup = "activity"', 'lookup = "activities"', 23, 'did you mean "activity"?'),
        ('use = ["who"]', 'use = ["whom"]', 25, 'did you mean "who"?'),
        ("severity = 2", "severitty = 2", 24, 'unknown key "severitty"'),
        ('"is_mfa" = "pin"', '"is_mfa" = { as = "bool" }', 29, 'needs either "from" or "value"'),
    ],
)
def test_a_mistake_is_refused_with_file_line_and_hint(tmp_path: Path, old: str, new: str, line: int, hint: str) -> None:
    with pytest.raises(RuleError) as caught:
        _load(tmp_path, GOOD.replace(old, new, 1))
    assert caught.value.where == f"{tmp_path / 'door.toml'}:{line}"
    assert hint in caught.value.problem


def test_a_class_whose_required_attributes_are_not_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match='class authentication requires "user"'):
        _load(tmp_path, GOOD.replace('use = ["who"]\n', ""))


def test_an_object_without_its_required_attribute_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r'"logon_process.file" needs "logon_process.file.name"'):
        _load(tmp_path, GOOD + '"logon_process.file.path" = "path"\n')


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="not valid TOML"):
        _load(tmp_path, "source = ")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder"):
        load_pipeline(SHARDS, tmp_path / "absent")
