"""Examples of the gateway, with targets `geo`, `away` and `prices` in its configuration."""

from __future__ import annotations

from tidegate.edges.examples import Exchange, exchanges, problem

__all__ = ["CALL", "CANCEL", "CHANNELS", "CLOSE", "ESTABLISH", "EVENT", "LOOK", "STREAM"]

_ASKED = {"target": "geo", "operation": "GET /countries?ip=203.0.113.9"}
_LATER = {"target": "away", "operation": "GET /countries", "mode": "async", "timeout_seconds": 600}
_NO_TARGET = problem(404, "Not found", "there is no target 'nothing'")
_REFUSED = "cannot be reached: Cannot connect to host geo.internal:443"

CALL = exchanges(
    now=Exchange(
        body=_ASKED,
        answer={
            "result": {"country": "CH"},
            "status": "200",
            "attempts": 1,
            "hedged": False,
            "fallback": False,
            "seconds": 0.014,
        },
    ),
    later=Exchange(
        body={**_ASKED, "mode": "async"},
        parameters={"Idempotency-Key": "lookup-7"},
        status=202,
        answer={"id": "lookup-7", "status": "accepted"},
    ),
    much_later=Exchange(
        body=_LATER,
        parameters={"Idempotency-Key": "lookup-8"},
        status=202,
        answer={"id": "lookup-8", "status": "accepted"},
    ),
    unknown=Exchange(body={"target": "nothing", "operation": "GET /"}, status=404, answer=_NO_TARGET),
    away=Exchange(
        body={"target": "away", "operation": "GET /countries"},
        status=503,
        answer=problem(503, "Unavailable", _REFUSED, failure="unreachable", attempts=3),
    ),
)
LOOK = exchanges(
    ended=Exchange(
        parameters={"call_id": "lookup-7"},
        answer={
            "id": "lookup-7",
            "status": "succeeded",
            "attempts": 1,
            **_ASKED,
            "result": {"country": "CH"},
            "accepted_ms": 1777889472000,
            "ended_ms": 1777889472109,
        },
    ),
    unknown=Exchange(
        parameters={"call_id": "lookup-9"},
        status=404,
        answer=problem(404, "Not found", "there is no call 'lookup-9', or it was forgotten"),
    ),
)
CANCEL = exchanges(
    waiting=Exchange(parameters={"call_id": "lookup-8"}, answer={"id": "lookup-8", "status": "cancelled"}),
    ended=Exchange(
        parameters={"call_id": "lookup-7"},
        status=409,
        answer=problem(409, "Refused", "the call 'lookup-7' has succeeded already", refusal="ended"),
    ),
)
EVENT = exchanges(
    logged=Exchange(
        body={"event_type": "invoice.paid", "correlation_id": "case-8", "data": {"user": "mira"}},
        status=202,
        answer={"to": ["log"], "positions": ["INGEST/0/10"]},
    ),
    live=Exchange(body={"event_type": "realtime.price", "data": {"price": 3}}, status=202, answer={"to": ["realtime"]}),
)
_NAME = {"name": "prices-eu"}
_OTHER = {"name": "other"}
ESTABLISH = exchanges(
    prices=Exchange(
        body={"target": "prices", "topic": "eu", "name": "prices-eu", "source": "prices"},
        status=202,
        answer={"name": "prices-eu", "status": "requested"},
    ),
    unknown=Exchange(body={"target": "nothing"}, status=404, answer=_NO_TARGET),
)
STREAM = exchanges(
    known=Exchange(
        parameters=_NAME,
        answer={
            "status": "established",
            "endpoint": {"target": "prices", "topic": "eu", "source": "prices", "by": "5662c36b4b6b9ea4"},
            "since_ms": 1777889472000,
        },
    ),
    unknown=Exchange(
        parameters=_OTHER,
        status=404,
        answer=problem(404, "Not found", "there is no connection 'other', or it was forgotten"),
    ),
)
CLOSE = exchanges(
    known=Exchange(parameters=_NAME, answer={"name": "prices-eu", "status": "closed"}),
    unknown=Exchange(
        parameters=_OTHER,
        status=404,
        answer=problem(404, "Not found", "there is no connection 'other'", refusal="unknown"),
    ),
)
CHANNELS = exchanges(
    all=Exchange(
        answer={
            "channels": [
                {
                    "target": "geo",
                    "protocol": "rest",
                    "address": "https://geo.internal/v2",
                    "breaker": "closed",
                    "running": 0,
                    "waiting": 0,
                    "calls": 3,
                    "errors": 1,
                    "attempts": 5,
                    "retries": 2,
                    "hedges": 0,
                    "hedges_won": 0,
                    "fallbacks": 0,
                    "bytes_out": 0,
                    "bytes_in": 32,
                    "p50_ms": 18.3,
                    "p99_ms": 18.3,
                    "last_error": _REFUSED,
                    "last_error_ms": 1777889472000,
                }
            ]
        }
    )
)
