"""Examples of event-streaming: publishing, following, entities."""

from __future__ import annotations

import msgspec

from tidegate.edges.examples import Exchange, exchanges, problem

__all__ = ["COMMAND", "ENTITY", "INVOICE", "PUBLISH", "PUBLISH_OF_SOURCE", "STATUS", "STREAM"]

_ENVELOPE = {
    "source": "billing",
    "event_id": "invoice-1",
    "event_type": "invoice.paid",
    "correlation_id": "case-7",
    "timestamp": "2026-05-04T10:11:12Z",
    "data": {"user": "mira", "amount": 12},
}
_LINE = msgspec.json.encode(_ENVELOPE).decode()
_SURICATA = {
    "timestamp": "2026-05-04T10:11:12.000000+0000",
    "event_type": "dns",
    "flow_id": 77,
    "proto": "UDP",
    "src_ip": "10.0.0.5",
    "src_port": 53111,
    "dest_ip": "10.0.0.53",
    "dest_port": 53,
    "dns": {"type": "query", "rrname": "example.com", "rrtype": "A"},
}
INVOICE = {
    "class_uid": 0,
    "category_uid": 0,
    "activity_id": 0,
    "type_uid": 0,
    "severity_id": 0,
    "time": 1777889472000,
    "metadata": {
        "version": "1.8.0",
        "product": {"name": "billing"},
        "uid": "invoice-1",
        "correlation_uid": "case-7",
        "log_source": "billing",
        "original_time": "2026-05-04T10:11:12Z",
        "event_code": "invoice.paid",
    },
    "unmapped": {"user": "mira", "amount": 12},
}
"""The event that the envelope becomes."""
_NDJSON = "application/x-ndjson"
_REFUSED = {"index": 1, "reason": "not valid JSON: Input data was truncated"}


def _stored(records: int, **more: object) -> dict[str, object]:
    return {"position": "INGEST/2/41", "positions": ["INGEST/2/41"], "records": records, "duplicate": False, **more}


PUBLISH = exchanges(
    one=Exchange(body=_ENVELOPE, status=202, answer=_stored(1)),
    several=Exchange(body=[{**_ENVELOPE, "event_id": "invoice-2"}, {"data": {"n": 2}}], status=202, answer=_stored(2)),
    native=Exchange(body=_SURICATA, parameters={"source": "suricata"}, status=202, answer=_stored(1)),
    lines=Exchange(
        body=f"{_LINE}\n{_LINE}\n",
        media_type=_NDJSON,
        parameters={"Idempotency-Key": "batch-1"},
        status=202,
        answer=_stored(2),
    ),
    one_of_two=Exchange(
        body=f'{_LINE}\n{{"data":\n',
        media_type=_NDJSON,
        status=202,
        answer=_stored(1, refused=[_REFUSED], refused_count=1),
    ),
    text=Exchange(
        body="May  4 10:11:14 gw sshd[812]: Failed password for root",
        media_type="text/plain",
        parameters={"source": "sshd"},
        status=202,
        answer=_stored(1),
    ),
    unreadable=Exchange(
        body='{"data":\n',
        media_type=_NDJSON,
        status=400,
        answer=problem(
            400, "Bad request", "not valid JSON: Input data was truncated",
            positions=[], records=0, duplicates=0, refused=[{**_REFUSED, "index": 0}], refused_count=1,
        ),
    ),
)  # fmt: skip
PUBLISH_OF_SOURCE = {
    name: msgspec.structs.replace(one, parameters={"source": "billing", **one.parameters})
    for name, one in PUBLISH.items()
}
STREAM = exchanges(
    beginning=Exchange(
        parameters={"start": "start", "source": "billing"},
        answer=f"id: 53-0\nevent: event\ndata: {msgspec.json.encode(INVOICE).decode()}\n\n",
    ),
    nowhere=Exchange(
        parameters={"start": "yesterday"},
        status=400,
        answer=problem(400, "Bad request", "start: 'yesterday' is no time; use RFC 3339, or 15m, 2h, 7d"),
    ),
)
_ALERT = {"kind": "alert", "entity_id": "intrusion-1"}
_UNKNOWN = {"kind": "alert", "entity_id": "intrusion-9"}
_ACKNOWLEDGE = {"type": "alert.acknowledge.v1", "by": "mira"}
COMMAND = exchanges(
    raised=Exchange(
        parameters=_ALERT,
        body={
            "command": {"type": "alert.raise.v1", "title": "Beaconing", "severity": 4, "by": "mira"},
            "command_id": "raise-1",
        },
        answer={
            "id": "intrusion-1",
            "version": 1,
            "sequence": 130,
            "events": [
                {
                    "type": "alert.raised.v1",
                    "time_ms": 1777889472000,
                    "title": "Beaconing",
                    "severity": 4,
                    "by": "mira",
                }
            ],
        },
    ),
    acknowledged=Exchange(
        parameters=_ALERT,
        body={"command": _ACKNOWLEDGE, "expected_version": 1},
        answer={
            "id": "intrusion-1",
            "version": 2,
            "sequence": 133,
            "events": [{"type": "alert.acknowledged.v1", "time_ms": 1777889473000, "by": "mira"}],
        },
    ),
    late=Exchange(
        parameters=_ALERT,
        body={"command": {"type": "alert.resolve.v1", "by": "mira"}, "expected_version": 1},
        status=409,
        answer=problem(409, "Refused", "version 1 was expected, but it is 2", refusal="version"),
    ),
    unknown=Exchange(
        parameters=_UNKNOWN,
        body={"command": _ACKNOWLEDGE},
        status=404,
        answer=problem(
            404, "Not found", "nothing is known of an alert 'intrusion-9'", refusal="unknown"
        ),
    ),
)  # fmt: skip
ENTITY = exchanges(
    alert=Exchange(
        parameters=_ALERT,
        answer={
            "id": "intrusion-1",
            "version": 2,
            "sequence": 138,
            "state": {
                "status": "acknowledged",
                "title": "Beaconing",
                "severity": 4,
                "raisings": 1,
                "raised_ms": 1777889472000,
                "raised_by": "mira",
                "last_raised_ms": 1777889472000,
                "acknowledged_ms": 1777889473000,
                "acknowledged_by": "mira",
            },
        },
    ),
    unknown=Exchange(
        parameters=_UNKNOWN,
        status=404,
        answer=problem(404, "Not found", "nothing is known of alert 'intrusion-9'"),
    ),
)
STATUS = exchanges(
    administrator=Exchange(
        answer={
            "ready": True,
            "waiting_for": "",
            "principal": {
                "id": "5662c36b4b6b9ea4",
                "scopes": ["publish", "subscribe", "query", "command", "admin"],
            },
            "sections": {
                "streams": [
                    {
                        "stream": "LOG",
                        "frames": 71,
                        "MB": 0.1,
                        "first": 1,
                        "last": 139,
                        "created": "2026-05-04T08:00:00",
                    }
                ]
            },
        }
    )
)
