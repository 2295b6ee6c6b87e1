"""Suricata EVE records (the shape of Suricata 7), as templates that are filled by a conversation's values.

Invariant: all records of one flow carry its `flow_id` and `community_id`; `flow` comes last, as Suricata writes it.
"""

from __future__ import annotations

from typing import Any

from tidegate.generator.template import template

__all__ = ["ALERTS", "DNS", "HTTP", "PROBE", "RDP", "SMB", "SSH", "TLS"]

_HTTP: dict[str, Any] = {
    "hostname": "$site",
    "url": "$url",
    "http_user_agent": "$agent",
    "http_content_type": "$mime",
    "http_method": "$method",
    "protocol": "HTTP/1.1",
    "status": "#$status",
    "length": "#$length",
}


def _record(event_type: str, protocol: str, *, reply: bool = False, **fields: Any) -> str:
    near, far = ("dest", "src") if reply else ("src", "dest")
    return template(
        {
            "timestamp": "${time}+0000",
            "flow_id": "#$flow_id",
            "in_iface": "ens5",
            "event_type": event_type,
            "src_ip": f"${near}_ip",
            "src_port": f"#${near}_port",
            "dest_ip": f"${far}_ip",
            "dest_port": f"#${far}_port",
            "proto": protocol,
            "pkt_src": "wire/pcap",
            "community_id": "$community_id",
            **fields,
        }
    )


def _flow(app_proto: str, protocol: str = "TCP", *, answered: bool = True, alerted: bool = False) -> str:
    flags = "1b" if answered else "02"
    tcp = {
        "tcp_flags": flags, "tcp_flags_ts": flags, "tcp_flags_tc": "1b" if answered else "14", "syn": True,
        "rst": not answered, "ack": answered, "state": "closed", "ts_max_regions": 1, "tc_max_regions": 1,
    }  # fmt: skip
    rest: dict[str, Any] = {"tcp": tcp} if protocol == "TCP" else {}
    return _record(
        "flow",
        protocol,
        app_proto=app_proto,
        flow={
            "pkts_toserver": "#$up_packets",
            "pkts_toclient": "#$down_packets",
            "bytes_toserver": "#$up_total",
            "bytes_toclient": "#$down_total",
            "start": "${start}+0000",
            "end": "${time}+0000",
            "age": "#$age",
            "state": "closed" if answered else "new",
            "reason": "timeout",
            "alerted": alerted,
        },
        **rest,
    )


def _alert(number: int, signature: str, category: str, severity: int, app_proto: str, **fields: Any) -> str:
    """An alert of a local rule; sids from 1,000,000 to 1,999,999 are reserved for those."""
    return _record(
        "alert",
        "TCP",
        tx_id=0,
        alert={
            "action": "allowed",
            "gid": 1,
            "signature_id": 1_000_000 + number,
            "rev": 1,
            "signature": f"LOCAL {signature}",
            "category": category,
            "severity": severity,
            "metadata": {"deployment": ["Perimeter"], "signature_severity": [("Major", "Minor", "Info")[severity - 1]]},
        },
        **fields,
        app_proto=app_proto,
        direction="to_server",
        flow={
            "pkts_toserver": "#$up_packets",
            "pkts_toclient": "#$down_packets",
            "bytes_toserver": "#$up_total",
            "bytes_toclient": "#$down_total",
            "start": "${start}+0000",
            "src_ip": "$src_ip",
            "dest_ip": "$dest_ip",
            "src_port": "#$src_port",
            "dest_port": "#$dest_port",
        },
    )


def _smb(number: int, command: str, **fields: Any) -> str:
    return _record(
        "smb",
        "TCP",
        smb={
            "id": number,
            "dialect": "3.11",
            "command": f"SMB2_COMMAND_{command}",
            "status": "STATUS_SUCCESS",
            "status_code": "0x0",
            "session_id": "#$session_id",
            "tree_id": min(1, number // 2),
            **fields,
        },
    )


_DNS: dict[str, Any] = {
    "version": 2, "id": "#$transaction", "rrname": "$site", "rrtype": "A", "tx_id": 0, "opcode": 0,
}  # fmt: skip
_TLS = {
    "subject": "CN=$site",
    "issuerdn": "C=US, O=Example Trust, CN=Example Issuing CA 3",
    "serial": "$serial",
    "fingerprint": "$certificate_sha1_colons",
    "sni": "$site",
    "version": "TLS 1.2",
    "notbefore": "2024-11-04T00:00:00",
    "notafter": "2030-11-03T23:59:59",
    "ja3": {"hash": "$ja3", "string": "771,4865-4866-4867-49195-49199,0-23-65281-10-11-35-16-5-13,29-23-24,0"},
    "ja3s": {"hash": "$ja3s", "string": "771,49199,65281-0-11-35-16"},
}
_FILE = {
    "filename": "$url", "gaps": False, "state": "CLOSED", "md5": "$md5", "sha1": "$sha1", "sha256": "$sha256",
    "stored": False, "size": "#$length", "tx_id": 0,
}  # fmt: skip

DNS = (
    _record("dns", "UDP", dns={**_DNS, "type": "query"}),
    _record(
        "dns",
        "UDP",
        reply=True,
        dns={
            **_DNS,
            "type": "answer",
            "flags": "8180",
            "qr": True,
            "rd": True,
            "ra": True,
            "rcode": "NOERROR",
            "answers": [{"rrname": "$site", "rrtype": "A", "ttl": "#$ttl", "rdata": "$rdata"}],
            "grouped": {"A": ["$rdata"]},
        },
    ),
    _flow("dns", "UDP"),
)
HTTP = (
    _record("http", "TCP", tx_id=0, http=_HTTP),
    _record("fileinfo", "TCP", reply=True, http=_HTTP, app_proto="http", fileinfo=_FILE),
    _flow("http"),
)
TLS = (_record("tls", "TCP", tls=_TLS), _flow("tls"))
SSH = (
    _record(
        "ssh",
        "TCP",
        tx_id=0,
        ssh={
            "client": {"proto_version": "2.0", "software_version": "OpenSSH_9.6"},
            "server": {"proto_version": "2.0", "software_version": "OpenSSH_9.2p1"},
        },
    ),
    _flow("ssh"),
)
SMB = (
    _smb(1, "SESSION_SETUP"),
    _smb(2, "TREE_CONNECT", share="\\\\file01.corp.example.com\\projects", share_type="FILE"),
    _smb(3, "CREATE", filename="$document", disposition="FILE_OPEN", access="normal", size="#$length"),
    _flow("smb"),
)
RDP = (_flow("rdp", alerted=True),)
PROBE = (_flow("failed", answered=False),)
ALERTS = {
    "policy": _alert(101, "POLICY Client contacts an advertising network", "Not Suspicious Traffic", 3, "tls"),
    "scan": _alert(201, "SCAN Many TCP ports probed from one address", "Attempted Information Leak", 2, "failed"),
    "rdp": _alert(202, "BRUTE FORCE Repeated RDP sign-in from outside", "Attempted User Privilege Gain", 1, "rdp"),
    "payload": _alert(301, "MALWARE Program from a new site", "A Network Trojan was detected", 1, "http", http=_HTTP),
    "beacon": _alert(302, "MALWARE Beacon to a command host", "Malware Command and Control", 1, "tls", tls=_TLS),
}
