"""The OCSF 1.8.0 record that every event becomes, as typed Structs, and the table of the classes in use.

Invariant: an attribute has the name, the type and the place that OCSF gives it; whatever has no place is in `unmapped`.
Structs are only built, encoded and decoded here; which native field goes where is in `pipeline/sources/*.toml`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct, field

__all__ = [
    "BASE_EVENT",
    "CLASSES",
    "OCSF_VERSION",
    "PROFILES",
    "Account",
    "Actor",
    "Analytic",
    "Api",
    "ApiRequest",
    "ApiResponse",
    "Attack",
    "AutonomousSystem",
    "Certificate",
    "Cloud",
    "ConnectionInfo",
    "DceRpc",
    "Device",
    "DnsAnswer",
    "DnsQuery",
    "Email",
    "Endpoint",
    "Enrichment",
    "Evidence",
    "File",
    "FindingInfo",
    "Fingerprint",
    "FirewallRule",
    "Group",
    "Hassh",
    "HttpRequest",
    "HttpResponse",
    "Job",
    "KernelDriver",
    "Location",
    "LongString",
    "ManagedEntity",
    "Metadata",
    "Module",
    "Observable",
    "OcsfClass",
    "OcsfEvent",
    "OperatingSystem",
    "Policy",
    "Process",
    "Product",
    "RegistryKey",
    "RegistryValue",
    "Resource",
    "Script",
    "Service",
    "Session",
    "Tactic",
    "Technique",
    "Tls",
    "Traffic",
    "TransformationInfo",
    "Url",
    "User",
    "WebResource",
    "WindowsService",
]

OCSF_VERSION = "1.8.0"

# The kinds of text: `kind` picks the check a value must pass, `observable` the type_id under which it is findable.
Hostname = Annotated[str, Meta(extra={"observable": 1})]
Ip = Annotated[str, Meta(extra={"kind": "ip", "observable": 2})]
Mac = Annotated[str, Meta(extra={"kind": "mac", "observable": 3})]
UserName = Annotated[str, Meta(extra={"observable": 4})]
EmailAddress = Annotated[str, Meta(extra={"kind": "email", "observable": 5})]
Hash = Annotated[str, Meta(extra={"observable": 8})]
Port = Annotated[int, Meta(extra={"kind": "port"})]
HttpMethod = Annotated[str, Meta(extra={"kind": "http_method"})]
Time = Annotated[int, Meta(extra={"kind": "time"})]


class _Object(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of the OCSF objects; attributes without a default are required by OCSF, of `at_least_one` any one."""

    at_least_one: ClassVar[tuple[str, ...]] = ()
    few: ClassVar[bool] = False
    """Whether the same ones come again and again, so that it pays to keep them encoded."""


class Product(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "uid")
    name: str | None = None
    uid: str | None = None
    vendor_name: str | None = None
    version: str | None = None


class TransformationInfo(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "uid")
    name: str | None = None
    uid: str | None = None


class Metadata(_Object, frozen=True, kw_only=True):
    version: str
    product: Product
    uid: str
    correlation_uid: str
    log_source: str | None = None
    original_time: str | None = None
    event_code: str | None = None
    log_name: str | None = None
    log_provider: str | None = None
    log_level: str | None = None
    log_version: str | None = None
    original_event_uid: str | None = None
    sequence: int | None = None
    source: str | None = None
    tenant_uid: str | None = None
    logged_time: Time | None = None
    labels: list[str] | None = None
    profiles: list[str] | None = None
    transformation_info_list: list[TransformationInfo] | None = None


class Enrichment(_Object, frozen=True, kw_only=True):
    """What a table knows of the value of an attribute."""

    name: str
    """The path of the attribute."""
    value: str
    data: Any
    type: str | None = None
    provider: str | None = None


class Fingerprint(_Object, frozen=True, kw_only=True):
    algorithm_id: int
    value: Hash


