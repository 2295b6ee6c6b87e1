"""Examples of storage-manager."""

from __future__ import annotations

from tidegate.edges.examples import Exchange, exchanges, problem
from tidegate.edges.examples.events import INVOICE

__all__ = ["COUNTS", "EVENT", "EVENTS", "POSITIONS", "SQL"]

EVENT = exchanges(
    known=Exchange(parameters={"event_id": "invoice-1"}, answer=INVOICE),
    unknown=Exchange(
        parameters={"event_id": "invoice-9"},
        status=404,
        answer=problem(404, "Not found", "there is no event 'invoice-9' in hot, warm and lake"),
    ),
)
EVENTS = exchanges(
    correlation=Exchange(
        parameters={"correlation_id": "case-7", "limit": 1},
        answer={
            "tier": "hot",
            "count": 1,
            "complete": True,
            "next": "WyJob3QiLCJpbnZvaWNlLTEiLDFd",
            "events": [INVOICE],
        },
    ),
    observable=Exchange(
        parameters={"observable": "10.0.0.9", "since": "7d", "tier": "hot"},
        answer={"tier": "hot", "count": 0, "complete": True, "events": []},
    ),
    neither=Exchange(
        parameters={"limit": 10},
        status=400,
        answer=problem(400, "Bad request", "give exactly one of correlation_id and observable"),
    ),
)
COUNTS = exchanges(
    hour=Exchange(
        parameters={"since": "1h"},
        answer={
            "tier": "hot",
            "counts": [{"minute_ms": 1777889460000, "class_uid": 0, "severity_id": 0, "count": 4}],
        },
    ),
    unreadable=Exchange(
        parameters={"since": "yesterday"},
        status=400,
        answer=problem(400, "Bad request", "'yesterday' is no time; use RFC 3339, or 15m, 2h, 7d"),
    ),
)
SQL = exchanges(
    classes=Exchange(
        body={"sql": "SELECT class_uid, count(*) AS events FROM events GROUP BY 1"},
        answer={"columns": ["class_uid", "events"], "rows": [[0, 12]], "truncated": False},
    ),
    writing=Exchange(
        body={"sql": "DELETE FROM events"},
        status=400,
        answer=problem(400, "Bad request", "one SELECT is allowed, and nothing else"),
    ),
)
_CREATED = "2026-05-04T08:00:00.381269271Z"


def _cell(sequence: int, count: int) -> dict[str, object]:
    position = {
        "stream": "LOG",
        "created": _CREATED,
        "sequence": sequence,
        "count": count,
        "digest": 4725819930,
        "frame_digest": 1997389882,
        "left_out": 0,
    }
    return {"position": position, "newest": sequence}


POSITIONS = exchanges(
    all=Exchange(
        answer={
            "log": {
                "name": "LOG",
                "created": _CREATED,
                "first_sequence": 1,
                "last_sequence": 394,
                "messages": 199,
                "bytes": 73388,
            },
            "tiers": {
                "hot": {"0": _cell(119, 3), "1": _cell(120, 4), "2": _cell(351, 2), "3": _cell(356, 10)},
                "lake": {"all": _cell(356, 19)},
            },
            "unavailable": {},
        }
    )
)
