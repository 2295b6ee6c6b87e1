"""Zeek JSON records in two shapes, as templates that are filled by a conversation's values.

Invariant: the records of one connection share its `uid`, and `community_id` is the one that Suricata shows. Unlike a
live Zeek, `conn` is written when the connection begins, so that `ts` never runs backwards.
"""

from __future__ import annotations

from typing import Any

from tidegate.generator.template import template

__all__ = ["DNS", "HTTP", "NOTICES", "PROBE", "RDP", "SMB", "SSH", "TLS", "WEIRD", "Shapes"]

Shapes = tuple[str, str]
"""One record as the json-streaming-logs package writes it, and as a log shipper with `@stream` does."""


def _record(stream: str, fields: dict[str, Any], *, connection: bool = True) -> Shapes:
    ends = {"orig_h": "$src_ip", "orig_p": "#$src_port", "resp_h": "$dest_ip", "resp_p": "#$dest_port"}

    def identity(separator: str) -> dict[str, str]:
        return {"uid": "$uid", **{f"id{separator}{k}": v for k, v in ends.items()}} if connection else {}

    streaming = {"_path": stream, "_write_ts": "${time}Z", "ts": "${time}Z", **identity("."), **fields}
    system = {"@stream": stream, "@system": "sensor02.corp.example.com", "@proc": "zeek"}
    shipped = {**system, "ts": "#${epoch}.${micro}", **identity("_"), **fields}
    return template(streaming), template(shipped)


def _conn(service: str | None, *, state: str = "SF", history: str = "ShADadFf", protocol: str = "tcp") -> Shapes:
    answered = state == "SF"
    return _record(
        "conn",
        {
            "proto": protocol,
            **({"service": service} if service else {}),
            **(
                {"duration": "#$duration", "orig_bytes": "#$up_bytes", "resp_bytes": "#$down_bytes"} if answered else {}
            ),
            "conn_state": state,
            "local_orig": "#$local_orig",
            "local_resp": "#$local_resp",
            "missed_bytes": 0,
            "history": history,
            "orig_pkts": "#$up_packets",
            "orig_ip_bytes": "#$up_total",
            "resp_pkts": "#$down_packets",
            "resp_ip_bytes": "#$down_total",
            "community_id": "$community_id",
        },
    )


def _notice(note: str, message: str, sub: str, *, connection: bool) -> Shapes:
    return _record(
        "notice",
        {
            **({"proto": "tcp"} if connection else {}),
            "note": note,
            "msg": message,
            "sub": sub,
            "src": "$src_ip",
            "dst": "$dest_ip",
            **({"p": "#$dest_port"} if connection else {}),
            "actions": ["Notice::ACTION_LOG"],
            "suppress_for": 3600.0,
        },
        connection=connection,
    )


def _file(source: str, fields: dict[str, Any]) -> Shapes:
    return _record(
        "files",
        {
            "fuid": "$fuid",
            "tx_hosts": ["$dest_ip"],
            "rx_hosts": ["$src_ip"],
            "conn_uids": ["$uid"],
            "source": source,
            "depth": 0,
            "analyzers": ["MD5", "SHA1"],
            **fields,
            "duration": 0.0,
            "is_orig": False,
            "seen_bytes": "#$length",
            "total_bytes": "#$length",
            "missing_bytes": 0,
            "overflow_bytes": 0,
            "timedout": False,
            "md5": "$md5",
            "sha1": "$sha1",
        },
        connection=False,
    )


DNS = (
    _conn("dns", history="Dd", protocol="udp"),
    _record(
        "dns",
        {
            "proto": "udp",
            "trans_id": "#$transaction",
            "rtt": "#$duration",
            "query": "$site",
            "qclass": 1,
            "qclass_name": "C_INTERNET",
            "qtype": 1,
            "qtype_name": "A",
            "rcode": 0,
            "rcode_name": "NOERROR",
            "AA": False,
            "TC": False,
            "RD": True,
            "RA": True,
            "Z": 0,
            "answers": ["$rdata"],
            "TTLs": ["#${ttl}.0"],
            "rejected": False,
        },
    ),
)
HTTP = (
    _conn("http"),
    _record(
        "http",
        {
            "trans_depth": 1,
            "method": "$method",
            "host": "$site",
            "uri": "$url",
            "version": "1.1",
            "user_agent": "$agent",
            "request_body_len": 0,
            "response_body_len": "#$length",
            "status_code": "#$status",
            "status_msg": "$status_text",
            "tags": [],
            "resp_fuids": ["$fuid"],
            "resp_mime_types": ["$mime"],
        },
    ),
    _file("HTTP", {"mime_type": "$mime"}),
)
TLS = (
    _conn("ssl"),
    _record(
        "ssl",
        {
            "version": "TLSv12",
            "cipher": "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "curve": "secp256r1",
            "server_name": "$site",
            "resumed": False,
            "established": True,
            "cert_chain_fuids": ["$fuid"],
            "client_cert_chain_fuids": [],
            "subject": "CN=$site",
            "issuer": "CN=Example Issuing CA 3,O=Example Trust,C=US",
            "validation_status": "ok",
            "resp_certificate_sha1": "$certificate_sha1",
            "ja3": "$ja3",
            "ja3s": "$ja3s",
        },
    ),
)
SSH = (
    _conn("ssh"),
    _record(
        "ssh",
        {
            "version": 2,
            "auth_success": True,
            "auth_attempts": 1,
            "direction": "INTERNAL",
            "client": "SSH-2.0-OpenSSH_9.6",
            "server": "SSH-2.0-OpenSSH_9.2p1",
            "cipher_alg": "chacha20-poly1305@openssh.com",
            "mac_alg": "umac-64-etm@openssh.com",
            "compression_alg": "none",
            "kex_alg": "curve25519-sha256",
            "host_key_alg": "ssh-ed25519",
            "host_key": "$host_key",
        },
    ),
)
SMB = (_conn("gssapi,smb,ntlm"), _file("SMB", {"mime_type": "application/pdf", "filename": "$document"}))
RDP = (_conn("rdp"),)
PROBE = (_conn(None, state="REJ", history="Sr"),)
WEIRD = (
    _conn("http"),
    _record("weird", {"name": "bad_HTTP_request", "notice": False, "peer": "zeek", "source": "HTTP"}),
)
NOTICES = {
    "scan": _notice("Scan::Port_Scan", "$src_ip scanned at least 15 ports of $dest_ip", "remote", connection=False),
    "certificate": _notice(
        "SSL::Invalid_Server_Cert",
        "SSL certificate validation failed with (self signed certificate)",
        "CN=$site",
        connection=True,
    ),
}  # fmt: skip
