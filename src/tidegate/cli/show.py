"""How records look on a terminal: one line each."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

__all__ = ["one_line"]

SEVERITIES = {0: "unknown", 1: "info", 2: "low", 3: "medium", 4: "high", 5: "critical", 6: "fatal", 99: "other"}


def one_line(subject: str, record: bytes) -> str:
    """An event, a dead letter or any other record, readably."""
    try:
        value = msgspec.json.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    if isinstance(value, dict) and "class_uid" in value and isinstance(value.get("metadata"), dict):
        return f"{subject}  {event_line(value)}"
    if isinstance(value, dict) and value.get("type", "").startswith("dead."):
        return f"{subject}  {value.get('id')} {value.get('source', '')} {value.get('stage', '')}/{value.get('rule', '')}: {value.get('error', '')}"  # noqa: E501
    text = record.decode(errors="backslashreplace")
    return f"{subject}  {text[:200]}{'...' if len(text) > 200 else ''}"


def event_line(event: dict[str, Any]) -> str:
    """Time, class, severity, source, who and what of an OCSF event."""
    when = datetime.datetime.fromtimestamp(event.get("time", 0) / 1000, datetime.UTC)
    source = _endpoint(event.get("src_endpoint"))
    target = _endpoint(event.get("dst_endpoint"))
    user = ((event.get("actor") or {}).get("user") or event.get("user") or {}).get("name", "")
    host = (event.get("device") or {}).get("hostname", "")
    parts = [
        when.strftime("%Y-%m-%d %H:%M:%S"),
        f"class {event['class_uid']}",
        SEVERITIES.get(event.get("severity_id", 0), "?"),
        event["metadata"].get("log_source") or event["metadata"].get("product", {}).get("name", ""),
        f"{source} -> {target}" if target else source,
        f"user {user}" if user else "",
        f"on {host}" if host else "",
        str(event.get("message", ""))[:80],
        event["metadata"].get("uid", ""),
    ]
    return "  ".join(part for part in parts if part)


def _endpoint(endpoint: dict[str, Any] | None) -> str:
    if not endpoint:
        return ""
    name = str(endpoint.get("ip") or endpoint.get("hostname") or "")
    return f"{name}:{endpoint['port']}" if "port" in endpoint and name else name
