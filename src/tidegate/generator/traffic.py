"""Conversations on the network, each seen by both sensors: Suricata and Zeek, and sometimes by Sysmon on the client.

Invariant: every sensor's records of a conversation are filled from the same values, so addresses, ports, names, sizes
and the community id agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

from tidegate.generator import suricata, zeek
from tidegate.generator.template import Step, Values, escaped
from tidegate.generator.windows import Windows
from tidegate.generator.world import Address, Dice, Skewed, World, community_id

__all__ = ["Traffic"]

_DOCUMENTS = tuple(
    map(escaped, ("plans\\budget.xlsx", "plans\\roadmap.pptx", "hr\\contracts.pdf", "it\\inventory.csv"))
)


class Traffic:
    """Plans conversations; `plan` draws an ordinary one, the others are what stories are made of."""

    def __init__(self, dice: Dice, world: World, windows: Windows) -> None:
        self._dice = dice
        self._world = world
        self._windows = windows
        self._kinds = Skewed(dice, [self._tls, self._http, self._dns, self._smb, self._ssh, self._weird])

    def plan(self) -> list[Step]:
        return self._kinds.pick()()

    def flow(self, source: Address, target: Address, port: int, *, udp: bool = False) -> Values:
        """What all records of one connection from `source` to `target` share."""
        dice = self._dice
        source_port = dice.ephemeral_port()
        size = dice.bits(24)
        up_packets, up_bytes = 3 + (size & 31), 120 + (size >> 5 & 1023)
        down_packets, down_bytes = 2 + (size >> 10 & 63), 90 + (size >> 8)
        return {
            "src_ip": source.text,
            "src_port": source_port,
            "dest_ip": target.text,
            "dest_port": port,
            # Zeek's sensor and shape: one watches half of the clients, the other one the rest.
            "sensor": source.packed[3] & 1,
            "flow_id": dice.bits(50),
            "uid": dice.uid("C"),
            "community_id": community_id(17 if udp else 6, source.packed, source_port, target.packed, port),
            "local_orig": "true" if source.packed[0] == 10 else "false",
            "local_resp": "true" if target.packed[0] == 10 else "false",
            "up_packets": up_packets,
            "up_bytes": up_bytes,
            "up_total": up_bytes + 40 * up_packets,
            "down_packets": down_packets,
            "down_bytes": down_bytes,
            "down_total": down_bytes + 40 * down_packets,
            "duration": f"{0.001 + dice.uniform():.6f}",
        }

    def seen(self, values: Values, eve: Iterable[str], logs: Iterable[zeek.Shapes]) -> list[Step]:
        """The records of both sensors, in turns."""
        sensor = values["sensor"]
        steps: list[Step] = []
        for record, shapes in zip_longest(eve, logs):
            if shapes:
                steps.append(("zeek", shapes[sensor], values))
            if record:
                steps.append(("suricata", record, values))
        return steps

    def lookup(self, source: Address, site: Values) -> list[Step]:
        """The client asks the company's name server for the site's address."""
        values = self.flow(source, self._world.dns.address, 53, udp=True)
        values |= {
            "site": site["site"],
            "rdata": site["site_address"].text,
            "transaction": self._dice.bits(16),
            "ttl": 30 + self._dice.bits(9),
            "up_packets": 1,
            "down_packets": 1,
            "up_bytes": 30 + len(site["site"]),
            "up_total": 58 + len(site["site"]),
            "down_bytes": 46 + len(site["site"]),
            "down_total": 74 + len(site["site"]),
        }
        return self.seen(values, suricata.DNS, zeek.DNS)

    def request(self, source: Address, site: Values, page: Values, agent: Values) -> Values:
        """The values of a request over HTTP."""
        failed = self._dice.uniform() < 0.06
        values = self.flow(source, site["site_address"], 80) | site | page | agent
        values |= {"method": "GET", "status": 404 if failed else 200, "status_text": "Not Found" if failed else "OK"}
        values["fuid"] = self._dice.uid("F")
        values["down_bytes"] = values["length"] + 300
        values["down_packets"] = 1 + values["down_bytes"] // 1400
        values["down_total"] = values["down_bytes"] + 40 * values["down_packets"]
        return values

    def secure(self, source: Address, site: Values, agent: Values) -> Values:
        """The values of a TLS connection."""
        values = self.flow(source, site["site_address"], 443) | site | agent
        values["fuid"] = self._dice.uid("F")
        return values

    def _http(self) -> list[Step]:
        host, site = self._world.workstations.pick(), self._world.sites.pick()
        values = self.request(host.address, site, self._world.pages.pick(), self._world.agents.pick())
        return self._preceded(host.address, site, self.seen(values, suricata.HTTP, zeek.HTTP))

    def _tls(self) -> list[Step]:
        person, site = self._world.people.pick(), self._world.sites.pick()
        values = self.secure(person.host.address, site, self._world.agents.pick())
        steps = self.seen(values, suricata.TLS, zeek.TLS)
        draw = self._dice.uniform()
        if draw < 0.03:
            steps.insert(-1, ("suricata", suricata.ALERTS["policy"], values))
        elif draw < 0.04:
            steps.append(("zeek", zeek.NOTICES["certificate"][values["sensor"]], values))
        elif draw < 0.24:
            steps += self._windows.browsing(person, values)
        return self._preceded(person.host.address, site, steps)

    def _dns(self) -> list[Step]:
        return self.lookup(self._world.workstations.pick().address, self._world.sites.pick())

    def _ssh(self) -> list[Step]:
        values = self.flow(self._world.workstations.pick().address, self._world.servers.pick().address, 22)
        digits = values["uid"].encode().hex()
        values["host_key"] = ":".join(digits[i : i + 2] for i in range(0, 32, 2))
        return self.seen(values, suricata.SSH, zeek.SSH)

    def _smb(self) -> list[Step]:
        dice = self._dice
        values = self.flow(self._world.workstations.pick().address, self._world.file_server.address, 445)
        values |= self._world.pages.pick()
        values["document"] = _DOCUMENTS[dice.bits(2)]
        values["fuid"] = dice.uid("F")
        values["session_id"] = dice.bits(46)
        return self.seen(values, suricata.SMB, zeek.SMB)

    def _weird(self) -> list[Step]:
        values = self.flow(self._world.outsiders.pick(), self._world.servers.pick().address, 80)
        return self.seen(values, suricata.PROBE, zeek.WEIRD)

    def _preceded(self, source: Address, site: Values, steps: list[Step]) -> list[Step]:
        """Sometimes a lookup comes first; at other times the client remembers the answer."""
        return self.lookup(source, site) + steps if self._dice.uniform() < 0.4 else steps
