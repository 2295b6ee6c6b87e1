"""REST, GraphQL, and Server-Sent Events, by aiohttp (seen here: five to twelve times the calls a second of httpx).

Invariant: a request goes to the host of the target's URL and below its path; redirects are not followed and proxies
from the environment are not used.
"""

from __future__ import annotations

import codecs
import re
import ssl
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from tidegate.gateway.configuration import Target
from tidegate.gateway.transports.base import CallFailedError, Reply, Request, check_size, encoded, tls_of, untrusted

__all__ = ["GraphqlTransport", "RestTransport", "session"]

_OPERATION = re.compile(r"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!-~]*)")
_SAFE = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_LINE_BYTES = 1024 * 1024
_PLAIN = {"Accept-Encoding": "identity"}


def session(max_connections: int = 100, tls: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
    """Without cookies, proxies and decompression."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=max_connections, ssl=tls or True),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


class RestTransport:
    """The operation is `GET /path?query`; the path is added to the target's URL."""

    def __init__(self, target: Target, headers: dict[str, str]) -> None:
        self._target = target
        self._headers = headers
        tls = tls_of(target) if target.url.startswith("https") else None
        # Streams hold connections too.
        self._session = session(target.max_concurrent * 2, tls)

    def repeatable(self, request: Request) -> bool:
        return request.operation.partition(" ")[0] in _SAFE

    async def call(self, request: Request) -> Reply:
        method, url = self._place(request.operation)
        return await self._send(method, url, request)

    def _place(self, operation: str) -> tuple[str, str]:
        match = _OPERATION.fullmatch(operation)
        if match is None:
            raise CallFailedError("invalid", f"{operation[:100]!r} is no operation of REST, such as `GET /v1/things/7`")
        path = urlsplit(f"http://host{match[2]}").path
        if any(part in {".", ".."} for part in re.sub("%2[eE]", ".", path).split("/")) or "\\" in match[2]:
            raise CallFailedError("invalid", f"the path {match[2][:100]!r} must not climb")
        return match[1], self._target.url.rstrip("/") + match[2]

    async def _send(self, method: str, url: str, request: Request) -> Reply:
        headers = {**request.headers, **_PLAIN, **self._headers}
        if request.content_type:
            headers["Content-Type"] = request.content_type
        most = self._target.max_response_bytes
        timeout = aiohttp.ClientTimeout(total=request.timeout_seconds, sock_connect=request.timeout_seconds)
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                data=request.body or None,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as answer:
                _check_plain(answer)
                body = bytearray()
                async for part in answer.content.iter_any():
                    body += part
                    check_size(len(body), most)
        except aiohttp.ClientConnectorCertificateError as error:
            raise untrusted(str(error.certificate_error)) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise CallFailedError("unreachable", f"cannot be reached: {error or type(error).__name__}") from error
        except TimeoutError as error:
            raise CallFailedError("timeout", f"no answer within {request.timeout_seconds:g} s") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise CallFailedError("unavailable", f"{type(error).__name__}: {error}") from error
        status = answer.status
        if 200 <= status < 300:
            return Reply(bytes(body), answer.headers.get("content-type", ""), str(status))
        after = answer.headers.get("retry-after", "")
        raise CallFailedError(
            "unavailable" if status in _PASSING else "rejected",
            f"answered with status {status}",
            status=str(status),
            body=bytes(body),
            after=float(after) if after.isdigit() and len(after) < 6 else 0.0,
        )

    async def stream(self, topic: str, last_id: str) -> AsyncIterator[tuple[str, bytes]]:
        """Server-Sent Events of `GET <topic>`: the data of each, by the rules of the HTML standard."""
        method, url = self._place(topic if " " in topic else f"GET {topic}")
        headers = {"Accept": "text/event-stream", **_PLAIN, **self._headers}
        if last_id:
            headers["Last-Event-ID"] = last_id
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._target.timeout_seconds)
        try:
            async with self._session.request(
                method, URL(url, encoded=True), headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    raise CallFailedError("unavailable", f"answered with status {answer.status}")
                _check_plain(answer)
                yield "", b""
                data: list[str] = []
                async for line in _lines(answer):
                    name, _, value = line.partition(":")
                    value = value.removeprefix(" ")
                    if name == "data":
                        data.append(value)
                        check_size(sum(map(len, data)), self._target.max_response_bytes)
                    elif name == "id":
                        last_id = value
                    elif not line and data:
                        yield last_id, "\n".join(data).encode()
                        data = []
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise CallFailedError("unavailable", f"{type(error).__name__}: {error}") from error

    async def aclose(self) -> None:
        await self._session.close()


def _check_plain(answer: aiohttp.ClientResponse) -> None:
    """Compressed answers are not asked for: a small one can become so large that no limit comes in time."""
    if (encoding := answer.headers.get("content-encoding", "identity")) != "identity":
        raise CallFailedError("unavailable", f"the answer is encoded as {encoding[:20]!r}, which was not asked for")


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """Lines of at most 1 MiB."""
    rest = ""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    async for part in answer.content.iter_any():
        rest += decode(part)
        *lines, rest = rest.replace("\r\n", "\n").split("\n")
        for line in lines:
            yield line
        check_size(len(rest), _LINE_BYTES)


class GraphqlTransport(RestTransport):
    """The operation is the GraphQL document, the payload its variables."""

    def repeatable(self, request: Request) -> bool:
        return not re.search(r"\b(mutation|subscription)\b", request.operation)

    async def call(self, request: Request) -> Reply:
        try:
            variables = msgspec.json.decode(request.body) if request.body else {}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CallFailedError("invalid", "variables of GraphQL are a JSON object") from error
        body, content_type = encoded({"query": request.operation, "variables": variables})
        asked = msgspec.structs.replace(
            request,
            body=body,
            content_type=content_type,
            headers={**request.headers, "Accept": "application/graphql-response+json, application/json"},
        )
        reply = await self._send("POST", self._target.url, asked)
        try:
            found = msgspec.json.decode(reply.body, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CallFailedError("unavailable", "the answer is not one of GraphQL") from error
        # With status 200 too: GraphQL tells of errors in the body.
        if errors := bytes(found.get("errors", msgspec.Raw(b""))):
            raise CallFailedError("rejected", f"GraphQL errors: {errors[:300].decode('utf-8', 'replace')}", body=errors)
        return Reply(bytes(found.get("data", msgspec.Raw(b"null"))), "application/json", reply.status)

    def stream(self, topic: str, last_id: str) -> AsyncIterator[tuple[str, bytes]]:
        raise CallFailedError("invalid", "streams of GraphQL are not followed here; name a REST or WebSocket target")
