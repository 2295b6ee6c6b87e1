"""gRPC with TLS on both sides: who has no certificate of the right authority does not get in."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.certificates import Signed, signed
from tests.edges.world import World, served_grpc
from tidegate.config import Grpc
from tidegate.edges import grpc_server
from tidegate.errors import ConfigError
from tidegate.proto import services_pb2 as pb
from tidegate.proto.services_pb2_grpc import EventsStub

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def authority() -> Signed:
    return signed("authority")


@pytest.fixture(scope="module")
def tls(authority: Signed, tmp_path_factory: pytest.TempPathFactory) -> Grpc:
    folder = tmp_path_factory.mktemp("tls")
    server = signed("server", authority)
    for name, content in (("server.pem", server.pem), ("server.key", server.key_pem), ("ca.pem", authority.pem)):
        (folder / name).write_bytes(content)
    return Grpc(
        certificate=str(folder / "server.pem"),
        private_key=str(folder / "server.key"),
        client_ca=str(folder / "ca.pem"),
    )


async def asked(edges: World, address: str, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """What becomes of a call with the key of `root`."""
    channel = grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
    async with channel:
        metadata = [("authorization", f"Bearer {edges.keys['root']}")]
        call = EventsStub(channel).GetStatus(pb.StatusRequest(), metadata=metadata, timeout=5)  # type: ignore[no-untyped-call]
        return await call.code()


async def test_only_a_client_with_a_certificate_of_the_authority_is_let_in(
    edges: World, tls: Grpc, authority: Signed
) -> None:
    mine, other = signed("client", authority), signed("client", signed("authority"))
    trust = authority.pem
    async with served_grpc(edges.service, "Events", tls) as address:
        with_mine = grpc.ssl_channel_credentials(trust, mine.key_pem, mine.pem)
        assert await asked(edges, address, with_mine) is grpc.StatusCode.OK
        for refused in (
            grpc.ssl_channel_credentials(trust),
            grpc.ssl_channel_credentials(trust, other.key_pem, other.pem),
            None,
        ):
            assert await asked(edges, address, refused) is grpc.StatusCode.UNAVAILABLE
        assert await asked(edges, address, with_mine) is grpc.StatusCode.OK


def test_settings_of_certificates_that_make_no_sense_are_refused(edges: World, tls: Grpc, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("nothing")
    for settings, where in (
        (Grpc(certificate=tls.certificate), "grpc.certificate"),
        (Grpc(client_ca=tls.client_ca), "grpc.client_ca"),
        (Grpc(certificate=tls.certificate, private_key=str(tmp_path / "gone")), "grpc.private_key"),
        (Grpc(certificate=str(tmp_path / "no.pem"), private_key=tls.private_key), "grpc.certificate"),
    ):
        with pytest.raises(ConfigError) as caught:
            grpc_server._credentials(settings)
        assert caught.value.where == where


async def test_a_port_that_is_taken_is_told(edges: World) -> None:
    from tidegate.errors import LocalServerError

    async with served_grpc(edges.service, "Events") as address:
        with pytest.raises(LocalServerError, match="is taken"):
            grpc_server.serving(Grpc(), int(address.split(":")[1]), edges.service, "Events", lambda: None, 1)
