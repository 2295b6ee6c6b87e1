"""An address finds the networks around it, the innermost first."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.pipeline.enrichment.networks import Networks

Network = IPv4Network | IPv6Network


def _key(network: Network) -> bytes:
    return network.network_address.packed + bytes((network.prefixlen,))


# Few different addresses, so that networks are inside each other and side by side, up to both ends of the range.
_FOUR = st.builds(
    lambda value, prefix: ip_network((value, prefix), strict=False),
    st.sampled_from([b"\0\0\0\0", b"\x0a\1\2\3", b"\x0a\1\2\4", b"\x0a\1\3\0", b"\x0a\xff\0\1", b"\xff\xff\xff\xff"]),
    st.integers(0, 32),
)
_SIX = st.builds(
    lambda value, prefix: ip_network((value, prefix), strict=False),
    st.sampled_from([bytes(16), b"\x20\1\x0d\xb8" + bytes(12), b"\x20\1\x0d\xb9" + bytes(11) + b"\1", b"\xff" * 16]),
    st.integers(0, 128),
)


@given(
    st.sets(st.one_of(_FOUR, _SIX), max_size=30),
    st.lists(st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)), max_size=10),
)
@example({ip_network("0.0.0.0/0"), ip_network("255.255.255.255/32")}, [b"\xff\xff\xff\xff"])
@example({ip_network("::/0"), ip_network("0.0.0.0/1")}, [b"\x80\0\0\0", b"\x7f\xff\xff\xff", b"\xff" * 16])
def test_networks_are_found_as_by_trying_each(networks: set[Network], addresses: list[bytes]) -> None:
    ordered = sorted(networks, key=lambda one: (one.version, one))
    found = Networks({_key(network): number for number, network in enumerate(ordered)})
    assert len(found) == len(networks)
    edges = [edge.packed for one in networks for edge in (one.network_address, one.broadcast_address)]
    edges += [_next(edge) for edge in edges]
    for address in addresses + edges:
        around = [
            (network.prefixlen, number)
            for number, network in enumerate(ordered)
            if len(address) == len(network.network_address.packed)
            and network.network_address.packed <= address <= network.broadcast_address.packed
        ]
        assert list(found.find(address)) == sorted(around, reverse=True)


def _next(address: bytes) -> bytes:
    return ((int.from_bytes(address, "big") + 1) % (1 << 8 * len(address))).to_bytes(len(address), "big")
