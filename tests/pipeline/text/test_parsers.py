"""The parsers of the formats by themselves: headers, quotes, escapes, delimiters, types."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipeline.text.samples import AUDIT, VPC, ZEEK
from tidegate.errors import RecordError
from tidegate.pipeline.functions import to_ms
from tidegate.pipeline.lines.auditd import audit_key, gather_auditd
from tidegate.pipeline.lines.base import Assembled
from tidegate.pipeline.lines.cef import parse_cef
from tidegate.pipeline.lines.cisco import parse_cisco
from tidegate.pipeline.lines.csvline import Columns, csv_parser
from tidegate.pipeline.lines.keyvalue import pairs, parse_keyvalue
from tidegate.pipeline.lines.leef import parse_leef
from tidegate.pipeline.lines.syslog import parse_syslog, priority, split_header
from tidegate.pipeline.lines.vpcflow import gather_vpcflow
from tidegate.pipeline.lines.zeek import gather_zeek


def _at(moment: str) -> int:
    found = to_ms(moment)
    assert found is not None
    return found


NOW = _at("2025-06-15T12:00:00Z")


@pytest.mark.parametrize(
    ("received", "written", "meant"),
    [
        ("2025-06-15T12:00:00Z", "Jun 15 12:00:00", "2025-06-15T12:00:00"),
        ("2025-01-01T00:00:10Z", "Dec 31 23:59:58", "2024-12-31T23:59:58"),
        ("2024-12-31T23:59:59Z", "Jan  1 00:00:02", "2025-01-01T00:00:02"),
        ("2025-06-15T23:00:00Z", "Jun 16 13:00:00", "2025-06-16T13:00:00"),
        ("2025-06-15T12:00:00Z", "Jun 17 12:00:00", "2024-06-17T12:00:00"),
        ("2025-03-01T00:00:00Z", "Feb 29 10:00:00", "2024-02-29T10:00:00"),
        ("1970-01-01T00:00:00Z", "Jan  1 00:00:00", "1970-01-01T00:00:00"),
        ("2025-06-15T12:00:00Z", "Jun 15 2019 12:00:00", "2019-06-15T12:00:00"),
        ("2025-06-15T12:00:00Z", "2025-06-15T12:00:00.5+02:00", "2025-06-15T12:00:00.5+02:00"),
    ],
)
def test_the_year_of_a_syslog_time_follows_from_its_reception(received: str, written: str, meant: str) -> None:
    header, rest = split_header(f"<13>{written} web1 app: text", _at(received))
    assert header == {"priority": 13, "facility": "user", "severity": 5, "time": meant, "host": "web1"}
    assert rest == "app: text"


@pytest.mark.parametrize(
    ("number", "facility", "severity"), [(0, "kern", 0), (34, "auth", 2), (86, "authpriv", 6), (191, "local7", 7)]
)
def test_a_priority_is_a_facility_and_a_severity(number: int, facility: str, severity: int) -> None:
    assert priority(number) == {"priority": number, "facility": facility, "severity": severity}
    assert priority(number + 192) == {}


@pytest.mark.parametrize(
    ("line", "header", "message"),
    [
        ("Feb 30 10:00:00 web1 app: x", {"app": "Feb"}, None),
        ("<999>app[12]: x", {}, "<999>app[12]: x"),
        ("<13>app[12]: x", {"priority": 13, "facility": "user", "severity": 5, "app": "app", "pid": "12"}, "x"),
        ("no header at all", {}, "no header at all"),
        ("23 <13>app[12]: x", {"priority": 13, "facility": "user", "severity": 5, "app": "app", "pid": "12"}, "x"),
        ("", {}, ""),
        (
            "Jun 15 12:00:00 web1 postfix/smtpd[9]: connect",
            {"time": "2025-06-15T12:00:00", "host": "web1", "app": "postfix/smtpd", "pid": "9"},
            "connect",
        ),
        (
            "Jun 15 12:00:00 fe80::1 last message repeated 2 times",
            {"time": "2025-06-15T12:00:00", "host": "fe80::1"},
            "last message repeated 2 times",
        ),
        (
            '<34>1 2025-06-15T12:00:00Z h su - ID47 [a@1 k="q\\"b\\]c" l=""][b x="]"] \ufeffmsg',
            {
                "priority": 34,
                "facility": "auth",
                "severity": 2,
                "time": "2025-06-15T12:00:00Z",
                "host": "h",
                "app": "su",
                "msgid": "ID47",
                "data": {"a@1": {"k": 'q"b]c', "l": ""}, "b": {"x": "]"}},
            },
            "msg",
        ),
        ("<34>1 - - - - - - msg", {"priority": 34, "facility": "auth", "severity": 2}, "msg"),
        ('<34>1 - - - - - [a k="open msg', {"priority": 34, "facility": "auth", "severity": 2}, '[a k="open msg'),
    ],
)
def test_syslog_headers(line: str, header: dict[str, Any], message: str | None) -> None:
    record = parse_syslog(line, NOW)
    if message is not None:
        assert record.get("syslog", {}) == header
        assert record["message"] == message
    else:
        assert "time" not in record.get("syslog", {})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=1 b=two", {"a": "1", "b": "two"}),
        ('a="two words" b=\'x y\' c=""', {"a": "two words", "b": "x y", "c": ""}),
        (r'a="q\"uote" b="C:\\temp" c="\d"', {"a": 'q"uote', "b": "C:\\temp", "c": "\\d"}),
        ("a=one two three b=4", {"a": "one two three", "b": "4"}),
        ("a=1 a=2 a=3", {"a": "1", "repeated": ["a=2", "a=3"]}),
        ("loose a=1", {"a": "1", "text": "loose"}),
        ('a="open b=2', {"a": '"open', "b": "2"}),
        ("a=b=c ==x", {"a": "b=c ==x"}),
        ("", {}),
    ],
)
def test_pairs(text: str, found: dict[str, Any]) -> None:
    assert pairs(text) == found


def test_date_and_time_are_one_where_there_is_no_other() -> None:
    record = parse_keyvalue('<5>date=2025-06-15 time=12:00:00 tz="+0200" a=1', NOW)
    assert (record["timestamp"], record["syslog"]["priority"]) == ("2025-06-15T12:00:00+0200", 5)
    assert parse_keyvalue("date=2025-99-15 time=12:00:00", NOW) == {"date": "2025-99-15", "time": "12:00:00"}


def test_csv_names_columns_by_type_and_count() -> None:
    parse = csv_parser(Columns(by=1, names={"A": ["", "kind", "x"], "A/4": ["n", "kind", "y", "z"], "*": ["n"]}))
    assert parse('1,A,"a,b ""c"""', NOW) == {"kind": "A", "x": 'a,b "c"', "column_0": "1"}
    assert parse("1,A,2,3", NOW) == {"n": "1", "kind": "A", "y": "2", "z": "3"}
    assert parse("1,B,,3", NOW) == {"n": "1", "column_1": "B", "column_3": "3"}


