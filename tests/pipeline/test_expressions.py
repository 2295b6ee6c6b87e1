"""What expressions mean, what is refused and how it is told."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tidegate.errors import ExpressionError
from tidegate.pipeline.expressions import compile_expression, evaluator, steps_of
from tidegate.pipeline.rules import Attribute

EVENT: dict[str, Any] = {
    "class_uid": 4001,
    "severity_id": 3,
    "time": 1_747_000_000_250,  # Sunday, 2025-05-11T21:46:40.250Z
    "is_alert": True,
    "is_mfa": False,
    "message": "GET /index.html?q=a%20b",
    "user.name": "Root",
    "src_endpoint.ip": "10.1.2.3",
    "dst_endpoint.ip": "2001:db8::7",
    "query.hostname": "WWW.Example.com.",
    "process.cmd_line": "powershell -enc aGk=",
    "traffic.bytes_in": 50,
    "traffic.bytes_out": 500,
    "privileges": ["SeDebug", "SeBackup"],
    "observables[1].value": "first",
    "privileges[2]": "SeBackup",
    "email.from": "ada@example.com",
    "unmapped.text": "abc",
    "unmapped.one": 1,
    "unmapped.float": 2.5,
    "unmapped.yes": True,
    "unmapped.no": False,
    "unmapped.list": ["a", 1, None, ["b"], {"c": 1}],
    "unmapped.object": {"a": {"b": [10, 20]}},
    "unmapped.huge": 10**400,
    "unmapped.json": '{"a": {"b": [10, 20]}, "deep": ' + "[" * 5000 + "]" * 5000 + "}",
    'unmapped["alert.gid"]': 7,
}


def value_of(text: str) -> Any:
    return evaluator(compile_expression(text))(EVENT.get)


TRUE = """
    class_uid == 4001 and severity_id >= 3 and not in_cidr(dst_endpoint.ip, "10.0.0.0/8")
    class_uid in (4001, 4002)
    class_uid not in [1, 2]
    1 < severity_id <= 3
    1 < length(message) + 1 < 25 != 26
    is_alert and not is_mfa
    is_alert == true
    is_mfa == False
    is_alert is True
    is_mfa or severity_id > 2
    user.name != "root"
    user.name.lower() == "root"
    user.name in {"Root", "Admin"}
    "index" in message
    "z" not in message
    message > "GET"
    status == none
    status is None
    user.name is not null
    status != "ok"
    exists(user.name)
    not exists(status)
    contains(message, "html")
    contains(privileges, "SeDebug")
    "SeDebug" in privileges
    privileges[2] == "SeBackup"
    observables[1].value == "first"
    email["from"].endswith("@example.com")
    startswith(message, "PUT", "GET")
    matches(message, r"q=a%\\d+b")
    matches(user.name, "(?i)^root$")
    any_of(privileges, "x", "SeDebug")
    all_of(privileges, "SeBackup", "SeDebug")
    in_cidr(src_endpoint.ip, "192.168.0.0/16", "10.1.0.0/16")
    in_cidr(dst_endpoint.ip, "2001:db8::/32")
    in_cidr("::ffff:10.0.0.1", "10.0.0.0/8")
    in_cidr(src_endpoint.ip, "10.1.2.3")
    in_cidr(src_endpoint.ip, "0.0.0.0/0")
    is_private(src_endpoint.ip)
    not is_private(dst_endpoint.ip)
    is_private("fe80::1")
    is_ip(dst_endpoint.ip)
    in_domain(query.hostname, "other.org", "example.com")
    traffic.bytes_out / traffic.bytes_in == 10
    unmapped.one == 1
    unmapped.one == 1.0
    unmapped.yes == true
    unmapped.yes
    unmapped.yes and not unmapped.no
    unmapped.text == "abc"
    unmapped.text in ("abc", 5)
    unmapped.one in (1, 2)
    unmapped.float >= 2
    unmapped.float < unmapped.huge
    unmapped.object != unmapped.object
    unmapped["alert.gid"] == 7
    "a" in unmapped.list
    1 in unmapped.list
    "a" in unmapped.object
    "b" in "abc"
    message == "a" or
        # a comment
        class_uid == 4001
