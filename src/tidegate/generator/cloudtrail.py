"""AWS CloudTrail records: sessions of API calls by users, roles, services and root, and sign-ins to the console.

Invariant: `eventID` is a fresh UUID in every record; the calls of one session share identity, address and user agent.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from tidegate.generator.template import Step, Values, escaped, template
from tidegate.generator.world import Dice, Person, Skewed, World

__all__ = ["CALLS", "Call", "CloudTrail"]

_ACCOUNT = "111122223333"
_BROWSER = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0"
_TOOLS = (
    "aws-cli/2.22.5 md/awscrt#0.23.1 ua/2.0 os/linux#6.8.0 md/arch#x86_64 lang/python#3.12.6 cfg/retry-mode#standard",
    "Boto3/1.35.70 md/Botocore#1.35.70 ua/2.0 os/linux#6.8.0 md/arch#x86_64 lang/python#3.12.3 Botocore/1.35.70",
    "APN/1.0 HashiCorp/1.0 Terraform/1.9.8 (+https://www.terraform.io) aws-sdk-go-v2/1.32.5 os/linux lang/go#1.23.3",
    _BROWSER,
)


class Call(NamedTuple):
    """An API call as a record of its success and one of its refusal."""

    allowed: str
    denied: str


def _record(service: str, name: str, fields: dict[str, Any], *, version: str = "1.09") -> str:
    host = "signin.aws.amazon.com" if service == "signin" else f"{service}.${{region}}.amazonaws.com"
    return template(
        {
            "eventVersion": version,
            "userIdentity": "#$identity",
            "eventTime": "${iso}Z",
            "eventSource": f"{service}.amazonaws.com",
            "eventName": name,
            "awsRegion": "$region",
            "sourceIPAddress": "$ip",
            "userAgent": "$agent",
            **fields,
            "recipientAccountId": _ACCOUNT,
            "tlsDetails": {
                "tlsVersion": "TLSv1.3",
                "cipherSuite": "TLS_AES_128_GCM_SHA256",
                "clientProvidedHostHeader": host,
            },
        }
    )


def _call(
    service: str, name: str, parameters: Any, response: Any = None, *, reads: bool = True, data_of: str = ""
) -> Call:
    """`data_of` is the type of the resource for a data event, which names the resource too."""

    def fields(response: Any, error: dict[str, Any]) -> dict[str, Any]:
        resources = [{"type": data_of, "ARN": "arn:aws:s3:::$bucket/$key"}] if data_of else None
        return {
            **error,
            "requestParameters": parameters,
            "responseElements": response,
            **(
                {"additionalEventData": {"SignatureVersion": "SigV4", "bytesTransferredOut": "#$size"}}
                if data_of
                else {}
            ),
            "requestID": "$request_id",
            "eventID": "$event_id",
            "readOnly": reads,
            **({"resources": resources} if resources else {}),
            "eventType": "AwsApiCall",
            "managementEvent": not data_of,
            "eventCategory": "Data" if data_of else "Management",
        }

    message = f"User: $arn is not authorized to perform: {service}:{name} because no identity-based policy allows it"
    error = {
        "errorCode": "Client.UnauthorizedOperation" if service == "ec2" else "AccessDenied",
        "errorMessage": message,
    }
    return Call(_record(service, name, fields(response, {})), _record(service, name, fields(None, error)))


def _instances(*names: str) -> dict[str, Any]:
    return {"instancesSet": {"items": [{"instanceId": name} for name in names]}}


_USER = f"arn:aws:iam::{_ACCOUNT}:user/$new_user"
_TRAIL = {"name": f"arn:aws:cloudtrail:$region:{_ACCOUNT}:trail/organisation"}
_NEW_USER = {
    "user": {"path": "/", "arn": _USER, "userId": "AIDA$unique", "createDate": "${iso}Z", "userName": "$new_user"}
}
_NEW_KEY = {"accessKey": {"accessKeyId": "AKIA$unique", "status": "Active", "userName": "$new_user"}}
_ADMIN = {"userName": "$new_user", "policyArn": "arn:aws:iam::aws:policy/AdministratorAccess"}
_OBJECT = {"bucketName": "$bucket", "Host": "$bucket.s3.amazonaws.com", "key": "$key"}
_ROLE = {"roleArn": f"arn:aws:iam::{_ACCOUNT}:role/$role", "roleSessionName": "$session", "durationSeconds": 3600}
_CREDENTIALS = {"credentials": {"accessKeyId": "ASIA$unique"}, "assumedRoleUser": {"arn": "$role_arn/$session"}}
_OPENED = {
    "items": [{"ipProtocol": "tcp", "fromPort": 22, "toPort": 22, "ipRanges": {"items": [{"cidrIp": "0.0.0.0/0"}]}}]
}

CALLS = {
    "GetObject": _call("s3", "GetObject", _OBJECT, data_of="AWS::S3::Object"),
    "DescribeInstances": _call("ec2", "DescribeInstances", {**_instances("$instance"), "filterSet": {}}),
    "AssumeRole": _call("sts", "AssumeRole", _ROLE, _CREDENTIALS),
    "PutObject": _call("s3", "PutObject", _OBJECT, reads=False, data_of="AWS::S3::Object"),
    "Decrypt": _call("kms", "Decrypt", {"encryptionAlgorithm": "SYMMETRIC_DEFAULT", "keyId": "alias/$role"}),
    "GetCallerIdentity": _call("sts", "GetCallerIdentity", None),
    "DescribeSecurityGroups": _call("ec2", "DescribeSecurityGroups", {"securityGroupSet": {}, "filterSet": {}}),
    "ListBuckets": _call("s3", "ListBuckets", {"Host": "s3.amazonaws.com"}),
    "GetSecretValue": _call("secretsmanager", "GetSecretValue", {"secretId": "prod/$role/password"}),
    "DescribeLogGroups": _call("logs", "DescribeLogGroups", {"logGroupNamePrefix": "/aws/lambda/$role"}),
    "GetParameter": _call("ssm", "GetParameter", {"name": "/service/$role/endpoint", "withDecryption": True}),
    "ListFunctions": _call("lambda", "ListFunctions20150331", {"maxItems": 50}),
    "DescribeDBInstances": _call("rds", "DescribeDBInstances", {"dBInstanceIdentifier": "$role-db"}),
    "ListUsers": _call("iam", "ListUsers", None),
    "GetBucketAcl": _call("s3", "GetBucketAcl", {"bucketName": "$bucket", "acl": ""}),
    "StopInstances": _call("ec2", "StopInstances", _instances("$instance"), _instances("$instance"), reads=False),
    "RunInstances": _call(
        "ec2",
        "RunInstances",
        {"instanceType": "t3.medium", "instancesSet": {"items": [{"imageId": "ami-0$image", "minCount": 1}]}},
        {"reservationId": "r-0$image", "ownerId": _ACCOUNT, **_instances("$instance")},
        reads=False,
    ),
    "AuthorizeSecurityGroupIngress": _call(
        "ec2",
        "AuthorizeSecurityGroupIngress",
        {"groupId": "sg-0$image", "ipPermissions": _OPENED},
        {"_return": True},
        reads=False,
    ),
    "CreateUser": _call("iam", "CreateUser", {"userName": "$new_user"}, _NEW_USER, reads=False),
    "AttachUserPolicy": _call("iam", "AttachUserPolicy", _ADMIN, reads=False),
    "CreateAccessKey": _call("iam", "CreateAccessKey", {"userName": "$new_user"}, _NEW_KEY, reads=False),
    "StopLogging": _call("cloudtrail", "StopLogging", _TRAIL, reads=False),
}
_ORDINARY = list(CALLS)[:-4]


def _sign_in(outcome: str, error: dict[str, str]) -> str:
    fields = {
        **error,
        "requestParameters": None,
        "responseElements": {"ConsoleLogin": outcome},
        "additionalEventData": {
            "LoginTo": "https://console.aws.amazon.com/console/home",
            "MobileVersion": "No",
            "MFAUsed": "$mfa",
        },
        "eventID": "$event_id",
        "readOnly": False,
        "eventType": "AwsConsoleSignIn",
        "managementEvent": True,
        "eventCategory": "Management",
    }
    return _record("signin", "ConsoleLogin", fields, version="1.08")


_SIGNED_IN = _sign_in("Success", {})
_REFUSED = _sign_in("Failure", {"errorMessage": "Failed authentication"})


class CloudTrail:
    """Plans what happens in the cloud account; `plan` draws a session, the others are what stories are made of."""

    def __init__(self, dice: Dice, world: World, session_start: int) -> None:
        self._dice = dice
        self._world = world
        self._since = datetime.fromtimestamp(session_start, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._unique = {person.name: self._code() for person in world.people.all}
        self._roles = Skewed(dice, ["orders-api", "build-runner", "reporting", "backup", "admin", "data-lake"])
        self._calls = Skewed(dice, _ORDINARY)
        self._tools = Skewed(dice, list(map(escaped, _TOOLS)))
        self._regions = Skewed(dice, ["eu-central-1", "us-east-1", "eu-west-1"])
        self._buckets = Skewed(dice, [f"example-{name}" for name in ("assets", "logs", "exports", "backups", "site")])
        self._keys = Skewed(dice, [f"data/part-{number:05}.parquet" for number in range(200)])
        self._instances = Skewed(dice, [f"i-0{dice.hex(16)}" for _ in range(60)])
        self._new = 0

    def plan(self) -> list[Step]:
        """A session: who it is, from where, then one to eight calls, of which a few are refused."""
        dice = self._dice
        person = self._world.people.pick()
        draw = dice.uniform()
        if draw < 0.05:
            return [self.sign_in(self.user(person, person.cloud_address), mfa="Yes")]
        if draw < 0.06:
            return [self.sign_in(self.root(person.cloud_address), mfa="Yes")]
        if draw < 0.45:
            who = self.user(person, person.cloud_address)
        elif draw < 0.9:
            who = self.role(person)
        else:
            who = self.service()
        return [self.call(self._calls.pick(), who, denied=dice.uniform() < 0.05) for _ in range(1 + dice.bits(3))]

    def user(self, person: Person, ip: str) -> Values:
        """A session of an IAM user."""
        arn = f"arn:aws:iam::{_ACCOUNT}:user/{person.name}"
        code = self._unique[person.name]
        identity = {
            "type": "IAMUser",
            "principalId": f"AIDA{code}",
            "arn": arn,
            "accountId": _ACCOUNT,
            "accessKeyId": f"AKIA{code}",
            "userName": person.name,
        }
        return self._session(identity, arn, person.name, ip, self._tools.pick())

    def role(self, person: Person) -> Values:
        """A session of a role that a person has taken."""
        role = self._roles.pick()
        arn = f"arn:aws:sts::{_ACCOUNT}:assumed-role/{role}/{person.name}"
        identity = {
            "type": "AssumedRole",
            "principalId": f"AROA{self._unique[person.name]}:{person.name}",
            "arn": arn,
            "accountId": _ACCOUNT,
            "accessKeyId": f"ASIA{self._code()}",
            "sessionContext": {
                "sessionIssuer": {
                    "type": "Role",
                    "principalId": f"AROA{self._unique[person.name]}",
                    "arn": f"arn:aws:iam::{_ACCOUNT}:role/{role}",
                    "accountId": _ACCOUNT,
                    "userName": role,
                },
                "attributes": {"creationDate": self._since, "mfaAuthenticated": "true"},
            },
        }
        return self._session(identity, arn, person.name, person.cloud_address, self._tools.pick())

    def service(self) -> Values:
        """An AWS service that acts for the account; it is its own address and user agent."""
        name = "lambda.amazonaws.com" if self._dice.bits(1) else "autoscaling.amazonaws.com"
        return self._session({"type": "AWSService", "invokedBy": name}, name, "service", name, name)

    def root(self, ip: str) -> Values:
        arn = f"arn:aws:iam::{_ACCOUNT}:root"
        identity = {"type": "Root", "principalId": _ACCOUNT, "arn": arn, "accountId": _ACCOUNT}
        return self._session(identity, arn, "root", ip, _BROWSER)

    def browser(self, who: Values) -> Values:
        """The same session from a browser, as for the console."""
        return who | {"agent": _BROWSER}

    def call(self, name: str, who: Values, *, denied: bool = False) -> Step:
        dice = self._dice
        own = {
            "event_id": dice.uuid(),
            "request_id": dice.uuid(),
            "bucket": self._buckets.pick(),
            "key": self._keys.pick(),
            "instance": self._instances.pick(),
            "size": dice.bits(20),
        }
        return "aws_cloudtrail", CALLS[name].denied if denied else CALLS[name].allowed, who | own

    def sign_in(self, who: Values, *, mfa: str, success: bool = True) -> Step:
        own = {"event_id": self._dice.uuid(), "mfa": mfa}
        return "aws_cloudtrail", _SIGNED_IN if success else _REFUSED, self.browser(who) | own

    def _session(self, identity: dict[str, Any], arn: str, session: str, ip: str, agent: str) -> Values:
        self._new += 1
        role = self._roles.pick()
        return {
            "identity": msgspec.json.encode(identity).decode(),
            "arn": arn,
            "session": session,
            "ip": ip,
            "agent": agent,
            "region": self._regions.pick(),
            "role": role,
            "role_arn": f"arn:aws:sts::{_ACCOUNT}:assumed-role/{role}",
            "image": self._dice.hex(16),
            "new_user": f"svc-sync-{self._new}",
            "unique": self._code(),
        }

    def _code(self) -> str:
        """What follows the prefix of an identifier that AWS hands out; `EXAMPLE` shows that it is none."""
        return "EXAMPLE" + self._dice.hex(9).upper()