def test_cef_escapes_and_labels() -> None:
    record = parse_cef(
        r"CEF:1|V\\|P\|Q|1|id|a \| b|5|msg=x\=y \\ z\nline two  cs1Label=My Label cs1=v w  cn1Label= cn1=3 "
        "a.b[0]=1 msg=again",
        NOW,
    )
    assert record == {
        "deviceVendor": "V\\",
        "deviceProduct": "P|Q",
        "deviceVersion": "1",
        "deviceEventClassId": "id",
        "name": "a | b",
        "severity": "5",
        "msg": "again",
        "repeated": ["msg=x=y \\ z\nline two"],
        "custom": {"My Label": "v w"},
        "cn1Label": "",
        "cn1": "3",
        "a.b[0]": "1",
    }


@pytest.mark.parametrize(
    "line",
    [
        "LEEF:2.0|V|P|1|E|^|a=1^b=two words",
        "LEEF:2.0|V|P|1|E|x5E|a=1^b=two words",
        "LEEF:2.0|V|P|1|E|0x5e|a=1^b=two words",
        "LEEF:2.0|V|P|1|E||a=1\tb=two words",
        "LEEF:2.0|V|P|1|E|a=1\tb=two words",
        "LEEF:1.0|V|P|1|E|a=1\tb=two words",
        "LEEF:1.0|V|P|1|E|a=1 b=two words",
    ],
)
def test_leef_delimiters(line: str) -> None:
    assert parse_leef(line, NOW) == {
        "a": "1",
        "b": "two words",
        "leef": {"vendor": "V", "product": "P", "version": "1", "event_id": "E"},
    }


@pytest.mark.parametrize(
    "header", ["", "<166>", "<166>Jun 15 2025 12:00:00: ", "<166>:Jun 15 2025 12:00:00 UTC: ", "Jun 15 12:00:00 fw1 : "]
)
def test_headers_of_cisco(header: str) -> None:
    record = parse_cisco(f"{header}%ASA-6-302013: Built x", NOW)
    assert (record["message_id"], record["level"], record["message"]) == ("302013", 6, "Built x")
    assert record.get("syslog", {}).get("time") == ("2025-06-15T12:00:00" if "Jun" in header else None)
    assert record.get("syslog", {}).get("host") == ("fw1" if "fw1" in header else None)


def _all(gathered: list[Any]) -> list[Any]:
    return [each.build() if isinstance(each, Assembled) else each for each in gathered]


