"""Bearer tokens of an identity provider, with real keys and a real HTTP server for these."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key

from tidegate.auth import Gate
from tidegate.auth.tokens import Tokens
from tidegate.config import Auth
from tidegate.errors import ConfigError, RefusedError

pytestmark = pytest.mark.anyio

ISSUER, AUDIENCE = "https://id.example", "tidegate"
Key = EllipticCurvePrivateKey


class Provider:
    """Publishes keys, and counts how often it is asked."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {"k1": generate_private_key(SECP256R1())}
        self.asked = 0
        self.settings = Auth(mode="off")

    def token(self, *, key: str = "k1", signed_by: Key | None = None, headers: Any = None, **claims: Any) -> str:
        now = int(time.time())
        said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "svc", "exp": now + 60, "tenant": "acme", "scope": "publish"}
        kept = {name: value for name, value in (said | claims).items() if value is not None}
        return jwt.encode(kept, signed_by or self.keys[key], algorithm="ES256", headers=headers or {"kid": key})

    def published(self) -> bytes:
        self.asked += 1
        algorithm = jwt.algorithms.ECAlgorithm
        keys = [json.loads(algorithm.to_jwk(key.public_key())) | {"kid": name} for name, key in self.keys.items()]
        return json.dumps({"keys": keys}).encode()


@pytest.fixture
def provider() -> Iterator[Provider]:
    one = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = one.published()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        jwks = f"http://127.0.0.1:{server.server_port}/jwks"
        one.settings = Auth(mode="keys+jwt", jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwks=jwks)
        yield one
        server.shutdown()
        thread.join()


async def test_a_token_grants_what_its_claims_say(provider: Provider) -> None:
    gate = Gate(provider.settings)
    token = provider.token(scope="openid tidegate:publish query nonsense", tidegate_sources=["billing"])
    who = await gate.enter(token, "publish", "test")
    assert (who.tenant, who.grant.scopes, who.grant.sources) == ("acme", ("publish", "query"), ("billing",))
    assert who.id == f"{ISSUER}#svc"
    assert (await gate.enter(provider.token(tenant="*", scope="admin"), "admin", "test")).tenant == ""


async def test_tokens_that_are_refused(provider: Provider) -> None:
    gate = Gate(provider.settings)
    other = generate_private_key(SECP256R1())
    (published,) = json.loads(provider.published())["keys"]
    unauthenticated = {
        "another issuer": provider.token(iss="https://evil.example"),
        "another audience": provider.token(aud="other"),
        "no audience": provider.token(aud=None),
        "expired": provider.token(exp=int(time.time()) - 60),
        "never expires": provider.token(exp=None),
        "not valid yet": provider.token(nbf=int(time.time()) + 600),
        "no subject": provider.token(sub=None),
        "signed by another": provider.token(signed_by=other),
        "an unknown key": provider.token(signed_by=other, headers={"kid": "k2"}),
        "one that asks for what is unknown": provider.token(headers={"kid": "k1", "crit": ["x"], "x": 1}),
        "not signed": jwt.encode({"iss": ISSUER, "sub": "svc"}, "", algorithm="none", headers={"kid": "k1"}),
        "signed with the published key": jwt.encode(
            {"iss": ISSUER, "aud": AUDIENCE, "sub": "svc", "exp": 2**33, "tenant": "*", "scope": "admin"},
            json.dumps(published) * 2,
            algorithm="HS256",
            headers={"kid": "k1"},
        ),
        "changed": provider.token()[:-6] + "AAAAAA",
        "rubbish": "a.b.c",
    }
    for case, token in unauthenticated.items():
        with pytest.raises(RefusedError) as refused:
            await gate.enter(token, "publish", "test")
        assert refused.value.code.value == "unauthenticated", case
    forbidden = {
        "no tenant": provider.token(tenant=None),
        "a tenant that is none": provider.token(tenant="a:b"),
        "no scope": provider.token(scope=None),
        "another scope": provider.token(scope="query"),
        "sources that are no list": provider.token(tidegate_sources="billing"),
    }
    for case, token in forbidden.items():
        with pytest.raises(RefusedError) as refused:
            await gate.enter(token, "publish", "test")
        assert refused.value.code.value == "forbidden", case


async def test_keys_are_fetched_once_and_anew_for_a_new_key_but_not_for_every_unknown_one(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(provider.settings)
    for _ in range(20):
        await gate.enter(provider.token(), "publish", "test")
    assert provider.asked == 1
    provider.keys["k2"] = generate_private_key(SECP256R1())
    for _ in range(20):
        with pytest.raises(RefusedError):
            await gate.enter(provider.token(key="k2"), "publish", "test")
    assert provider.asked == 1
    monkeypatch.setattr("tidegate.auth.tokens._AGAIN_SECONDS", 0.0)
    await gate.enter(provider.token(key="k2"), "publish", "test")
    assert provider.asked == 2


async def test_without_the_provider_nobody_is_let_in() -> None:
    gate = Gate(Auth(mode="jwt", jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwks="http://127.0.0.1:1/jwks"))
    with pytest.raises(RefusedError) as refused:
        await gate.enter(Provider().token(), "publish", "test")
    assert refused.value.code.value == "unavailable"


@pytest.mark.parametrize("where", ["http://id.example/jwks", "http://127.0.0.1.evil.example/", "http://localhost.x/"])
def test_keys_are_not_taken_over_an_open_connection(where: str) -> None:
    with pytest.raises(ConfigError, match="https"):
        Tokens(Auth(mode="jwt", jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwks=where))