class Account(_Object, frozen=True, kw_only=True):
    few: ClassVar[bool] = True
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "uid")
    name: str | None = None
    uid: str | None = None
    type_id: int | None = None


class Group(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "uid")
    name: str | None = None
    uid: str | None = None
    domain: str | None = None


class User(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("account", "name", "uid")
    name: UserName | None = None
    uid: str | None = None
    domain: str | None = None
    type: str | None = None
    type_id: int | None = None
    account: Account | None = None
    credential_uid: str | None = None
    full_name: str | None = None
    uid_alt: str | None = None
    groups: list[Group] | None = None


class Location(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("city", "country", "postal_code", "region")
    country: str | None = None
    """ISO 3166-1 alpha-2."""
    region: str | None = None
    """ISO 3166-2 where the code is known, such as CH-VD, else the name."""
    city: str | None = None
    continent: str | None = None
    postal_code: str | None = None
    lat: float | None = None
    long: float | None = None
    isp: str | None = None
    provider: str | None = None
    """Who says so, not who provides the access: that is `isp`."""


class AutonomousSystem(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "number")
    number: int | None = None
    name: str | None = None


class OperatingSystem(_Object, frozen=True, kw_only=True):
    name: str
    type_id: int
    version: str | None = None


class Endpoint(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("ip", "hostname", "name", "svc_name", "uid", "domain", "instance_uid")
    ip: Ip | None = None
    port: Port | None = None
    hostname: Hostname | None = None
    mac: Mac | None = None
    name: str | None = None
    svc_name: str | None = None
    domain: str | None = None
    uid: str | None = None
    instance_uid: str | None = None
    vlan_uid: str | None = None
    vpc_uid: str | None = None
    zone: str | None = None
    interface_name: str | None = None
    interface_uid: str | None = None
    subnet_uid: str | None = None
    location: Location | None = None
    autonomous_system: AutonomousSystem | None = None
    isp: str | None = None
    type: str | None = None
    intermediate_ips: list[Ip] | None = None


class Device(_Object, frozen=True, kw_only=True):
    few: ClassVar[bool] = True
    at_least_one: ClassVar[tuple[str, ...]] = ("hostname", "ip", "name", "uid")
    type_id: int
    hostname: Hostname | None = None
    ip: Ip | None = None
    name: str | None = None
    uid: str | None = None
    location: Location | None = None
    is_compliant: bool | None = None
    is_managed: bool | None = None
    os: OperatingSystem | None = None


class File(_Object, frozen=True, kw_only=True):
    name: str
    type_id: int
    path: str | None = None
    ext: str | None = None
    url: Url | None = None
    parent_folder: str | None = None
    size: int | None = None
    mime_type: str | None = None
    desc: str | None = None
    version: str | None = None
    company_name: str | None = None
    internal_name: str | None = None
    hashes: list[Fingerprint] | None = None
    uid: str | None = None
    created_time: Time | None = None
    accessed_time: Time | None = None
    modified_time: Time | None = None


class Session(_Object, frozen=True, kw_only=True):
    uid: str | None = None
    issuer: str | None = None
    created_time: Time | None = None
    is_mfa: bool | None = None
    is_remote: bool | None = None
    terminal: str | None = None
    credential_uid: str | None = None
    uid_alt: str | None = None


class Process(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("pid", "uid")
    pid: int | None = None
    uid: str | None = None
    name: str | None = None
    path: str | None = None
    cmd_line: str | None = None
    working_directory: str | None = None
    integrity: str | None = None
    tid: int | None = None
    created_time: Time | None = None
    file: File | None = None
    user: User | None = None
    session: Session | None = None
    parent_process: Process | None = None


class Actor(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("process", "user", "invoked_by", "session", "app_name", "app_uid")
    process: Process | None = None
    user: User | None = None
    session: Session | None = None
    invoked_by: str | None = None
    app_name: str | None = None
    app_uid: str | None = None


class Service(_Object, frozen=True, kw_only=True):
    few: ClassVar[bool] = True
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "uid")
    name: str | None = None
    uid: str | None = None
    version: str | None = None


class ApiRequest(_Object, frozen=True, kw_only=True):
    uid: str
    data: Any = None


class ApiResponse(_Object, frozen=True, kw_only=True):
    code: int | None = None
    error: str | None = None
    error_message: str | None = None
    message: str | None = None
    data: Any = None


class Api(_Object, frozen=True, kw_only=True):
    operation: str
    service: Service | None = None
    version: str | None = None
    request: ApiRequest | None = None
    response: ApiResponse | None = None
    group: Group | None = None


class Cloud(_Object, frozen=True, kw_only=True):
    provider: str
    region: str | None = None
    zone: str | None = None
    account: Account | None = None
    project_uid: str | None = None
    cloud_partition: str | None = None


class Resource(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "uid")
    name: str | None = None
    uid: str | None = None
    type: str | None = None
    namespace: str | None = None


class WebResource(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "uid")
    name: str | None = None
    uid: str | None = None
    type: str | None = None
    url_string: str | None = None


class Url(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("path", "url_string")
    url_string: str | None = None
    path: str | None = None
    hostname: Hostname | None = None
    port: Port | None = None
    scheme: str | None = None
    query_string: str | None = None


class HttpRequest(_Object, frozen=True, kw_only=True):
    few: ClassVar[bool] = True
    http_method: HttpMethod | None = None
    url: Url | None = None
    user_agent: str | None = None
    referrer: str | None = None
    version: str | None = None
    body_length: int | None = None
    uid: str | None = None


class HttpResponse(_Object, frozen=True, kw_only=True):
    code: int
    message: str | None = None
    content_type: str | None = None
    body_length: int | None = None


class Certificate(_Object, frozen=True, kw_only=True):
    issuer: str
    serial_number: str
    subject: str | None = None
    version: str | None = None
    uid: str | None = None
    fingerprints: list[Fingerprint] | None = None
    created_time: Time | None = None
    expiration_time: Time | None = None


class Tls(_Object, frozen=True, kw_only=True):
    version: str
    sni: str | None = None
    cipher: str | None = None
    certificate: Certificate | None = None
    certificate_chain: list[str] | None = None
    ja3_hash: Fingerprint | None = None
    ja3s_hash: Fingerprint | None = None


class ConnectionInfo(_Object, frozen=True, kw_only=True):
    direction_id: int
    direction: str | None = None
    protocol_name: str | None = None
    protocol_num: int | None = None
    uid: str | None = None
    community_uid: str | None = None
    flag_history: str | None = None
    tcp_flags: int | None = None


class Traffic(_Object, frozen=True, kw_only=True):
    """Counts as the source of the connection saw them: out is towards the destination."""

    bytes: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    bytes_missed: int | None = None
    packets: int | None = None
    packets_in: int | None = None
    packets_out: int | None = None
    start_time: Time | None = None
    end_time: Time | None = None


class DnsQuery(_Object, frozen=True, kw_only=True):
    hostname: Hostname
    type: str | None = None
    class_: str | None = field(default=None, name="class")
    opcode: str | None = None
    opcode_id: int | None = None
    packet_uid: int | None = None


class DnsAnswer(_Object, frozen=True, kw_only=True):
    rdata: str
    type: str | None = None
    ttl: int | None = None
    class_: str | None = field(default=None, name="class")


class Email(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("from", "to")
    from_: EmailAddress | None = field(default=None, name="from")
    to: list[EmailAddress] | None = None
    subject: str | None = None
    message_uid: str | None = None
    smtp_from: EmailAddress | None = None
    smtp_to: list[EmailAddress] | None = None
    from_mailbox: str | None = None
    reply_to: EmailAddress | None = None
    size: int | None = None
    uid: str | None = None


class Analytic(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "uid")
    type_id: int
    uid: str | None = None
    name: str | None = None
    category: str | None = None
    version: str | None = None


class Tactic(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "uid")
    name: str | None = None
    uid: str | None = None


class Technique(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "uid")
    name: str | None = None
    uid: str | None = None


class Attack(_Object, frozen=True, kw_only=True):
    """What MITRE ATT&CK calls it."""

    at_least_one: ClassVar[tuple[str, ...]] = ("tactic", "technique")
    tactic: Tactic | None = None
    technique: Technique | None = None


class FindingInfo(_Object, frozen=True, kw_only=True):
    uid: str
    title: str | None = None
    desc: str | None = None
    types: list[str] | None = None
    analytic: Analytic | None = None
    src_url: str | None = None
    attacks: list[Attack] | None = None
    created_time: Time | None = None
    modified_time: Time | None = None
    first_seen_time: Time | None = None
    last_seen_time: Time | None = None


class Evidence(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = (
        "src_endpoint",
        "dst_endpoint",
        "connection_info",
        "file",
        "process",
        "actor",
        "api",
        "data",
        "email",
        "query",
        "url",
        "user",
    )
    src_endpoint: Endpoint | None = None
    dst_endpoint: Endpoint | None = None
    connection_info: ConnectionInfo | None = None
    http_request: HttpRequest | None = None
    http_response: HttpResponse | None = None
    tls: Tls | None = None
    query: DnsQuery | None = None
    url: Url | None = None
    file: File | None = None
    process: Process | None = None
    user: User | None = None
    actor: Actor | None = None
    api: Api | None = None
    data: Any = None
    email: Email | None = None


class LongString(_Object, frozen=True, kw_only=True):
    value: str


class Script(_Object, frozen=True, kw_only=True):
    type_id: int
    script_content: LongString
    uid: str | None = None
    name: str | None = None
    file: File | None = None


class Job(_Object, frozen=True, kw_only=True):
    name: str
    desc: str | None = None
    cmd_line: str | None = None
    user: User | None = None


class Module(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("load_type_id", "function_name")
    load_type_id: int | None = None
    file: File | None = None
    function_name: str | None = None
    start_address: str | None = None


class KernelDriver(_Object, frozen=True, kw_only=True):
    file: File


class RegistryKey(_Object, frozen=True, kw_only=True):
    path: str


class RegistryValue(_Object, frozen=True, kw_only=True):
    name: str
    path: str
    data: Any = None
    type_id: int | None = None


class WindowsService(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("cmd_line", "service_start_name", "service_start_type_id")
    name: str
    cmd_line: str | None = None
    service_start_name: str | None = None
    service_start_type: str | None = None
    service_start_type_id: int | None = None
    service_type: str | None = None


class Policy(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "uid")
    name: str | None = None
    uid: str | None = None


class FirewallRule(_Object, frozen=True, kw_only=True):
    few: ClassVar[bool] = True
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "uid")
    name: str | None = None
    uid: str | None = None


class ManagedEntity(_Object, frozen=True, kw_only=True):
    at_least_one: ClassVar[tuple[str, ...]] = ("name", "uid")
    name: str | None = None
    uid: str | None = None
    type: str | None = None
    type_id: int | None = None


class Hassh(_Object, frozen=True, kw_only=True):
    fingerprint: Fingerprint


class DceRpc(_Object, frozen=True, kw_only=True):
    """OCSF also has flags and an interface; both are required there and not in any source here."""

    command: str | None = None
    opnum: int | None = None


class Observable(_Object, frozen=True, kw_only=True):
    name: str | None = None
    type_id: int
    value: str | None = None


class OcsfEvent(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One event. `class_uid` says which of the attributes may be present; `time` is in ms since 1970 (UTC)."""

    class_uid: int
    category_uid: int
    activity_id: int
    type_uid: int
    severity_id: int
    time: int
    metadata: Metadata
    message: str | None = None
    status: str | None = None
    status_id: int | None = None
    status_code: str | None = None
    status_detail: str | None = None
    action: str | None = None
    action_id: int | None = None
    disposition: str | None = None
    disposition_id: int | None = None
    is_alert: bool | None = None
    start_time: Time | None = None
    end_time: Time | None = None
    duration: int | None = None
    count: int | None = None
    src_endpoint: Endpoint | None = None
    dst_endpoint: Endpoint | None = None
    device: Device | None = None
    actor: Actor | None = None
    user: User | None = None
    user_result: User | None = None
    group: Group | None = None
    entity: ManagedEntity | None = None
    process: Process | None = None
    module: Module | None = None
    driver: KernelDriver | None = None
    file: File | None = None
    file_result: File | None = None
    reg_key: RegistryKey | None = None
    reg_value: RegistryValue | None = None
    prev_reg_key: RegistryKey | None = None
    win_service: WindowsService | None = None
    job: Job | None = None
    script: Script | None = None
    api: Api | None = None
    cloud: Cloud | None = None
    resources: list[Resource] | None = None
    web_resources: list[WebResource] | None = None
    policies: list[Policy] | None = None
    firewall_rule: FirewallRule | None = None
    service: Service | None = None
    session: Session | None = None
    privileges: list[str] | None = None
    logon_type: str | None = None
    logon_type_id: int | None = None
    auth_protocol: str | None = None
    auth_protocol_id: int | None = None
    is_mfa: bool | None = None
    is_remote: bool | None = None
    is_cleartext: bool | None = None
    logon_process: Process | None = None
    connection_info: ConnectionInfo | None = None
    traffic: Traffic | None = None
    app_name: str | None = None
    app_protocol_name: str | None = None
    protocol_name: str | None = None
    query: DnsQuery | None = None
    answers: list[DnsAnswer] | None = None
    rcode: str | None = None
    rcode_id: int | None = None
    http_request: HttpRequest | None = None
    http_response: HttpResponse | None = None
    http_status: int | None = None
    url: Url | None = None
    tls: Tls | None = None
    email: Email | None = None
    direction_id: int | None = None
    smtp_hello: str | None = None
    banner: str | None = None
    command: str | None = None
    command_responses: list[str] | None = None
    codes: list[int] | None = None
    type: str | None = None
    dialect: str | None = None
    client_dialects: list[str] | None = None
    share: str | None = None
    share_type: str | None = None
    tree_uid: str | None = None
    open_type: str | None = None
    client_hassh: Hassh | None = None
    server_hassh: Hassh | None = None
    protocol_ver: str | None = None
    identifier_cookie: str | None = None
    lease_dur: int | None = None
    transaction_uid: str | None = None
    log_name: str | None = None
    log_provider: str | None = None
    log_type: str | None = None
    log_type_id: int | None = None
    exit_code: int | None = None
    access_mask: int | None = None
    requested_permissions: int | None = None
    actual_permissions: int | None = None
    base_address: str | None = None
    connection_uid: str | None = None
    app: Product | None = None
    query_result_id: int | None = None
    risk_level: str | None = None
    risk_level_id: int | None = None
    finding_info: FindingInfo | None = None
    evidences: list[Evidence] | None = None
    confidence_id: int | None = None
    enrichments: list[Enrichment] | None = None
    observables: list[Observable] | None = None
    unmapped: dict[str, Any] | None = None


class OcsfClass(Struct, frozen=True, kw_only=True):
    """An OCSF event class: its numbers, the attributes it requires, and those of which it requires any one."""

    uid: int
    category_uid: int
    required: tuple[str, ...] = ()
    at_least_one: tuple[str, ...] = ()


_ENDPOINTS = ("dst_endpoint", "src_endpoint")


def _on_host(uid: int, *required: str) -> OcsfClass:
    return OcsfClass(uid=uid, category_uid=1, required=("actor", "device", *required))


def _network(uid: int) -> OcsfClass:
    return OcsfClass(uid=uid, category_uid=4, at_least_one=_ENDPOINTS)


PROFILES = {
    "action": "security_control",
    "action_id": "security_control",
    "actor": "host",
    "api": "cloud",
    "cloud": "cloud",
    "confidence_id": "security_control",
    "device": "host",
    "disposition": "security_control",
    "disposition_id": "security_control",
    "firewall_rule": "security_control",
    "is_alert": "security_control",
    "risk_level": "security_control",
    "risk_level_id": "security_control",
}
"""Attributes that a class has only under a profile, which the event then names, unless OCSF gives them to it anyway."""

BASE_EVENT = OcsfClass(uid=0, category_uid=0)

CLASSES: dict[str, OcsfClass] = {
    "account_change": OcsfClass(uid=3001, category_uid=3, required=("user",)),
    "api_activity": OcsfClass(uid=6003, category_uid=6, required=("actor", "api", "src_endpoint")),
    "application_lifecycle": OcsfClass(uid=6002, category_uid=6, required=("app",)),
    "authentication": OcsfClass(uid=3002, category_uid=3, required=("user",), at_least_one=("service", "dst_endpoint")),
    "authorize_session": OcsfClass(uid=3003, category_uid=3, required=("user", "privileges")),
    "base_event": BASE_EVENT,
    "data_security_finding": OcsfClass(uid=2006, category_uid=2, required=("finding_info",)),
    "detection_finding": OcsfClass(uid=2004, category_uid=2, required=("finding_info",)),
    "dhcp_activity": _network(4004),
    "dns_activity": _network(4003),
    "email_activity": OcsfClass(uid=4009, category_uid=4, required=("direction_id", "email")),
    "entity_management": OcsfClass(uid=3004, category_uid=3, required=("entity",)),
    "event_log_activity": OcsfClass(
        uid=1008, category_uid=1, at_least_one=("log_name", "log_provider", "log_type", "log_type_id")
    ),
    "file_activity": _on_host(1001, "file"),
    "file_hosting": OcsfClass(uid=6006, category_uid=6, required=("actor", "file", "src_endpoint")),
    "ftp_activity": _network(4008),
    "group_management": OcsfClass(uid=3006, category_uid=3, required=("group",)),
    "http_activity": OcsfClass(uid=4002, category_uid=4, at_least_one=("http_request", "http_response")),
    "inventory_info": OcsfClass(uid=5001, category_uid=5, required=("device",)),
    "kernel_extension_activity": _on_host(1002, "driver"),
    "memory_activity": _on_host(1004, "process"),
    "module_activity": _on_host(1005, "module"),
    "network_activity": _network(4001),
    "network_file_activity": OcsfClass(uid=4010, category_uid=4, required=("actor", "file", "src_endpoint")),
    "process_activity": _on_host(1007, "process"),
    "rdp_activity": _network(4005),
    "registry_key_activity": _on_host(201001, "reg_key"),
    "registry_value_activity": _on_host(201002, "reg_value"),
    "scheduled_job_activity": OcsfClass(uid=1006, category_uid=1, required=("device", "job")),
    "script_activity": _on_host(1009, "script"),
    "session_query": OcsfClass(uid=5017, category_uid=5, required=("query_result_id", "session")),
    "smb_activity": _network(4006),
    "ssh_activity": _network(4007),
    "tunnel_activity": OcsfClass(
        uid=4014, category_uid=4, at_least_one=("connection_info", "session", "src_endpoint", "traffic")
    ),
    "user_access": OcsfClass(uid=3005, category_uid=3, required=("privileges", "user")),
    "web_resources_activity": OcsfClass(uid=6001, category_uid=6, required=("web_resources",)),
    "windows_service_activity": _on_host(201004, "win_service"),
}