"""
# Nothing of this raises: wrong kinds and what is missing make tests false.
FALSE = """
    status == "ok"
    status == action
    status in ("ok",)
    status == action == disposition
    "x" in status
    status > "a"
    duration > 1
    1 < duration
    0 < duration + 1 < 5
    startswith(status, "a")
    matches(status, ".*")
    in_cidr(status, "0.0.0.0/0")
    in_cidr(message, "0.0.0.0/0")
    in_cidr("10.0.0.1", "::/0")
    in_cidr(unmapped.one, "0.0.0.0/0")
    in_domain("badexample.com", "example.com")
    is_ip(unmapped.list)
    is_private(unmapped.object)
    length(status) == 0
    any_of(unmapped.missing, "a")
    all_of(unmapped.text, "a")
    all_of(answers, "a")
    any_of(privileges, "se")
    unmapped.one and true
    unmapped.text or unmapped.list
    unmapped.yes == 1
    unmapped.no == 0
    unmapped.yes == unmapped.one
    unmapped.yes in (1, 2)
    unmapped.one in (true, false)
    unmapped.yes > 0
    unmapped.text > 1
    unmapped.one > "a"
    unmapped.text < unmapped.one
    unmapped.list == unmapped.object
    unmapped.list in ("a", "b")
    unmapped.object in (1, "b")
    true in unmapped.list
    unmapped.list in unmapped.list
    unmapped.missing == unmapped.missing
    startswith(unmapped.one, "1")
    matches(unmapped.list, "a")
    unmapped.huge == 1
    status in ()
    1 == 2
