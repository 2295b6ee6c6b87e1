"""Bad input, as data: what is sent, and what has to be said to it.

`PUBLISHED` has what every edge can be sent, and is run through every driver (`test_contract.py`). `REQUESTS` has what
only HTTP can be sent, byte by byte (`test_bad_input.py`), where also those who dawdle are. `FLOODS` has what is sent
far too often from one address (`test_floods.py`, with connections and subscriptions that are too many).
"""

from __future__ import annotations

import gzip

import msgspec
import zstandard

from tests.edges.drivers import Stored

MB = 1024 * 1024
NDJSON, JSON, TEXT, MSGPACK = "application/x-ndjson", "application/json", "text/plain", "application/msgpack"

LONG = b'{"data":"' + b"x" * MB + b'"}'
DEEP = b'{"data":' + b"[" * 3000 + b"]" * 3000 + b"}"
LINES = b'{"data":1}\n{"data":2}\n'

# What is sent -> how many records are stored, and which are refused, or with which code all are.
PUBLISHED: dict[str, tuple[bytes, str, str, Stored | str]] = {
    "one": (b'{"data":1}', JSON, "", Stored(1)),
    "one without a type": (b'{"data":1}', "", "", Stored(1)),
    "one over several lines": (b'{\n "data":\n 1}', JSON, "", Stored(1)),
    "array": (b'[{"data":1},{"data":2}]', JSON, "", Stored(2)),
    "lines": (LINES, NDJSON, "", Stored(2)),
    "lines without a last end": (LINES.strip(), NDJSON, "", Stored(2)),
    "lines with carriage returns": (LINES.replace(b"\n", b"\r\n"), NDJSON, "", Stored(2)),
    "lines and blank ones": (b"\n\n" + LINES + b"  \n\n", NDJSON, "", Stored(2)),
    "lines behind a byte order mark": (b"\xef\xbb\xbf" + LINES, NDJSON, "", Stored(2)),
    "text": (b"May  4 10:11:14 gw sshd[8]: hello\nMay  4 10:11:15 gw sshd[8]: hello\n", TEXT, "", Stored(2)),
    "msgpack": (msgspec.msgpack.encode([{"data": 1}, {"data": 2}]), MSGPACK, "", Stored(2)),
    "type with parameters": (LINES, "application/x-ndjson; charset=utf-8", "", Stored(2)),
    "type in capitals": (LINES, "Application/X-NDJSON", "", Stored(2)),
    "gzip": (gzip.compress(LINES), NDJSON, "gzip", Stored(2)),
    "zstd": (zstandard.compress(LINES), NDJSON, "zstd", Stored(2)),
    "many gzip members": (gzip.compress(LINES) * 3, NDJSON, "gzip", Stored(6)),
    "a bad one among lines": (b'{"data":1}\n{"data":\n{"data":3}\n', NDJSON, "", Stored(2, refused=(1,))),
    "a bad one first": (b'nonsense\n{"data":3}\n', NDJSON, "", Stored(1, refused=(0,))),
    "a long one among lines": (b'{"data":1}\n' + LONG + b"\n" + LINES, NDJSON, "", Stored(3, refused=(1,))),
    "a long one in an array": (b"[1," + LONG + b",3]", JSON, "", Stored(2, refused=(1,))),
    "a deep one": (b'{"data":1}\n' + DEEP, NDJSON, "", Stored(1, refused=(1,))),
    "not a number": (b'{"data":NaN}\n{"data":1}', NDJSON, "", Stored(1, refused=(0,))),
    "bad ones only": (b"{\n}{\n", NDJSON, "", "invalid"),
    "one bad": (b'{"data":', JSON, "", "invalid"),
    "single quotes": (b"{'data':1}", JSON, "", "invalid"),
    "two values": (b'{"data":1}{"data":2}', JSON, "", "invalid"),
    "nothing": (b"", NDJSON, "", "invalid"),
    "nothing of no type": (b"", "", "", "invalid"),
    "blank lines only": (b"\n \n\r\n", NDJSON, "", "invalid"),
    "empty array": (b"[]", JSON, "", "invalid"),
    "array that ends in the middle": (b'[{"data":1},', JSON, "", "invalid"),
    "array in msgpack that ends in the middle": (b"\x92\x01", MSGPACK, "", "invalid"),
    "a picture": (b"\x89PNG", "image/png", "", "unsupported"),
    "a form": (b"a=1", "multipart/form-data", "", "unsupported"),
    "a strange type": (LINES, "application/x-ndjson2", "", "unsupported"),
    "unknown encoding": (LINES, NDJSON, "br", "unsupported"),
    "encoding that is none": (LINES, NDJSON, "zstd", "unsupported"),
    "gzip that is none": (LINES, NDJSON, "gzip", "unsupported"),
    "zstd that ends in the middle": (zstandard.compress(LINES * 50)[:-4], NDJSON, "zstd", "unsupported"),
    "gzip that ends in the middle": (gzip.compress(LINES)[:-9], NDJSON, "gzip", "unsupported"),
    "gzip with rubbish behind": (gzip.compress(LINES) + b"rubbish", NDJSON, "gzip", "unsupported"),
    "a bomb in one record": (zstandard.compress(b" " * (40 * MB)), JSON, "zstd", "too_large"),
    "a bomb of one line": (zstandard.compress(b"x" * (40 * MB)), NDJSON, "zstd", "invalid"),
    "too many in an array": (b"[" + b"1," * 50_001 + b"1]", JSON, "", "too_large"),
    "an array over a frame": (b"[" + b" " * (5 * MB) + b"1]", JSON, "", "too_large"),
    "invalid UTF-8 in a string, which the pipeline judges": (b'{"data":"\xff\xfe"}\n{"data":1}', NDJSON, "", Stored(2)),
    "half a surrogate pair": (b'{"data":"\\ud800"}\n{"data":1}', NDJSON, "", Stored(1, refused=(0,))),
    "a control character in a string": (b'{"data":"a\x00b"}\n{"data":1}', NDJSON, "", Stored(1, refused=(0,))),
    "UTF-16": ('{"data":1}'.encode("utf-16"), NDJSON, "", "invalid"),
    "a number of 400 digits": (b'{"data":' + b"9" * 400 + b'}\n{"data":1}', NDJSON, "", Stored(2)),
    "a comma too many": (b'{"data":1,}\n{"data":1}', NDJSON, "", Stored(1, refused=(0,))),
    "a comment": (b'{"data":1} // x\n{"data":1}', NDJSON, "", Stored(1, refused=(0,))),
    "HTML": (b"<html></html>", JSON, "", "invalid"),
    "two encodings": (gzip.compress(zstandard.compress(LINES), mtime=0), NDJSON, "zstd, gzip", "unsupported"),
    "msgpack as JSON": (msgspec.msgpack.encode([{"data": 1}]), JSON, "", "invalid"),
    "JSON as msgpack": (b'[{"data":1}]', MSGPACK, "", "invalid"),
    "msgpack of an odd byte": (b"\xc1", MSGPACK, "", "invalid"),
    "msgpack whose length lies": (b"\xdd\xff\xff\xff\xff\x01", MSGPACK, "", "too_large"),
}


