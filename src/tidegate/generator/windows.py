"""What happens on Windows hosts: sign-ins, processes with what they do, scripts, and changes to accounts.

Invariant: the records of one process share its guid and id, those of one session its logon id; record numbers rise.
"""

from __future__ import annotations

from tidegate.generator.template import Step, Values, escaped
from tidegate.generator.windows_security import SECURITY
from tidegate.generator.windows_shapes import Shapes
from tidegate.generator.windows_sysmon import SHELL, SYSMON
from tidegate.generator.world import Dice, Host, Person, Skewed, World

__all__ = ["Windows"]

_SYSTEM = "C:\\Windows\\System32\\"
# Image, arguments, description.
_PROGRAMS = (
    (f"{_SYSTEM}svchost.exe", "-k netsvcs -p -s Schedule", "Host Process for Windows Services"),
    ("C:\\Program Files\\Mozilla Firefox\\firefox.exe", "-contentproc -isForBrowser", "Firefox"),
    (f"{_SYSTEM}taskhostw.exe", "-RegisterDevice -Periodic", "Host Process for Windows Tasks"),
    ("C:\\Program Files\\Example Office\\mailer.exe", "/recycle", "Example Mail"),
    (f"{_SYSTEM}cmd.exe", '/c "dir %TEMP% > nul"', "Windows Command Processor"),
    (f"{_SYSTEM}WindowsPowerShell\\v1.0\\powershell.exe", "-File C:\\Tools\\inventory.ps1", "Windows PowerShell"),
    (f"{_SYSTEM}conhost.exe", "0xffffffff -ForceV1", "Console Window Host"),
    ("C:\\Program Files\\Example Office\\sheets.exe", '"C:\\Users\\Public\\plan.xlsx"', "Example Sheets"),
    (f"{_SYSTEM}ipconfig.exe", "/all", "IP Configuration Utility"),
    (f"{_SYSTEM}schtasks.exe", "/query /fo list", "Task Scheduler Configuration Tool"),
    (f"{_SYSTEM}whoami.exe", "/groups", "whoami - displays logged on user information"),
    (f"{_SYSTEM}net.exe", "use \\\\file01\\projects", "Net Command"),
    (f"{_SYSTEM}rundll32.exe", "shell32.dll,Control_RunDLL", "Windows host process (Rundll32)"),
)  # fmt: skip
_MODULES = ("sechost.dll", "kernel32.dll", "rpcrt4.dll", "user32.dll", "amsi.dll", "dbghelp.dll", "winhttp.dll")
_FILES = ("AppData\\Local\\Temp\\~tmp", "Documents\\draft-", "AppData\\Roaming\\Example\\cache-", "Downloads\\part-")
_KEYS = (
    "HKLM\\System\\CurrentControlSet\\Services\\W32Time\\Start",
    "HKU\\.DEFAULT\\Software\\Example\\Office\\Options\\Zoom",
    "HKLM\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion\\Run\\ExampleSync",
    "HKLM\\System\\CurrentControlSet\\Services\\Tcpip\\Parameters\\EnableDHCP",
)
_SCRIPTS = (
    "Get-CimInstance Win32_OperatingSystem | Select-Object Caption, Version | Export-Csv C:\\Tools\\os.csv",
    "foreach ($name in Get-Content C:\\Tools\\hosts.txt) {\r\n    Test-Connection -ComputerName $name -Count 1\r\n}",
    'Get-Service | Where-Object { $_.Status -eq "Stopped" } | Format-Table Name',
    "$age = (Get-Date).AddDays(-30)\r\nGet-ChildItem C:\\Logs | Where-Object LastWriteTime -lt $age | Remove-Item",
)