"""


def lines(block: str) -> list[str]:
    """The lines of `block`, those that are indented further joined with the one before."""
    found: list[str] = []
    for line in block.strip().splitlines():
        if line.startswith("        "):
            found[-1] += "\n" + line
        else:
            found.append(line.strip())
    return found


@pytest.mark.parametrize("text", lines(TRUE))
def test_true(text: str) -> None:
    assert value_of(text) is True


@pytest.mark.parametrize("text", lines(FALSE))
def test_false(text: str) -> None:
    # A bare attribute that is missing is none, which is not true either.
    assert value_of(text) is False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("-severity_id", -3),
        ("+5 - -5", 10),
        ("7 // 2", 3),
        ("-7 % 3", 2),
        ("7 / 2", 3.5),
        ("1 / 0", None),
        ("5 % (severity_id - 3)", None),
        ("severity_id + duration", None),
        ("9223372036854775807 + 1", None),
        ("9223372036854775807 * 9223372036854775807", None),
        ("1e308 * 10", None),
        ("unmapped.huge + 1", None),
        ("unmapped.huge / 1", None),
        ("unmapped.text - 1", None),
        ("unmapped.yes + 1", None),
        ("unmapped.text + unmapped.one", None),
        ("unmapped.text + 'd'", "abcd"),
        ('"big" if severity_id > 2 else "small"', "big"),
        ('"big" if unmapped.one else "small"', "small"),
        ("upper(user.name)", "ROOT"),
        ("user.name.lower().replace('o', '0').substring(1, 3)", "00"),
        ("lower(status)", None),
        ("strip('  a ')", "a"),
        ("'xxaxx'.strip('x')", "a"),
        ("length(privileges)", 2),
        ("length(unmapped.one)", None),
        ("split('a.b.c', '.', 0)", "a"),
        ("split('a.b.c', '.', 2)", "c"),
        ("split('a.b.c', '.', -1)", "c"),
        ("split('a.b.c', '.', 3)", None),
        ("split('a.b.c', '.', -4)", None),
        ("split('a.b.c', '', 0)", None),
        ("replace('aXbX', 'X', '--')", "a--b--"),
        ("substring('abcdef', -2)", "ef"),
        ("concat(user.name, ':', class_uid, is_alert)", "Root:4001true"),
        ("concat(user.name, status)", None),
        ("coalesce(status, action, 'none')", "none"),
        ("coalesce(status, user.name)", "Root"),
        ("coalesce(status, action)", None),
        (r"extract(message, 'q=(\\w+)%')", "a"),
        ("extract(message, '[a-z]+')", "index"),
        ("extract(message, '(?P<verb>[A-Z]+) /(.)', 'verb')", "GET"),
        ("extract(message, '(?P<verb>[A-Z]+) /(.)', 2)", "i"),
        ("extract(message, '(x)?GET')", None),
        ("extract(status, 'a')", None),
        ("int('0x10') + int(2.9) + int('-3')", 15),
        ("int('x')", None),
        ("int(1e300)", None),
        ("float('2.5')", 2.5),
        ("float('nan')", None),
        ("float(unmapped.list)", None),
        ("text(4001)", "4001"),
        ("text(true)", "true"),
        ("text(unmapped.huge)", None),
        ("bool('true')", True),
        ("bool(unmapped.one)", None),
        ("min(severity_id, 2)", 2),
        ("max(unmapped.list)", None),
        ("max(severity_id, duration)", None),
        ("max('a', 'b')", "b"),
        ("abs(-5)", 5),
        ("round(2.567, 2)", 2.57),
        ("round(2.5)", 2),
        ("domain(query.hostname)", "example.com"),
        ("domain(query.hostname, 1)", "com"),
        ("domain(src_endpoint.ip)", None),
        ("hour(time)", 21),
        ("weekday(time)", 6),
        ("hour(duration)", None),
        ("format_time(time, 'iso')", "2025-05-11T21:46:40.250Z"),
        ("format_time(time, 'date')", "2025-05-11"),
        ("format_time(unmapped.huge, 'iso')", None),
        ("base64_decode(split(process.cmd_line, ' ', -1))", "hi"),
        ("base64_decode('_-8')", None),
        ("base64_decode('a')", None),
        (f"base64_decode('{base64.b64encode('whoami'.encode('utf-16-le')).decode()}', 'utf-16')", "whoami"),
        ("url_decode(message)", "GET /index.html?q=a b"),
        ("json_get(unmapped.json, 'a.b.1')", None),  # too deep to be read
        ("json_get('{\"a\": {\"b\": [10, 20]}}', 'a.b.1')", 20),
        ("json_get(unmapped.object, 'a.b.2')", None),
        ("json_get('{', 'a')", None),
        ("entropy('abab')", 1.0),
        ("entropy('')", 0.0),
        ("privileges", ["SeDebug", "SeBackup"]),
        ("['a', 1, true]", ["a", 1, True]),
        ("null", None),
    ],
)
def test_values(text: str, expected: Any) -> None:
    found = value_of(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "column", "problem"),
    [
        ("", 1, "an expression is needed"),
        ("severty_id == 1", 1, 'unknown attribute "severty_id" in "severty_id"; did you mean "severity_id"?'),
        ("class_uid == 1 and\n user.nam == 'x'", 21, 'did you mean "name"?'),
        ("'é' == status and sttus == 'a'", 19, 'did you mean "status"?'),
        ("lowr(message)", 1, 'unknown function "lowr"; did you mean "lower"?'),
        ("message.startwith('a')", 9, 'unknown function "startwith"; did you mean "startswith"?'),
        ("lower", 1, '"lower" is a function; write lower(...)'),
        ("severity_id > 'high'", 15, "`severity_id` is a whole number and `'high'` is text; convert with int(...)"),
        ("status == 1", 11, "`status` is text and `1` is a whole number"),
        ("is_alert < true", 12, "cannot compare"),
        ("privileges == 'a'", 15, "`privileges` is a list"),
        ("class_uid in ('a', 'b')", 14, "`class_uid` is a whole number, and `'a'` is text"),
        ("'a' in class_uid", 8, "`class_uid` is a whole number; nothing is in it"),
        (
            "startswith(class_uid, 'a')",
            12,
            "startswith needs text: `class_uid` is a whole number; convert with text(...)",
        ),
        ("min(class_uid, 'a')", 16, "min needs arguments of one kind"),
        ("lower()", 1, "lower(text) takes 1 arguments, not 0"),
        ("split(message, ',')", 1, "takes 3 arguments, not 2"),
        ("lower(text=message)", 7, "arguments have no names"),
        ("matches(message, status)", 18, "matches needs a literal, not `status`"),
        ("matches(message, '(')", 18, "not a regular expression of RE2: missing )"),
        ("matches(message, '(a{1000}){1000}')", 18, "not a regular expression of RE2"),
        ("extract(message, '(a)', 2)", 18, 'has no group "2"; valid are: 0, 1'),
        ("in_cidr(src_endpoint.ip, '10.1.0.0/8')", 26, 'write "10.0.0.0/8"'),
        ("in_cidr(src_endpoint.ip, '10.1.0.0/33')", 26, "is not a network such as 10.0.0.0/8"),
        ("format_time(time, 'isoo')", 19, 'unknown format "isoo"; did you mean "iso"?'),
        ("status and true", 1, "`status` is text, not true or false; use coalesce(...)"),
        ("message + 1", 1, '"+" does not work on text and a whole number; use concat(...)'),
        ("'a' * 1000", 1, '"*" does not work on text'),
        ("'%1000d' % 5", 1, '"%" does not work on text'),
        ("2 ** 9", 1, 'unknown operator "**"'),
        ("status & action", 1, 'did you mean "and"?'),
        ("is_alert && is_mfa", 10, 'unknown operator "&&"; did you mean "and"?'),
        ("email.from == 'a'", 7, 'write ["from"]'),
        ("status = 'a'", 1, "Maybe you meant '=='"),
        ("(status := 'a')", 2, "nothing can be assigned"),
        ("src_endpoint", 1, "is an object"),
        ("observables.value", 1, "write observables[1]"),
        ("observables[0].value", 1, "elements count from 1"),
        ("observables[severity_id].value", 1, "only [1]"),
        ("message[1:2]", 1, "use substring(text, start, end)"),
        ("'a'.b", 1, "a value has no attributes"),
        ("lower(message).__class__", 1, "a value has no attributes"),
        ("unmapped.__class__", 1, '"__class__" cannot be the name'),
        ("__import__('os')", 1, 'unknown function "__import__"'),
        ("open('x')", 1, 'unknown function "open"'),
        ("lower(message)(1)", 1, "only functions can be called"),
        ("lambda: 1", 1, "functions cannot be defined"),
        ("[x for x in privileges]", 1, "loops are not part of the language"),
        ("x for x in privileges", 1, "loops are not part of the language"),
        ("any(x for x in privileges)", 1, 'unknown function "any"'),
        ("f'{message}'", 1, "f-strings are not part of the language"),
        ("concat(*privileges)", 8, "there is nothing to unpack"),
        ("{'a': 1}", 1, "objects cannot be written"),
        ("[message]", 2, "a list has only text"),
        ("b'a'", 1, "bytes is not part of the language"),
        ("99999999999999999999", 1, "more than 64 bits"),
        ("1e999", 1, "more than 64 bits"),
        ("a) + (b", 2, "the brackets do not match"),
        ("a] + [b", 1, "the brackets do not match"),
        ("status, action", 1, "one expression is needed"),
        ("'a", 1, "unterminated string literal"),
        ("x" * 4097, 4097, "longer than 4096 characters"),
        ("-" * 4000 + "1", 1, ""),
        ("(" * 1000, 1, ""),
        ("a\0b", 1, ""),
        ("\ud800", 1, ""),
        ("not " * 40 + "is_alert", 129, "more than 32 levels"),
        ("1+" * 300 + "1", 1, "more than 512 parts"),
    ],
)
def test_refused(text: str, column: int, problem: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text)
    assert problem in caught.value.problem
    assert caught.value.column == column or not problem
    assert str(caught.value) == f"column {caught.value.column}: {caught.value.problem}"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("severity_id == 1", "(v0 == 1)"),
        ("severity_id >= 3", "(v0 is not None and v0 >= 3)"),
        ("status in ('a', 'b')", "(v0 in {'a', 'b'})"),
        ("is_alert and severity_id == 1 or is_alert", "((v0 and (v1 == 1)) or v0)"),
        ("startswith(message, 'a')", "(v0 is not None and v0.startswith('a'))"),
        ("exists(message)", "(v0 is not None)"),
    ],
)
def test_frequent_code_is_plain_python_without_helpers(text: str, code: str) -> None:
    expression = compile_expression(text)
    assert expression.code == code
    assert expression.names == {}


def test_paths_are_in_order_of_first_use_and_kinds_are_known() -> None:
    expression = compile_expression("user.name == 'a' and unmapped['x.y'][2].z == src_endpoint.ip or user.name == 'b'")
    assert expression.paths == ("user.name", 'unmapped["x.y"][2].z', "src_endpoint.ip")
    assert [steps_of(path) for path in expression.paths] == [
        ("user", "name"),
        ("unmapped", "x.y", 1, "z"),
        ("src_endpoint", "ip"),
    ]
    assert steps_of(compile_expression(r'unmapped["a\"b\\c"]').paths[0]) == ("unmapped", 'a"b\\c')
    kinds = {
        "user.name": "text",
        "severity_id": "int",
        "severity_id / 2": "float",
        "severity_id + 2": "int",
        "is_alert": "bool",
        "privileges": "list",
        "privileges[1]": "text",
        "codes[1]": "int",
        "unmapped.x": "any",
        "answers[1].rdata": "text",
        "coalesce(severity_id, 1.5)": "float",
        "coalesce(none, status)": "text",
        "1 if is_alert else 'a'": "any",
        "round(1.5)": "int",
    }
    assert {text: compile_expression(text).kind for text in kinds} == kinds


def test_names_stand_for_the_same_thing_in_all_expressions() -> None:
    one = compile_expression("in_cidr(src_endpoint.ip, '10.0.0.0/8') or matches(message, 'a')")
    two = compile_expression("in_cidr(src_endpoint.ip, '11.0.0.0/8') or matches(message, 'b') or lower(status) == 'a'")
    assert not one.names.keys() & two.names.keys()
    assert compile_expression(one.text).names.keys() == one.names.keys()
    assert len(one.names) == 2


def test_attributes_may_come_from_elsewhere() -> None:
    def attribute(path: str) -> Attribute:
        if path != "count":
            raise LookupError(f'unknown column "{path}"; valid are: count')
        return Attribute(kind="int", observable=None, many=False)

    assert evaluator(compile_expression("count > 5", attribute))({"count": 6}.get) is True
    with pytest.raises(ExpressionError, match='column 9: unknown column "sum"; valid are: count'):
        compile_expression("count > sum", attribute)
