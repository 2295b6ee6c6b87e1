"""What takes the place of values that tell of people, and that nothing of the original is left in the event."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.data import RECEIVED_MS, SHARDS, one
from tests.pipeline.schema import problem_of
from tests.pipeline.test_stages import FLOW, fate, load
from tidegate.cli.main import main
from tidegate.errors import ConfigError, RuleError
from tidegate.pipeline.anonymise.keys import MasterKey, generate, load_keys
from tidegate.pipeline.anonymise.pseudonyms import Pseudonyms
from tidegate.pipeline.anonymise.redact import Redactor
from tidegate.pipeline.runner import Outcome, Pipeline, RawFrame

HEAD = '[anonymisation]\nkeys = "keys.toml"\n'
OCSF = {
    "class_uid": 3002,
    "category_uid": 3,
    "activity_id": 1,
    "type_uid": 300201,
    "severity_id": 1,
    "time": 1_750_000_000_000,
    "metadata": {"version": "1.8.0", "product": {"name": "Own"}},
    "user": {"name": "ada.l", "uid": "u-1", "full_name": "ada@example.com"},
    "src_endpoint": {"ip": "203.0.113.77"},
    "service": {"name": "door"},
}


def anonymising(folder: Path, body: str, *, before: str = "") -> Pipeline:
    if not (folder / "keys.toml").exists():
        generate(folder / "keys.toml", datetime(2025, 1, 1, tzinfo=UTC))
    return load(folder, f'{before}[[stage]]\nname = "people"\ntype = "anonymise"\n{body}', HEAD)


def event(pipeline: Pipeline, record: dict[str, Any], source: str = "ocsf") -> dict[str, Any]:
    found = fate(pipeline, record, source)
    assert isinstance(found, dict), found
    return found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ('{ field = "user.name", method = "mask", first = 1, last = 1 }', "a***l"),
        ('{ field = "user.name", method = "mask" }', "*****"),
        ('{ field = "user.name", method = "mask", first = 3, last = 2 }', "*****"),
        ('{ field = "user.name", method = "truncate", length = 3 }', "ada"),
        ('{ field = "user.name", method = "constant", value = "somebody" }', "somebody"),
        ('{ field = "user.name", method = "drop" }', None),
        ('{ field = "user.name", method = "hash", keyed = false }', sha256(b"ada.l").hexdigest()),
        ('{ field = "user.full_name", method = "mask", kind = "email", first = 1 }', "a**@example.com"),
        ('{ field = "src_endpoint.ip", method = "generalise" }', "203.0.113.0"),
        ('{ field = "src_endpoint.ip", method = "generalise", ipv4 = 8 }', "203.0.0.0"),
        ('{ field = "time", method = "generalise", to = "day" }', 1_749_945_600_000),
    ],
)
def test_each_method_puts_something_else_in_place_and_observables_follow(
    tmp_path: Path, field: str, value: str | int | None
) -> None:
    found = event(anonymising(tmp_path, f'correlation = "keep"\nfields = [{field}]'), OCSF)
    path = field.split('"')[1]
    holder: Any = found
    for name in path.split("."):
        holder = holder.get(name) if holder else None
    assert holder == value
    seen = {one["name"]: one.get("value") for one in found.get("observables", [])}
    assert seen.get(path, value) == value


def test_a_pseudonym_is_stable_of_its_form_and_differs_by_tenant_and_key(tmp_path: Path) -> None:
    fields = 'fields = [{ field = ["user.name", "src_endpoint.ip"], method = "pseudonymise" },'
    fields += ' { field = "user.full_name", method = "pseudonymise", kind = "email" }]'
    pipeline = anonymising(tmp_path, fields)
    first, again = event(pipeline, OCSF), event(pipeline, {**OCSF, "severity_id": 2})
    assert first["user"] == again["user"]
    assert first["user"]["name"].startswith("user-")
    assert first["user"]["full_name"].endswith(".invalid")
    assert int(first["src_endpoint"]["ip"][0], 16) >= 8
    other = event(pipeline, {**OCSF, "metadata": {**OCSF["metadata"], "tenant_uid": "t2"}})  # type: ignore[dict-item]
    assert other["user"]["name"] != first["user"]["name"]

    generate(tmp_path / "keys.toml", datetime(2025, 6, 16, tzinfo=UTC))
    rotated = anonymising(tmp_path, fields)
    assert event(rotated, OCSF)["user"] == first["user"], "the event's own time says which key serves"
    later = event(rotated, {**OCSF, "time": 1_750_200_000_000})
    assert later["user"]["name"] != first["user"]["name"]
    assert event(rotated, OCSF)["user"] == first["user"], "late, after the newer key has served"


ADDRESSES = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(network="2000::/3"), st.ip_addresses(network="fc00::/7")
).map(str)
"""Of what is in use; the other blocks have no pseudonyms of their own."""


@settings(deadline=None)
@given(ADDRESSES, ADDRESSES, st.text(min_size=1))
def test_pseudonyms_can_be_turned_back_with_the_key_only(first: str, second: str, text: str) -> None:
    key, other = (_master(number) for number in (1, 2))
    mine, theirs = Pseudonyms(key, "t"), Pseudonyms(other, "t")
    made = mine.of(first, "ip")
    assert mine.original(made) == _plain(first)
    assert (made == mine.of(second, "ip")) == (_plain(first) == _plain(second))
    sealed = mine.of(text, "text", reversible=True)
    assert mine.original(sealed) == text
    assert theirs.original(sealed) is None
    assert mine.original(mine.of(text, "text")) is None


def _plain(address: str) -> str:
    found = ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(mapped or found)


def _master(number: int) -> MasterKey:
    return MasterKey(str(number), 0, bytes([number]) * 32)


NAMES = st.from_regex(r"\A[a-z]{3,8}[.-]?[a-z]{4,8}q\Z")
PLACES = st.sampled_from(
    ["message", "unmapped", "deep", "key", "raw_data", "observables", "enrichments", "correlation"]
)
METHODS = st.sampled_from(
    [
        'method = "pseudonymise"',
        'method = "mask"',
        'method = "drop"',
        'method = "hash"',
        'method = "truncate", length = 2',
    ]
)
WRAPS = st.sampled_from(["{}", "by {}!", "CN={},OU=x", "{} {}", '{{"u":"{}"}}', "a/{}/b"])


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, method=METHODS, places=st.sets(PLACES), wrap=WRAPS, upper=st.booleans())
def test_an_anonymised_value_is_nowhere_in_the_encoded_event(
    tmp_path_factory: pytest.TempPathFactory, name: str, method: str, places: set[str], wrap: str, upper: bool
) -> None:
    pipeline = anonymising(tmp_path_factory.mktemp("p"), f'fields = [{{ field = "user.name", {method} }}]')
    text = wrap.format(name, name)
    text = text.upper() if upper else text
    record: dict[str, Any] = {**OCSF, "user": {"name": name, "uid": "1"}, "unmapped": {}}
    record["observables"] = [{"name": "user.name", "type_id": 4, "value": name}]
    if "message" in places:
        record["message"] = text
    if "unmapped" in places:
        record["unmapped"]["note"] = text
    if "deep" in places:
        record["unmapped"]["list"] = [{"a": [text, 1]}]
    if "key" in places:
        record["unmapped"][text] = 1
    if "raw_data" in places:
        record["raw_data"] = text
    if "observables" in places:
        record["observables"].append({"name": "account", "type_id": 4, "value": text})
    if "enrichments" in places:
        record["enrichments"] = [{"name": "user.name", "value": name, "data": {"note": text}}]
    if "correlation" in places:
        record["metadata"] = {**OCSF["metadata"], "correlation_uid": text}  # type: ignore[dict-item]
    outcome = Outcome(SHARDS)
    raw = [msgspec.json.encode(record)]
    pipeline.run(RawFrame(source="ocsf", codec="json", records=raw, received_ms=RECEIVED_MS, origin="T/1"), outcome)
    (line,) = (line for shard in outcome.lines for line in shard)
    assert problem_of(msgspec.json.decode(line)) is None
    assert name not in bytes(line).decode().lower()


def test_events_of_native_sources_lose_the_value_everywhere(tmp_path: Path) -> None:
    pipeline = anonymising(
        tmp_path,
        'fields = [{ field = ["src_endpoint.ip", "dst_endpoint.ip"], method = "pseudonymise" }]\n',
        before='[[stage]]\nname = "say"\ntype = "transform"\n[[stage.operations]]\n'
        "set = { message = \"concat(src_endpoint.ip, ' to ', dst_endpoint.ip)\" }\n",
    )
    found = one(pipeline, "suricata", {**FLOW, "note": "seen 10.0.0.9"})
    assert problem_of(found) is None
    assert "10.0.0.9" not in msgspec.json.encode(found).decode()
    assert found["message"] == f"{found['src_endpoint']['ip']} to {found['dst_endpoint']['ip']}"


def test_a_dropped_object_is_not_found_in_texts_either(tmp_path: Path) -> None:
    record = {
        **OCSF,
        "message": "203.0.113.77 (pc-7) came",
        "src_endpoint": {"ip": "203.0.113.77", "hostname": "pc-7"},
    }
    found = event(anonymising(tmp_path, 'fields = [{ field = "src_endpoint", method = "drop" }]'), record)
    assert "src_endpoint" not in found
    assert found["message"] == "[removed] ([removed]) came"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("mail ada@example.com now", "mail [email] now"),
        ("card 4111 1111 1111 1111.", "card [card]."),
        ("card 4111 1111 1111 1112.", "card 4111 1111 1111 1112."),
        ("no card: 1234567812345670", "no card: 1234567812345670"),
        ("key AKIAIOSFODNN7EXAMPLE", "key [token]"),
        ("Authorization: Bearer abcdef0123456789", "Authorization: Bearer [token]"),
        ("psql --password hunter22 -h db", "psql --password [password] -h db"),
        ("https://u:s3cret@example.com/", "https://u:[password]/"),
        ('{"password": "a\\"b", "n": 1}', '{"password": "[password]", "n": 1}'),
        ("to DE89 3704 0044 0532 0130 00 and on", "to [iban] and on"),
        ("ssn 536-90-4399", "ssn [us_ssn]"),
        ("ssn 666-90-4399", "ssn 666-90-4399"),
        ("id 86095742719", "id [de_tax_id]"),
        ("id 86095742718", "id 86095742718"),
        ("nothing of the kind", "nothing of the kind"),
    ],
)
def test_detectors_find_what_they_say(text: str, redacted: str) -> None:
    names = ["private_key", "token", "password", "email", "iban", "card", "us_ssn", "de_tax_id"]
    assert Redactor(names)(text) == redacted


@settings(deadline=None)
@given(st.text(), st.text(), st.from_regex(r"\A[0-9]{15}\Z"))
def test_cards_are_found_between_any_texts_and_redacting_again_changes_nothing(
    before: str, after: str, digits: str
) -> None:
    card = next(f"4{digits[1:]}{last}" for last in range(10) if _luhn(f"4{digits[1:]}{last}"))
    redactor = Redactor(["card"])
    made = redactor(f"{before}|{card}|{after}")
    assert card not in made
    assert redactor(made) == made


def _luhn(number: str) -> bool:
    doubled = [int(one) * (2 if place % 2 else 1) for place, one in enumerate(reversed(number))]
    return sum(sum(map(int, str(one))) for one in doubled) % 10 == 0


def test_free_text_is_redacted_with_patterns_and_methods_of_ones_own(tmp_path: Path) -> None:
    pipeline = anonymising(
        tmp_path,
        'redact = ["message", "unmapped"]\npatterns = { badge = "B-[0-9]{4}" }\n'
        'replace = { card = { method = "mask", kind = "card" } }',
    )
    found = event(
        pipeline,
        {**OCSF, "message": "ada@example.com paid 4111111111111111 with B-1234", "unmapped": {"x": ["B-9999"]}},
    )
    assert found["message"] == "[email] paid ************1111 with [badge]"
    assert found["unmapped"]["x"] == ["[badge]"]
    assert pipeline.flows[0].stages[0].body.found == {"email": 1, "card": 1, "badge": 2}


def test_what_cannot_be_anonymised_becomes_a_dead_letter(tmp_path: Path) -> None:
    pipeline = anonymising(tmp_path, 'fields = [{ field = "user.name", method = "pseudonymise" }]')
    stage = pipeline.flows[0].stages[0]
    assert stage.policy.action == "dead_letter"
    with pytest.raises(RuleError, match="would let events pass that were not anonymised"):
        anonymising(
            tmp_path,
            'fields = [{ field = "user.name", method = "mask" }]\non_error = { action = "continue" }',
        )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("fields = []", "needs fields or redact"),
        ('fields = [{ field = "usr.name", method = "drop" }]', 'did you mean "user"'),
        ('fields = [{ field = "severity_id", method = "pseudonymise" }]', "a pseudonym is text"),
        ('fields = [{ field = "user.name", method = "generalise" }]', "say as what to generalise it"),
        ('fields = [{ field = "time", method = "generalise", to = "day", step = 5 }]', '"to" is for times'),
        ('fields = [{ field = "class_uid", method = "drop" }]', "set by the pipeline itself"),
        ('redact = ["message"]\npatterns = { odd = "(" }', "not a regular expression"),
        ('redact = ["message"]\npatterns = { odd = "x*" }', "matches empty text"),
        ('redact = ["message"]\nreplace = { emial = { method = "drop" } }', 'did you mean "email"'),
    ],
)
def test_a_stage_that_cannot_work_is_refused_with_file_and_line(tmp_path: Path, body: str, says: str) -> None:
    with pytest.raises(RuleError, match=r"own\.toml:\d+") as refused:
        anonymising(tmp_path, body)
    assert says in str(refused.value)


SECRET = base64.b64encode(bytes(range(40))).decode()
KEY = '[[key]]\nid = "k"\ncreated = 2025-01-01T00:00:00Z\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f'{KEY}secret = "{SECRET[:20]}"', "does not hold base64 of 32 to 64 bytes"),
        (f'{KEY}secret = "{SECRET}!"', "does not hold base64"),
        (KEY, "needs one of secret, secret_env and secret_file"),
        (f'{KEY}secret_env = "TIDEGATE_TEST_NO_SUCH"', "the environment variable TIDEGATE_TEST_NO_SUCH"),
        (f'{KEY}secret = "{SECRET}"\n{KEY}secret = "{SECRET}"', 'two keys have the id "k"'),
        (f'{KEY}secret = "{SECRET}"\nrevoked = true', "all keys are revoked"),
        ("", "key"),
    ],
)
def test_bad_key_files_are_refused_and_no_secret_is_said(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as refused:
        load_keys(path)
    assert says in str(refused.value)
    assert SECRET[:20] not in str(refused.value)


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f'{KEY}secret = "{SECRET}"')
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_keys(path)


def test_secrets_come_from_the_environment_or_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_TEST_SECRET", SECRET)
    (tmp_path / "secret").write_bytes(bytes(range(40)))
    (tmp_path / "secret").chmod(0o600)
    made = []
    for given_as in (f'secret = "{SECRET}"', 'secret_env = "TIDEGATE_TEST_SECRET"', 'secret_file = "secret"'):
        path = tmp_path / "keys.toml"
        path.write_text(KEY + given_as)
        path.chmod(0o600)
        made.append(Pseudonyms(load_keys(path).keys[0], "t").of("ada", "user"))
    assert len(set(made)) == 1


def test_the_command_makes_keys_and_turns_pseudonyms_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.toml"
    assert main(["keys", "new", str(path), "--created", "2025-01-01"]) == 0
    assert main(["keys", "new", str(path)]) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    pipeline = anonymising(tmp_path, 'fields = [{ field = "user.name", method = "pseudonymise", reversible = true }]')
    pseudonym = event(pipeline, OCSF)["user"]["name"]
    assert main(["keys", "reverse", pseudonym, str(path)]) == 0
    assert main(["keys", "reverse", pseudonym, str(path), "--tenant", "other"]) == 1
    assert main(["keys", "list", str(path)]) == 0
    printed = capsys.readouterr()
    assert "ada.l" in printed.out
    for line in path.read_text().splitlines():
        if line.startswith("secret"):
            assert line.split('"')[1] not in printed.out + printed.err
    path.chmod(0o640)
    assert main(["keys", "reverse", pseudonym, str(path)]) == 2


@pytest.mark.parametrize(("flag", "gone"), [(True, True), ("yes", False), (1, False), ([0], False), (False, False)])
def test_a_condition_of_unknown_kind_counts_only_when_it_is_true(tmp_path: Path, flag: object, gone: bool) -> None:
    pipeline = load(tmp_path, '[[stage]]\nname = "noise"\ntype = "filter"\ndrop = "unmapped.flag"')
    assert (fate(pipeline, {"message": "m", "flag": flag}, "acme") == "own.noise") is gone