class Windows:
    """Plans what happens on Windows hosts; `plan` draws something ordinary, the others are what stories are made of."""

    def __init__(self, dice: Dice, world: World) -> None:
        self._dice = dice
        self._world = world
        self._record = 100_000
        self._all = [self.program(*program) for program in _PROGRAMS]
        self._programs = Skewed(dice, self._all)
        self._modules = Skewed(
            dice, [{"module": escaped(_SYSTEM + name), "module_hashes": self._hashes()} for name in _MODULES]
        )
        self._files = Skewed(dice, list(map(escaped, _FILES)))
        self._keys = Skewed(dice, list(map(escaped, _KEYS)))
        self._scripts = Skewed(dice, list(map(escaped, _SCRIPTS)))
        self._kinds = Skewed(
            dice, [self._process, self._session, self._mistyped, self._shell, self._process, self._accounts]
        )
        self._account = 0

    def plan(self) -> list[Step]:
        return self._kinds.pick()()

    def program(self, image: str, arguments: str, description: str) -> Values:
        """The values of a program: as long as it is the same one, so are its hashes."""
        return {
            "image": escaped(image),
            "command": escaped(f'"{image}" {arguments}'),
            "description": escaped(description),
            "original": image.rpartition("\\")[2],
            "hashes": self._hashes(),
        }

    def step(self, event: Shapes, host: Host, values: Values) -> Step:
        """One event on a host, in the shape that the host's agent writes."""
        self._record += 1
        own = {"fqdn": host.fqdn, "record": self._record, "thread": 4 * (self._record % 2000 + 100)}
        return "windows", event[host.agent], values | own

    def actor(self, person: Person) -> Values:
        """A person's session on a host."""
        logon = f"{self._dice.bits(28):x}"
        return {"user": person.name, "sid": person.sid, "logon": logon, "logon_guid": self._dice.uuid()}

    def process(self, actor: Values, program: Values, parent: Values) -> Values:
        """A new process of a program, in the session of an actor."""
        dice = self._dice
        numbers = dice.bits(24)
        pid, parent_pid = 4 * (numbers & 4095) + 400, 4 * (numbers >> 12) + 400
        return actor | program | {
            "guid": dice.uuid(),
            "pid": pid,
            "pid_hex": f"{pid:x}",
            "parent_guid": dice.uuid(),
            "parent_pid": parent_pid,
            "parent_pid_hex": f"{parent_pid:x}",
            "parent_image": parent["image"],
            "parent_command": parent["command"],
        }  # fmt: skip

    def created(self, host: Host, process: Values) -> Step:
        """The creation of a process, as Sysmon reports it, or the Security log where there is no Sysmon."""
        return self.step(SECURITY[4688] if host.address.packed[3] & 3 == 3 else SYSMON[1], host, process)

    def signed_in(self, host: Host, actor: Values, ip: str, logon_type: int, *, privileged: bool) -> list[Step]:
        values = actor | self.origin(ip, logon_type)
        steps = [self.step(SECURITY[4624], host, values)]
        if privileged:
            steps.append(self.step(SECURITY[4672], host, values))
        return steps

    def origin(self, ip: str, logon_type: int, workstation: str = "-") -> Values:
        """Where a sign-in comes from."""
        return {"ip": ip, "port": self._dice.ephemeral_port(), "logon_type": logon_type, "workstation": workstation}

    def refused(self, host: Host, user: str, ip: str, logon_type: int) -> Step:
        return self.step(SECURITY[4625], host, {"user": user} | self.origin(ip, logon_type))

    def account(self, person: Person) -> Values:
        """A new account in the person's domain."""
        self._account += 1
        return {"account": f"svc.task{self._account:03}", "account_sid": f"{person.sid[:-4]}{5000 + self._account}"}

    def browsing(self, person: Person, connection: Values) -> list[Step]:
        """What Sysmon on the client shows of a connection: the lookup of the name, then the connection."""
        process = self.process(self.actor(person), self._all[1], self._all[0])
        values = connection | process | {"rdata": connection["dest_ip"]}
        return [self.step(SYSMON[number], person.host, values) for number in (22, 3)]

    def _hashes(self) -> str:
        sizes = (("SHA1", 40), ("MD5", 32), ("SHA256", 64), ("IMPHASH", 32))
        return ",".join(f"{name}={self._dice.hex(size).upper()}" for name, size in sizes)

    def _process(self) -> list[Step]:
        """A process starts, loads modules, touches files, keys or another process, and mostly ends."""
        dice, step = self._dice, self.step
        person = self._world.people.pick()
        host = person.host
        process = self.process(self.actor(person), self._programs.pick(), self._programs.pick())
        steps = [self.created(host, process)]
        steps += [step(SYSMON[7], host, process | self._modules.pick()) for _ in range(dice.bits(2))]
        draw = dice.uniform()
        if draw < 0.4:
            name = f"C:\\\\Users\\\\{person.name}\\\\{self._files.pick()}{process['guid'][:6]}"
            steps.append(step(SYSMON[11], host, process | {"file": name}))
        if 0.3 < draw < 0.7:
            steps.append(step(SYSMON[13], host, process | {"key": self._keys.pick(), "digit": dice.bits(3)}))
        if draw > 0.8:
            target = self._programs.pick()
            accessed = {"target_guid": dice.uuid(), "target_pid": 8 * dice.bits(10) + 400, "access": "1000"}
            accessed |= {"target_image": target["image"]}
            steps.append(step(SYSMON[10], host, process | accessed | self._modules.pick()))
        if draw < 0.8:
            steps.append(step(SYSMON[5], host, process))
        return steps

    def _session(self) -> list[Step]:
        """Someone signs in to a server over the network, perhaps after a slip of the finger, and out again."""
        person, server = self._world.people.pick(), self._world.servers.pick()
        actor, ip = self.actor(person), person.host.address.text
        steps = self.signed_in(server, actor, ip, 3, privileged=self._dice.uniform() < 0.2)
        if self._dice.uniform() < 0.1:
            steps.insert(0, self.refused(server, person.name, ip, 3))
        steps.append(self.step(SECURITY[4634], server, actor | {"logon_type": 3}))
        return steps

    def _mistyped(self) -> list[Step]:
        """Someone unlocks the own workstation, once in a while only after a wrong password."""
        person = self._world.people.pick()
        steps = self.signed_in(person.host, self.actor(person), "127.0.0.1", 7, privileged=False)
        if self._dice.uniform() < 0.2:
            steps.insert(0, self.refused(person.host, person.name, "127.0.0.1", 7))
        return steps

    def _shell(self) -> list[Step]:
        """A PowerShell process and the script that it runs."""
        person = self._world.people.pick()
        process = self.process(self.actor(person), self._all[5], self._all[4])
        return [self.created(person.host, process), self.script(person.host, process, self._scripts.pick())]

    def script(self, host: Host, process: Values, text: str) -> Step:
        """A block of PowerShell; `text` is escaped already."""
        values = {"script": text, "block": self._dice.uuid(), "path": "C:\\\\Tools\\\\inventory.ps1"}
        return self.step(SHELL, host, process | values)

    def _accounts(self) -> list[Step]:
        """The help desk creates an account, or takes one away."""
        person, server = self._world.people.pick(), self._world.dns
        values = self.actor(person) | self.account(person)
        if self._dice.uniform() < 0.2:
            locked = self.origin("-", 3, person.host.name)
            return [self.step(SECURITY[4740], server, values | locked)]
        steps = [self.step(SECURITY[4720], server, values)]
        if self._dice.uniform() < 0.5:
            steps.append(self.step(SECURITY[4726], server, values))
        return steps