# Whose key is sent -> what it is refused with until the address has sent too many.
FLOODS = {
    "no key": ("nobody", "unauthenticated"),
    "keys that are guessed": ("unknown", "unauthenticated"),
    "keys that are none": ("rubbish", "unauthenticated"),
    "a key that was revoked": ("revoked", "unauthenticated"),
    "a key that has expired": ("expired", "unauthenticated"),
}


def post(path: str = "/v1/events", *headers: str, body: bytes = b"{}", key: str = "{key}") -> bytes:
    """A request whose length is right."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        *([f"Authorization: Bearer {key}"] if key else []),
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", "Authorization: Bearer {key}", *headers, "", ""]).encode()


_HEAD = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n"
_NDJSON = "Content-Type: application/x-ndjson"

# What is sent to event-streaming -> the status of the answer. `{key}` stands for a key that may do everything.
REQUESTS: dict[str, tuple[bytes, int]] = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40, 400),
    "HTTP/2 at once": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/9.9": (b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n", 400),
    "an unknown method": (b"BREW /v1/events HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a method of others": (get("/v1/events"), 405),
    "no such path": (get("/v1/nothing"), 404),
    "a path that climbs": (get("/v1/../../etc/passwd"), 404),
    "a path that is not ASCII": (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a long address": (get("/" + "a" * 70_000), 431),
    "a long header": (get("/v1/status", "X-Long: " + "a" * 70_000), 431),
    "a header that does not end": (b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 700_000, 431),
    "many headers": (get("/v1/status", *(f"X-{number}: {number}" for number in range(9000))), 431),
    "a header without a name": (get("/v1/status", ": x"), 400),
    "a header with a space before the colon": (get("/v1/status", "X : y"), 400),
    "a header with a zero byte": (get("/v1/status", "X: a\0b"), 400),
    "a header folded over lines": (get("/v1/status", "X: a", " b: c") + b"", 400),
    "a length below zero": (_HEAD + b"Content-Length: -1\r\n\r\n", 400),
    "a length that is none": (_HEAD + b"Content-Length: two\r\n\r\n{}", 400),
    "two lengths": (_HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", 400),
    "a length and chunks": (_CHUNKED + b"Content-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk whose size is none": (_CHUNKED + b"\r\nxx\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk whose size overflows": (_CHUNKED + b"\r\nffffffffffffffffff\r\n{}", 400),
    "a transfer encoding that is unknown": (_HEAD + b"Transfer-Encoding: rot13\r\n\r\n{}", 400),
    "a length over the limit": (_HEAD + b"Content-Length: 99999999999\r\n\r\n", 413),
    "chunks over the limit": (_CHUNKED + b"\r\n500000\r\n" + b" " * 0x500000 + b"\r\n0\r\n\r\n", 413),
    "no key": (post(key=""), 401),
    "a key of another form": (post(key="tg_1"), 401),
    "a key that is not ASCII": (post(key="tg_\xe9"), 401),
    "a very long key": (post(key="t" * 30_000), 401),
    "another scheme": (post("/v1/events", "Authorization: Basic eDp5", key=""), 401),
    "a key in the address": (post("/v1/events?access_token={key}", key=""), 401),
    "a token that says alg none": (post(key="eyJhbGciOiJub25lIn0.e30."), 401),
    "a source that is none": (post("/v1/events?source=a.b"), 400),
    "a source that climbs": (post("/v1/events/..%2fx"), 404),
    "an idempotency key that is not ASCII": (post("/v1/events", "Idempotency-Key: \xe9"), 400),
    "an idempotency key that is long": (post("/v1/events", "Idempotency-Key: " + "k" * 201), 400),
    "a charset that is unknown": (post("/v1/events", "Content-Type: application/json; charset=ebcdic", body=b"{"), 400),
    "a type that is none": (post("/v1/events", "Content-Type: ???"), 415),
    "a body that is missing": (post(body=b""), 400),
    "a command that is no JSON": (post("/v1/entities/alert/x", "Content-Type: application/json", body=b"{"), 400),
    "a command of no kind": (
        post("/v1/entities/x/x", "Content-Type: application/json", body=b'{"command":{"type":"x"}}'),
        404,
    ),
    "a command with a field too many": (
        post("/v1/entities/alert/x", "Content-Type: application/json", body=b'{"command":{},"x":1}'),
        400,
    ),
    "a command that is large": (
        post("/v1/entities/alert/x", "Content-Type: application/json", body=b'"' + b"x" * 300_000 + b'"'),
        413,
    ),
    "a stream from nowhere": (get("/v1/stream?start=yesterday"), 400),
    "a stream behind rubbish": (get("/v1/stream", "Last-Event-ID: x"), 400),
    "a stream with a buffer of nothing": (get("/v1/stream?buffer=0"), 400),
    "a stream with a buffer of everything": (get("/v1/stream?buffer=99999999999"), 400),
    "a stream of a type that is none": (get("/v1/stream?min_severity=high"), 400),
    "a stream with an unknown way to be slow": (get("/v1/stream?slow=maybe"), 400),
}