def test_zeek_values_have_the_types_of_the_header() -> None:
    found = _all(gather_zeek(ZEEK, NOW))
    assert [each for each in found if isinstance(each, str)] == ["header"] * 9
    assert found[8] == {
        "_path": "dns",
        "ts": 1750000000.123456,
        "uid": "Cabc",
        "id.orig_h": "10.0.0.5",
        "id.orig_p": 53000,
        "id.resp_h": "192.0.2.53",
        "id.resp_p": 53,
        "proto": "udp",
        "trans_id": 4711,
        "query": "ex\tample.org",
        "qtype_name": "A",
        "rcode": 0,
        "rcode_name": "NOERROR",
        "AA": False,
        "answers": ["203.0.113.80", "a,b"],
        "TTLs": [30.0, 60.5],
        "rejected": False,
    }
    assert found[9]["answers"] == []
    assert "query" not in found[9]


def test_a_second_zeek_header_holds_from_there_on() -> None:
    other = ["#separator ,", "#fields,ts,x", "#types,time,set[count]", "1.5,1"]
    found = _all(gather_zeek([*ZEEK, *other], NOW))
    assert found[8]["_path"] == "dns"
    assert found[-1] == {"ts": 1.5, "x": [1]}


@pytest.mark.parametrize("line", ["1.0\tx", "now" + "\t-" * 15, "1.0" + "\t-" * 14 + "\tmaybe", ""])
def test_a_zeek_line_that_its_header_does_not_fit_is_refused(line: str) -> None:
    *_, last = gather_zeek([*ZEEK[:8], line], NOW)
    assert isinstance(last, Assembled)
    with pytest.raises(RecordError, match=r"field|number|T nor F"):
        last.build()


def test_lines_of_one_audit_event_are_one_record_even_out_of_order() -> None:
    lines = [AUDIT[7], AUDIT[3], *AUDIT[:3], AUDIT[6], *AUDIT[4:6], "garbage", None]
    found = gather_auditd(lines, NOW)
    assert [type(each).__name__ for each in found].count("Assembled") == 3
    assert found[-1] is None
    connect, execve = _all(found[:2])
    assert connect["address"] == {"family": "inet", "port": 443, "ip": "203.0.113.80"}
    assert (execve["type"], execve["argv"]) == ("SYSCALL", ["sh", "-c", "echo hi & ", "x"])
    assert (execve["cwd"], execve["proctitle"], execve["node"]) == ("/root", "sh -c", "web1")


@pytest.mark.parametrize(
    ("saddr", "address"),
    [
        ("02000050A9FEA9FE0000000000000000", {"family": "inet", "port": 80, "ip": "169.254.169.254"}),
        (
            "0A0001BB0000000020010DB800000000000000000000000500000000",
            {"family": "inet6", "port": 443, "ip": "2001:db8::5"},
        ),
        ("01002F7661722F72756E2F736F636B0000", {"family": "unix", "path": "/var/run/sock"}),
        ("0100002F78", {"family": "unix", "path": "/x"}),
        ("100000000000000000000000", {"family": "netlink", "raw": "100000000000000000000000"}),
        ("02", {"raw": "02"}),
        ("zz", {"raw": "zz"}),
    ],
)
def test_socket_addresses(saddr: str, address: dict[str, Any]) -> None:
    (found,) = _all(gather_auditd([f"type=SOCKADDR msg=audit(1.000:1): saddr={saddr}"], NOW))
    assert found["address"] == address


def test_hexadecimal_is_decoded_only_where_it_is_one() -> None:
    line = (
        'type=X msg=audit(1.000:1): comm="6162" exe=2F62696E2F61FF name=abc a0=6162 key=(null) auid=4294967295 acct=?'
    )
    (found,) = _all(gather_auditd([line], NOW))
    assert found == {
        "comm": "6162",
        "exe": "/bin/a\\xff",
        "name": "abc",
        "a0": "6162",
        "type": "X",
        "audit_id": "1.000:1",
        "time": "1.000",
    }


def test_audit_lines_in_the_log_of_the_kernel() -> None:
    line = 'Jun 15 12:00:00 web1 kernel: [ 1.5] audit: type=1400 audit(1.000:1): apparmor="DENIED" comm="x"'
    (found,) = _all(gather_auditd([line], NOW))
    assert (found["type"], found["apparmor"]) == ("AVC", "DENIED")
    assert found["syslog"] == {"time": "2025-06-15T12:00:00", "host": "web1"}


def test_the_audit_key_is_what_the_lines_of_an_event_share() -> None:
    assert {audit_key(line) for line in AUDIT[:6]} == {"1750000000.123:77"}
    assert audit_key("type=X msg=audit(x)") is None


def test_vpc_lines_without_header_have_the_default_fields() -> None:
    line = "2 123456789012 eni-0a 10.0.0.5 203.0.113.80 51000 443 6 20 5120 1749999940 1750000000 ACCEPT OK"
    (found,) = _all(gather_vpcflow([line], NOW))
    assert (found["srcaddr"], found["dstport"], found["log_status"]) == ("10.0.0.5", 443, "OK")
    (other,) = gather_vpcflow([VPC[1]], NOW)
    assert isinstance(other, Assembled)
    with pytest.raises(RecordError, match="without a header line there are 14"):
        other.build()
