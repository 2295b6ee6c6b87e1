"""Records of the cloud sources, written after their vendors' documentation: one of each kind that a rule looks for."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["RECORDS", "WRAPPED", "base"]

Record = dict[str, Any]


def base(source: str, name: str, **change: Any) -> Record:
    """A copy of a record with some of its top-level fields changed."""
    return {**json.loads(json.dumps(RECORDS[source][name])), **change}


def _finding(kind: str, resource: Record, action: Record, **more: Any) -> Record:
    return {
        "schemaVersion": "2.0",
        "accountId": "111122223333",
        "region": "eu-west-1",
        "partition": "aws",
        "id": "f4c1d2e3a5b6978877665544332211aa",
        "arn": "arn:aws:guardduty:eu-west-1:111122223333:detector/d1/finding/f4c1d2e3a5b6978877665544332211aa",
        "type": kind,
        "resource": resource,
        "service": {
            "serviceName": "guardduty",
            "detectorId": "d1",
            "action": action,
            "resourceRole": "TARGET",
            "additionalInfo": {"value": "{}", "type": "default"},
            "evidence": None,
            "eventFirstSeen": "2026-03-01T08:00:00.000Z",
            "eventLastSeen": "2026-03-01T09:30:00.000Z",
            "archived": False,
            "count": 4,
        },
        "severity": 5.3,
        "createdAt": "2026-03-01T08:10:00.123Z",
        "updatedAt": "2026-03-01T09:40:00.456Z",
        "title": f"A finding of type {kind}.",
        "description": "What happened.",
        **more,
    }


_REMOTE = {
    "ipAddressV4": "203.0.113.9",
    "organization": {"asn": "64500", "asnOrg": "Example", "isp": "Example", "org": "Example"},
    "country": {"countryName": "Nowhere"},
    "city": {"cityName": ""},
    "geoLocation": {"lat": 1.5, "lon": 2.5},
}
_INSTANCE = {
    "resourceType": "Instance",
    "instanceDetails": {
        "instanceId": "i-0abc",
        "instanceType": "m5.large",
        "platform": None,
        "networkInterfaces": [{"privateIpAddress": "10.1.2.3", "vpcId": "vpc-1"}],
        "tags": [],
    },
}
_KEY = {
    "resourceType": "AccessKey",
    "accessKeyDetails": {
        "accessKeyId": "AKIAEXAMPLE7",
        "principalId": "AIDAEXAMPLE",
        "userType": "IAMUser",
        "userName": "mira",
    },
}
_API_CALL = {
    "actionType": "AWS_API_CALL",
    "awsApiCallAction": {
        "api": "ListBuckets",
        "serviceName": "s3.amazonaws.com",
        "callerType": "Remote IP",
        "remoteIpDetails": _REMOTE,
        "errorCode": "AccessDenied",
    },
}


def _connection(direction: str) -> Record:
    return {
        "actionType": "NETWORK_CONNECTION",
        "networkConnectionAction": {
            "connectionDirection": direction,
            "localIpDetails": {"ipAddressV4": "10.1.2.3"},
            "localPortDetails": {"port": 22, "portName": "SSH"},
            "remoteIpDetails": _REMOTE,
            "remotePortDetails": {"port": 51234, "portName": "Unknown"},
            "protocol": "TCP",
            "blocked": False,
        },
    }


def _entry(log: str, method: str, service: str, **payload: Any) -> Record:
    return {
        "insertId": "1a2b3c4d5e",
        "logName": f"projects/acme-prod/logs/cloudaudit.googleapis.com%2F{log}",
        "protoPayload": {
            "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
            "serviceName": service,
            "methodName": method,
            "authenticationInfo": {"principalEmail": "ada@example.com", "principalSubject": "user:ada@example.com"},
            "authorizationInfo": [{"permission": "some.permission", "granted": True}],
            "requestMetadata": {
                "callerIp": "203.0.113.20",
                "callerSuppliedUserAgent": "google-cloud-sdk gcloud/460.0.0",
                "requestAttributes": {"time": "2026-03-02T10:00:00.1Z", "auth": {}},
            },
            "resourceName": "projects/acme-prod/zones/europe-west1-b/instances/web-1",
            "status": {},
            **payload,
        },
        "resource": {
            "type": "gce_instance",
            "labels": {"project_id": "acme-prod", "instance_id": "42", "zone": "europe-west1-b"},
        },
        "severity": "NOTICE",
        "timestamp": "2026-03-02T10:00:00.123456789Z",
        "receiveTimestamp": "2026-03-02T10:00:01.5Z",
    }


def _kubernetes(verb: str, ref: Record, code: int = 200, **more: Any) -> Record:
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "RequestResponse",
        "auditID": "0c5c4c2e-5c1f-4b6d-9f3a-1d2e3f405162",
        "stage": "ResponseComplete",
        "requestURI": "/api/v1/namespaces/shop/pods/web-0",
        "verb": verb,
        "user": {
            "username": "system:serviceaccount:shop:deployer",
            "uid": "5d2f",
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "extra": {"authentication.kubernetes.io/pod-name": ["ci-1"], "accessKeyId": ["ASIAEXAMPLE"]},
        },
        "sourceIPs": ["198.51.100.4", "10.0.0.2"],
        "userAgent": "kubectl/v1.31.0",
        "objectRef": ref,
        "responseStatus": {"metadata": {}, "code": code},
        "requestReceivedTimestamp": "2026-03-03T11:00:00.000001Z",
        "stageTimestamp": "2026-03-03T11:00:00.250001Z",
        "annotations": {
            "authorization.k8s.io/decision": "allow" if code < 400 else "forbid",
            "authorization.k8s.io/reason": "RBAC: allowed by RoleBinding",
        },
        **more,
    }


_POD = {"resource": "pods", "namespace": "shop", "name": "web-0", "uid": "77aa", "apiVersion": "v1"}


def _azure(operation: str, **more: Any) -> Record:
    return {
        "time": "2026-03-04T12:00:00.1234567Z",
        "resourceId": "/SUBSCRIPTIONS/0B1C2D3E-0000-4000-8000-000000000001/RESOURCEGROUPS/RG/PROVIDERS/"
        "MICROSOFT.COMPUTE/VIRTUALMACHINES/VM-1",
        "operationName": operation,
        "category": "Administrative",
        "resultType": "Start",
        "resultSignature": "Started.",
        "durationMs": 0,
        "callerIpAddress": "203.0.113.30:50123",
        "correlationId": "aaaabbbb-0000-4000-8000-000000000002",
        "identity": {
            "authorization": {"scope": "/subscriptions/x", "action": operation, "evidence": {"role": "Contributor"}},
            "claims": {
                "appid": "c44b4083-0000-4000-8000-000000000003",
                "name": "Ada Lovelace",
                "http://schemas.microsoft.com/identity/claims/objectidentifier": "0d0d-ada",
                "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn": "ada@example.com",
            },
        },
        "level": "Information",
        "location": "westeurope",
        "tenantId": "7e7e7e7e-0000-4000-8000-000000000004",
        **more,
    }


def _m365(kind: int, operation: str, workload: str, **more: Any) -> Record:
    return {
        "CreationTime": "2026-03-05T13:00:00",
        "Id": "6f1e2d3c-4b5a-4968-8776-5544332211ff",
        "Operation": operation,
        "OrganizationId": "7e7e7e7e-0000-4000-8000-000000000004",
        "RecordType": kind,
        "ResultStatus": "Success",
        "UserKey": "10030000A1B2C3D4",
        "UserType": 0,
        "Version": 1,
        "Workload": workload,
        "ClientIP": "203.0.113.40",
        "ObjectId": "Not Available",
        "UserId": "ada@example.com",
        **more,
    }


def _changed(**properties: str) -> Record:
    return {
        "ModifiedProperties": [
            {"Name": name.replace("_", "."), "NewValue": value, "OldValue": ""} for name, value in properties.items()
        ]
    }


_ENTRA = "AzureActiveDirectory"
_FILE = {
    "ItemType": "File",
    "SiteUrl": "https://example.sharepoint.com/sites/hr/",
    "SourceRelativeUrl": "Shared Documents/pay",
    "SourceFileName": "salaries.xlsx",
    "SourceFileExtension": "xlsx",
    "ListItemUniqueId": "5e5e-item",
    "ObjectId": "https://example.sharepoint.com/sites/hr/Shared Documents/pay/salaries.xlsx",
    "UserAgent": "Mozilla/5.0",
    "AppAccessContext": {"AADSessionId": "s-1", "ClientAppId": "app-1", "UniqueTokenId": "t-1"},
}

_ASSUMED = {
    "type": "AssumedRole",
    "principalId": "AROAEXAMPLE:mira",
    "arn": "arn:aws:sts::111122223333:assumed-role/analyst/mira",
    "accountId": "111122223333",
    "accessKeyId": "ASIAEXAMPLE7",
}

RECORDS: dict[str, dict[str, Record]] = {
    "aws_cloudtrail": {
        "read": {
            "eventVersion": "1.11",
            "userIdentity": _ASSUMED,
            "eventTime": "2026-03-01T09:44:00Z",
            "eventSource": "s3.amazonaws.com",
            "eventName": "GetObject",
            "awsRegion": "eu-west-1",
            "sourceIPAddress": "203.0.113.9",
            "userAgent": "aws-cli/2.15",
            "requestParameters": {"bucketName": "pay", "key": "salaries.xlsx"},
            "responseElements": None,
            "requestID": "R1EXAMPLE",
            "eventID": "3f0a6c1e-0f7b-4c55-9a53-0a1b2c3d4e5f",
            "readOnly": True,
            "resources": [{"type": "AWS::S3::Object", "ARN": "arn:aws:s3:::pay/salaries.xlsx"}],
            "eventType": "AwsApiCall",
            "recipientAccountId": "111122223333",
        },
        "sign_in": {
            "eventVersion": "1.08",
            "userIdentity": {"type": "IAMUser", "userName": "mira", "accountId": "111122223333"},
            "eventTime": "2026-03-01T09:45:00Z",
            "eventSource": "signin.amazonaws.com",
            "eventName": "ConsoleLogin",
            "awsRegion": "us-east-1",
            "sourceIPAddress": "203.0.113.9",
            "userAgent": "Mozilla/5.0",
            "responseElements": {"ConsoleLogin": "Failure"},
            "errorMessage": "Failed authentication",
            "eventID": "4f0a6c1e-0f7b-4c55-9a53-0a1b2c3d4e5f",
            "eventType": "AwsConsoleSignIn",
            "recipientAccountId": "111122223333",
        },
    },
    "aws_guardduty": {
        "api": _finding("Discovery:IAMUser/AnomalousBehavior", _KEY, _API_CALL, severity=8),
        "inbound": _finding("UnauthorizedAccess:EC2/SSHBruteForce", _INSTANCE, _connection("INBOUND")),
        "outbound": _finding("CryptoCurrency:EC2/BitcoinTool.B", _INSTANCE, _connection("OUTBOUND")),
        "dns": _finding(
            "Trojan:EC2/DNSDataExfiltration",
            _INSTANCE,
            {"actionType": "DNS_REQUEST", "dnsRequestAction": {"domain": "bad.example.com", "protocol": "UDP"}},
        ),
        "bucket": _finding(
            "Exfiltration:S3/AnomalousBehavior",
            {
                **_KEY,
                "resourceType": "S3Bucket",
                "s3BucketDetails": [
                    {"arn": "arn:aws:s3:::pay", "name": "pay", "type": "Destination"},
                    {"arn": "arn:aws:s3:::hr", "name": "hr", "type": "Destination"},
                ],
            },
            _API_CALL,
        ),
        "runtime": _finding(
            "PrivilegeEscalation:Runtime/DockerSocketAccessed",
            {"resourceType": "Container", "containerDetails": {"id": "c1", "name": "web", "image": "web:1"}},
            {},
        )
        | {
            "service": {
                "count": 1,
                "archived": True,
                "runtimeDetails": {"process": {"pid": 7, "name": "nc", "executablePath": "/bin/nc", "user": "root"}},
            }
        },
        "kubernetes": _finding(
            "Discovery:Kubernetes/TorIPCaller",
            {
                "resourceType": "EKSCluster",
                "eksClusterDetails": {"name": "prod", "arn": "arn:aws:eks:eu-west-1:111122223333:cluster/prod"},
                "kubernetesDetails": {"kubernetesUserDetails": {"username": "system:anonymous", "uid": "u"}},
            },
            {
                "actionType": "KUBERNETES_API_CALL",
                "kubernetesApiCallAction": {
                    "requestUri": "/api/v1/secrets",
                    "verb": "list",
                    "sourceIPs": ["203.0.113.9"],
                    "userAgent": "curl/8",
                    "remoteIpDetails": _REMOTE,
                    "statusCode": 200,
                },
            },
        ),
        "database": _finding(
            "CredentialAccess:RDS/AnomalousBehavior.SuccessfulLogin",
            {
                "resourceType": "RDSDBInstance",
                "rdsDbInstanceDetails": {"dbInstanceIdentifier": "pay", "dbInstanceArn": "arn:aws:rds:db:pay"},
                "rdsDbUserDetails": {"user": "admin", "database": "pay"},
            },
            {"actionType": "RDS_LOGIN_ATTEMPT", "rdsLoginAttemptAction": {"remoteIpDetails": _REMOTE}},
        ),
    },
    "gcp_audit": {
        "activity": _entry(
            "activity",
            "v1.compute.instances.insert",
            "compute.googleapis.com",
            request={"name": "web-1"},
            response={"status": "RUNNING"},
        ),
        "data_access": _entry(
            "data_access",
            "storage.objects.get",
            "storage.googleapis.com",
            status={"code": 7, "message": "PERMISSION_DENIED"},
        )
        | {"severity": "ERROR"},
        "system_event": _entry(
            "system_event",
            "compute.instances.migrateOnHostMaintenance",
            "compute.googleapis.com",
            authenticationInfo={},
        ),
        "policy_denied": _entry(
            "policy",
            "google.storage.objects.list",
            "storage.googleapis.com",
            status={"code": 7, "message": "Request is prohibited by organization's policy"},
            metadata={"violationReason": "NO_MATCHING_ACCESS_LEVEL"},
        ),
        "sign_in": _entry("data_access", "google.login.LoginService.loginFailure", "login.googleapis.com"),
        "service_account": _entry(
            "activity",
            "google.iam.admin.v1.CreateServiceAccountKey",
            "iam.googleapis.com",
            resourceName="projects/-/serviceAccounts/110022",
        )
        | {
            "resource": {
                "type": "service_account",
                "labels": {
                    "project_id": "acme-prod",
                    "email_id": "ci@acme-prod.iam.gserviceaccount.com",
                    "unique_id": "110022",
                },
            }
        },
        "iam_policy": _entry(
            "activity",
            "SetIamPolicy",
            "cloudresourcemanager.googleapis.com",
            resourceName="projects/acme-prod",
            serviceData={
                "policyDelta": {
                    "bindingDeltas": [
                        {"action": "ADD", "role": "roles/owner", "member": "user:eve@example.net"},
                        {"action": "ADD", "role": "roles/viewer", "member": "user:eve@example.net"},
                    ]
                }
            },
        ),
        "redacted": _entry(
            "data_access",
            "google.iam.credentials.v1.IAMCredentials.GenerateAccessToken",
            "iamcredentials.googleapis.com",
            authenticationInfo={},
            requestMetadata={"callerIp": "gce-internal-ip"},
        ),
        "request": {
            "insertId": "lb1",
            "logName": "projects/acme-prod/logs/requests",
            "httpRequest": {
                "requestMethod": "GET",
                "requestUrl": "https://shop.example.com/a?b=c",
                "requestSize": "120",
                "status": 403,
                "userAgent": "curl/8",
                "remoteIp": "203.0.113.9",
                "serverIp": "10.0.0.7",
            },
            "jsonPayload": {
                "statusDetails": "denied_by_security_policy",
                "enforcedSecurityPolicy": {"name": "armor", "outcome": "DENY"},
            },
            "resource": {"type": "http_load_balancer", "labels": {"project_id": "acme-prod"}},
            "severity": "WARNING",
            "timestamp": "2026-03-02T10:00:00Z",
        },
    },
    "kubernetes_audit": {
        "get": _kubernetes("get", _POD),
        "list": _kubernetes("list", {"resource": "secrets", "namespace": "shop", "apiVersion": "v1"}, 403),
        "exec": _kubernetes("create", {**_POD, "subresource": "exec"}, 101),
        "service_account": _kubernetes(
            "create", {"resource": "serviceaccounts", "namespace": "shop", "name": "robot", "apiVersion": "v1"}, 201
        ),
        "rbac": _kubernetes(
            "create",
            {
                "resource": "clusterrolebindings",
                "name": "all-power",
                "apiGroup": "rbac.authorization.k8s.io",
                "apiVersion": "v1",
            },
            201,
            requestObject={"kind": "ClusterRoleBinding", "roleRef": {"name": "cluster-admin"}},
        ),
        "anonymous": _kubernetes("get", {}, 401, user={}, sourceIPs=["::1"], requestURI="/version"),
    },
    "azure_activity": {
        "write": _azure("MICROSOFT.COMPUTE/VIRTUALMACHINES/WRITE", properties={"requestbody": '{"a":1}'}),
        "action": _azure(
            "Microsoft.Storage/storageAccounts/regenerateKey/action", resultType="Failure", resultSignature="Failed."
        ),
        "rest": {
            "caller": "ada@example.com",
            "category": {"localizedValue": "Administrative", "value": "Administrative"},
            "channels": "Operation",
            "claims": {
                "appid": "c44b4083",
                "http://schemas.microsoft.com/identity/claims/objectidentifier": "0d0d-ada",
            },
            "correlationId": "aaaabbbb-0000-4000-8000-000000000002",
            "description": "",
            "eventDataId": "f5f5f5f5-0000-4000-8000-000000000005",
            "eventName": {"localizedValue": "End request", "value": "EndRequest"},
            "eventTimestamp": "2026-03-04T12:00:01.5Z",
            "httpRequest": {"clientIpAddress": "203.0.113.30", "method": "DELETE"},
            "level": "Warning",
            "operationName": {"localizedValue": "Delete", "value": "Microsoft.KeyVault/vaults/delete"},
            "resourceId": "/subscriptions/0b1c2d3e-0000-4000-8000-000000000001/resourceGroups/rg/providers/"
            "Microsoft.KeyVault/vaults/kv",
            "status": {"localizedValue": "Succeeded", "value": "Succeeded"},
            "submissionTimestamp": "2026-03-04T12:00:20Z",
            "tenantId": "7e7e7e7e-0000-4000-8000-000000000004",
        },
        "security": _azure(
            "Microsoft.Security/locations/alerts/activate/action",
            category="Security",
            resultType="Active",
            properties={
                "eventName": "Suspicious sign-in to a virtual machine",
                "category": "Unknown",
                "severity": "High",
                "compromisedEntity": "VM-1",
                "attackerIp": "198.51.100.77",
                "userName": "root",
            },
        ),
        "health": _azure(
            "Microsoft.Resourcehealth/healthevent/Activated/action",
            category="ResourceHealth",
            properties={"title": "Degraded", "cause": "PlatformInitiated"},
        ),
        "storage": {
            "time": "2026-03-04T12:00:02.5Z",
            "resourceId": "/subscriptions/0b1c/resourceGroups/rg/providers/Microsoft.Storage/storageAccounts/acc",
            "operationName": "GetBlob",
            "category": "StorageRead",
            "callerIpAddress": "203.0.113.30:50123",
            "statusCode": 403,
            "properties": {"metricResponseType": "AuthorizationFailure", "objectKey": "/acc/pay/salaries.xlsx"},
        },
    },
    "m365_unified_audit": {
        "sign_in": _m365(
            15,
            "UserLoginFailed",
            _ENTRA,
            ActorIpAddress="203.0.113.40",
            ApplicationId="4345a7b9",
            ErrorNumber="50126",
            LogonError="InvalidUserNameOrPassword",
            ExtendedProperties=[
                {"Name": "UserAgent", "Value": "Mozilla/5.0"},
                {"Name": "RequestType", "Value": "OAuth2:Token"},
            ],
            Target=[{"ID": "00000002-0000-0000-c000-000000000000", "Type": 0}],
        ),
        "account": _m365(8, "Reset user password.", _ENTRA, ObjectId="bob@example.com"),
        "group_joined": _m365(
            8,
            "Add member to group.",
            _ENTRA,
            ObjectId="bob@example.com",
            **_changed(Group_ObjectID='"9a9a"', Group_DisplayName='"Payroll"'),
        ),
        "role_granted": _m365(
            8,
            "Add member to role.",
            _ENTRA,
            ObjectId="bob@example.com",
            **_changed(Role_DisplayName='"Global Administrator"'),
        ),
        "directory": _m365(
            8,
            "Add service principal.",
            _ENTRA,
            Target=[
                {"ID": "ServicePrincipal_1b1b", "Type": 2},
                {"ID": "1b1b", "Type": 2},
                {"ID": "ServicePrincipal", "Type": 2},
                {"ID": "Backup tool", "Type": 1},
            ],
        ),
        "exchange_admin": _m365(
            1,
            "New-InboxRule",
            "Exchange",
            ClientIP="[2001:db8::7]:51000",
            ObjectId="EURP01A001\\ada\\rule",
            Parameters=[{"Name": "ForwardTo", "Value": "eve@example.net"}],
            ResultStatus="True",
            SessionId="s-9",
        ),
        "mail_sent": _m365(
            2,
            "SendAs",
            "Exchange",
            MailboxOwnerUPN="boss@example.com",
            SendAsUserSmtp="boss@example.com",
            ClientInfoString="Client=OWA",
            Item={"Id": "i-1", "Subject": "Invoice", "InternetMessageId": "<m1@example.com>", "SizeInBytes": 4096},
            ResultStatus="Succeeded",
        ),
        "mailbox": _m365(
            50,
            "MailItemsAccessed",
            "Exchange",
            MailboxOwnerUPN="boss@example.com",
            MailboxGuid="mb-1",
            ResultStatus="Succeeded",
        ),
        "mailbox_sign_in": _m365(
            2, "MailboxLogin", "Exchange", ClientInfoString="Client=POP3", ResultStatus="Succeeded"
        ),
        "file": _m365(6, "FileDownloaded", "SharePoint", **_FILE),
        "file_moved": _m365(
            6, "FileMoved", "OneDrive", **_FILE, DestinationFileName="x.xlsx", DestinationRelativeUrl="Public"
        ),
        "shared": _m365(14, "AnonymousLinkCreated", "SharePoint", **_FILE),
        "site": _m365(
            4,
            "SiteCollectionAdminAdded",
            "SharePoint",
            ItemType="Site",
            ObjectId="https://example.sharepoint.com/sites/hr",
        ),
        "power_bi": _m365(
            20,
            "ExportReport",
            "PowerBI",
            IsSuccess=True,
            ReportName="Revenue",
            ReportId="r-1",
            ReportType="PowerBIReport",
            WorkSpaceName="Finance",
        ),
        "teams_sign_in": _m365(25, "TeamsSessionStarted", "MicrosoftTeams"),
        "team": _m365(
            25,
            "MemberAdded",
            "MicrosoftTeams",
            TeamName="Deal room",
            TeamGuid="19:abc@thread.skype",
            Members=[{"UPN": "eve@example.net", "DisplayName": "Eve", "Role": 3}],
        ),
        "alert": _m365(
            40,
            "AlertTriggered",
            "SecurityComplianceCenter",
            AlertId="al-1",
            AlertType="System",
            Category="ThreatManagement",
            Comments="New alert",
            Data='{"op":"MailRedirect"}',
            Name="Suspicious email forwarding",
            PolicyId="po-1",
            Severity="High",
            Status="Active",
            UserType="4",
            RecordType="40",
        ),
        "threat": _m365(
            28,
            "TIMailData",
            "ThreatIntelligence",
            NetworkMessageId="nm-1",
            P1Sender="eve@example.net",
            P2Sender="boss@example.com",
            Recipients=["ada@example.com", "bob@example.com"],
            SenderIp="198.51.100.77",
            Subject="Invoice",
            Verdict="Phish",
            DeliveryAction="Blocked",
            DetectionMethod="Fingerprint matching",
        ),
        "dlp": _m365(
            13,
            "DlpRuleMatch",
            "Exchange",
            IncidentId="in-1",
            PolicyDetails=[
                {
                    "PolicyId": "p",
                    "PolicyName": "Card numbers",
                    "Rules": [
                        {"RuleName": "few", "Severity": "Low", "Actions": ["NotifyUser"]},
                        {"RuleName": "many", "Severity": "High", "Actions": ["BlockAccess"]},
                    ],
                }
            ],
            ExchangeMetaData={
                "From": "ada@example.com",
                "To": ["eve@example.net"],
                "Subject": "list",
                "MessageID": "<m>",
            },
            UserId="DlpAgent",
            UserType=4,
        ),
        "compliance": _m365(24, "SearchStarted", "SecurityComplianceCenter", ObjectId="case 1"),
    },
    "ocsf": {
        "sign_in": {
            "metadata": {
                "version": "1.1.0",
                "uid": "ev-1",
                "product": {"name": "IdP", "vendor_name": "Example", "feature": {"name": "core"}},
                "profiles": ["cloud"],
            },
            "class_uid": 3002,
            "class_name": "Authentication",
            "category_uid": 3,
            "activity_id": 1,
            "activity_name": "Logon",
            "type_uid": 300201,
            "severity_id": 1,
            "severity": "Informational",
            "status_id": 2,
            "time": 1_772_000_000_123,
            "user": {"name": "ada", "uid": "u-1", "risk_score": 7},
            "service": {"name": "console"},
            "src_endpoint": {"ip": "203.0.113.50", "location": {"country": "NL"}},
            "cloud": {"provider": "AWS", "region": "eu-west-1"},
            "unmapped": {"vendor": "field"},
        },
        "finding": {
            "metadata": {"version": "1.8.0", "product": {"name": "Scanner"}, "correlation_uid": "case-1"},
            "class_uid": 2002,
            "category_uid": 2,
            "activity_id": 1,
            "type_uid": 200201,
            "severity_id": 4,
            "time": 1_772_000_000_456,
            "finding_info": {"uid": "f-1", "title": "Old library"},
            "vulnerabilities": [{"cve": {"uid": "CVE-2026-0001"}}],
            "resources": [{"uid": "r-1", "criticality": "high", "colour": "red"}, {"name": "r-2"}],
        },
    },
}

_CONTROL = RECORDS["m365_unified_audit"]["file"]
WRAPPED: dict[str, list[tuple[str, Record]]] = {
    "aws_cloudtrail": [
        ("read", {"Records": [RECORDS["aws_cloudtrail"]["read"]]}),
        (
            "read",
            {
                "version": "0",
                "id": "cd2d702e-ab31-411b-9344-793ce56b1bc8",
                "detail-type": "AWS API Call via CloudTrail",
                "source": "aws.s3",
                "account": "444455556666",
                "time": "2026-03-01T09:50:00Z",
                "region": "us-east-1",
                "resources": [],
                "detail": RECORDS["aws_cloudtrail"]["read"],
            },
        ),
        (
            "sign_in",
            {
                "detail-type": "AWS Console Sign In via CloudTrail",
                "id": "1",
                "detail": RECORDS["aws_cloudtrail"]["sign_in"],
            },
        ),
    ],
    "aws_guardduty": [
        (
            "api",
            {
                "version": "0",
                "id": "cd2d702e-ab31-411b-9344-793ce56b1bc7",
                "detail-type": "GuardDuty Finding",
                "source": "aws.guardduty",
                "account": "111122223333",
                "time": "2026-03-01T09:45:00Z",
                "region": "us-east-1",
                "resources": [],
                "detail": RECORDS["aws_guardduty"]["api"],
            },
        ),
        ("bucket", {"findings": [RECORDS["aws_guardduty"]["bucket"]]}),
        ("dns", {"Records": [RECORDS["aws_guardduty"]["dns"]]}),
    ],
    "gcp_audit": [
        ("activity", {"entries": [RECORDS["gcp_audit"]["activity"]]}),
        ("iam_policy", {"log": json.dumps(RECORDS["gcp_audit"]["iam_policy"])}),
    ],
    "kubernetes_audit": [
        ("get", {"date": 1.5, "stream": "stdout", "log": json.dumps(RECORDS["kubernetes_audit"]["get"])}),
        ("exec", {"@timestamp": "x", "@message": RECORDS["kubernetes_audit"]["exec"]}),
        ("list", {"message": json.dumps(RECORDS["kubernetes_audit"]["list"])}),
        (
            "rbac",
            {
                "category": "kube-audit",
                "operationName": "Microsoft.ContainerService/managedClusters/diagnosticLogs/Read",
                "properties": {"log": json.dumps(RECORDS["kubernetes_audit"]["rbac"]), "pod": "kube-apiserver-1"},
                "time": "2026-03-03T11:00:00.3Z",
            },
        ),
        ("get", {"kind": "EventList", "metadata": {}, "items": [RECORDS["kubernetes_audit"]["get"]]}),
    ],
    "azure_activity": [
        ("write", {"records": [RECORDS["azure_activity"]["write"]]}),
        ("rest", {"records": [RECORDS["azure_activity"]["rest"]]}),
    ],
    "m365_unified_audit": [
        (
            "file",
            {
                "RecordType": "SharePointFileOperation",
                "CreationDate": "2026-03-05T13:00:00Z",
                "UserIds": "ada@example.com",
                "Operations": "FileDownloaded",
                "AuditData": json.dumps(_CONTROL),
                "ResultIndex": 1,
            },
        ),
        ("file", {"id": "q", "operation": "FileDownloaded", "auditData": _CONTROL}),
        ("team", {"records": [RECORDS["m365_unified_audit"]["team"]]}),
    ],
}
"""Wrapped records, each with the name of the record inside."""
