"""The Terraform provider for AWS, a real program of others, in a whole engine: made in order, kept, looked at in vain, refused, deleted.

`TRIMTAB_AWS_PROVIDER` is the path of one (terraform-provider-aws, version 5); no package has it. moto plays AWS on loopback (`aws.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import aws as played
from aws import Aws
from engine_under_test import wait_for
from infrastructure_engine import CloudEngine, bare_engine

PROGRAM = Path(os.environ.get("TRIMTAB_AWS_PROVIDER", "/nonexistent"))
pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not PROGRAM.exists(), reason="TRIMTAB_AWS_PROVIDER names no terraform-provider-aws"),
    pytest.mark.skipif(not played.PYTHON.exists(), reason=f"there is no moto to play AWS: {played.MAKE}"),
]
GROUP = "aws.tf.trimtab.dev/v1"
ENABLED = (
    "s3_bucket", "s3_bucket_versioning", "s3_bucket_policy", "s3_bucket_public_access_block", "sqs_queue", "sns_topic",
    "sns_topic_subscription", "dynamodb_table", "iam_role", "iam_policy", "iam_role_policy_attachment", "iam_user", "iam_access_key", "vpc",
    "subnet", "security_group", "security_group_rule", "vpc_security_group_ingress_rule", "internet_gateway", "route_table", "kms_key",
    "kms_alias", "secretsmanager_secret", "secretsmanager_secret_version", "route53_zone", "route53_record", "ecr_repository", "eks_cluster",
    "cloudwatch_log_group", "ssm_parameter",
)  # fmt: skip
SERVICES = (
    "s3", "sqs", "sns", "dynamodb", "iam", "ec2", "kms", "secretsmanager", "route53", "ecr", "eks", "sts", "logs", "ssm",
)  # fmt: skip
KEY = "AKIATRIMTAB"
PATIENCE_S = 300
"""A queue takes AWS's provider 25 s by itself, a policy 10."""


class World:
    def __init__(self, engine: CloudEngine, aws: Aws) -> None:
        self.engine = engine
        self.aws = aws

    def status(self, kind: str, name: str) -> dict[str, Any]:
        found = self.engine.get(kind, name) or {}
        return dict(found.get("status") or {})

    def ready(self, *objects: dict[str, Any]) -> None:
        for one in objects:
            kind, name = one["kind"], one["metadata"]["name"]
            wait_for(
                lambda kind=kind, name=name: self._synced(kind, name),  # type: ignore[misc]
                PATIENCE_S,
                lambda kind=kind, name=name: f"{kind} {name}: {self.status(kind, name)}",  # type: ignore[misc]
            )

    def _synced(self, kind: str, name: str) -> bool:
        found = self.engine.get(kind, name)
        if found is None:
            return False
        status = found.get("status", {})
        said = {one["type"]: one["status"] for one in status.get("conditions", [])}
        return (said.get("Ready"), said.get("Synced"), status.get("observedGeneration")) == ("True", "True", found["metadata"]["generation"])  # fmt: skip

    def until(self, kind: str, name: str, reason: str) -> str:
        """Waits for a reason of Synced; what it says."""

        def met() -> str | None:
            one = self.engine.condition(kind, name, "Synced")
            return one.get("message") or "nothing" if one.get("reason") == reason else None

        return str(wait_for(met, PATIENCE_S, lambda: f"{kind} {name} {reason}: {self.status(kind, name)}"))

    def plan(self) -> int:
        """The exit code of `trimtab plan -A`: 2 when something would change."""
        done = self.engine.engine.run("plan", "-A", check=False)
        assert done.returncode in (0, 2), done.stdout + done.stderr
        return int(done.returncode)


def managed(
    kind: str, name: str, given: dict[str, Any], *refs: tuple[str, str, str, str], **spec: Any
) -> dict[str, Any]:
    """An object; refs: (field, kind, name, output) of others."""
    whole: dict[str, Any] = {"forProvider": given, "interval": "5s", **spec}
    if refs:
        whole["references"] = [{"field": f, "source": {"kind": k, "name": n, "field": o}} for f, k, n, o in refs]
    return {"apiVersion": GROUP, "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": whole}


def allow(action: str, **who: Any) -> str:
    one = {"Effect": "Allow", "Action": action, **(who or {"Resource": "*"})}
    return json.dumps({"Version": "2012-10-17", "Statement": [one]})


def everything() -> list[dict[str, Any]]:
    rules = [
        {"fromPort": 443, "toPort": 443, "protocol": "tcp", "cidrBlocks": ["0.0.0.0/0"], "description": "https"},
        {"fromPort": 80, "toPort": 80, "protocol": "tcp", "cidrBlocks": ["10.0.0.0/8", "192.168.0.0/16"]},
    ]
    out = [{"fromPort": 0, "toPort": 0, "protocol": "-1", "cidrBlocks": ["0.0.0.0/0"]}]
    trust = allow("sts:AssumeRole", Principal={"Service": "eks.amazonaws.com"})
    bucket, vpc, db = ("bucket", "S3Bucket", "logs", "id"), ("vpcId", "Vpc", "main", "id"), ("securityGroupId", "SecurityGroup", "db", "id")  # fmt: skip
    words = {"name": "login", "key": "password"}
    indexed = {"hashKey": "id", "rangeKey": "at", "attribute": [{"name": n, "type": t} for n, t in (("id", "S"), ("at", "N"), ("who", "S"))]}  # fmt: skip
    indexed["globalSecondaryIndex"] = [{"name": "by-who", "hashKey": "who", "projectionType": "ALL"}]
    return [
        managed("S3Bucket", "logs", {"bucket": "tt-logs"}),
        managed("S3BucketVersioning", "logs", {"versioningConfiguration": [{"status": "Enabled"}]}, bucket),
        managed("S3BucketPublicAccessBlock", "logs", {"blockPublicAcls": True}, bucket),
        managed("S3BucketPolicy", "logs", {"policy": allow("s3:GetObject", Principal="*", Resource="arn:aws:s3:::tt-logs/*")}, bucket),
        managed("SqsQueue", "jobs", {"name": "jobs", "visibilityTimeoutSeconds": 45, "tags": {"team": "blue"}}),
        managed("SnsTopic", "news", {"name": "news"}),
        managed("SnsTopicSubscription", "news", {"protocol": "sqs"}, ("topicArn", "SnsTopic", "news", "arn"), ("endpoint", "SqsQueue", "jobs", "arn")),
        managed("DynamodbTable", "orders", {"name": "orders", "billingMode": "PAY_PER_REQUEST", **indexed}),
        managed("IamRole", "eks", {"name": "eks", "assumeRolePolicy": trust}),
        managed("IamPolicy", "read", {"name": "read", "policy": allow("s3:Get*")}),
        managed("IamRolePolicyAttachment", "eks", {}, ("role", "IamRole", "eks", "name"), ("policyArn", "IamPolicy", "read", "arn")),
        managed("IamUser", "ci", {"name": "ci"}),
        managed("IamAccessKey", "ci", {}, ("user", "IamUser", "ci", "name"), connection={"secretName": "ci-key", "data": {"id": "{{ id }}", "secret": "{{ secret }}"}}),
        managed("Vpc", "main", {"cidrBlock": "10.0.0.0/16", "enableDnsHostnames": True, "tags": {"Name": "main"}}),
        managed("Subnet", "s1", {"cidrBlock": "10.0.1.0/24", "availabilityZone": "eu-central-1a"}, vpc),
        managed("Subnet", "s2", {"cidrBlock": "10.0.2.0/24", "availabilityZone": "eu-central-1b"}, vpc),
        managed("SecurityGroup", "web", {"name": "web", "description": "web", "ingress": rules, "egress": out}, vpc),
        managed("SecurityGroup", "db", {"name": "db", "description": "db"}, vpc),
        managed("SecurityGroupRule", "db", {"type": "ingress", "fromPort": 5432, "toPort": 5432, "protocol": "tcp"}, db, ("sourceSecurityGroupId", "SecurityGroup", "web", "id")),
        managed("VpcSecurityGroupIngressRule", "db", {"fromPort": 5433, "toPort": 5433, "ipProtocol": "tcp", "cidrIpv4": "10.1.0.0/16"}, db),
        managed("InternetGateway", "main", {}, vpc),
        managed("RouteTable", "main", {"route": [{"cidrBlock": "0.0.0.0/0"}]}, vpc, ("route[0].gatewayId", "InternetGateway", "main", "id")),
        managed("KmsKey", "k", {"description": "k", "deletionWindowInDays": 7}),
        managed("KmsAlias", "k", {"name": "alias/k"}, ("targetKeyId", "KmsKey", "k", "keyId")),
        managed("SecretsmanagerSecret", "login", {"name": "login", "recoveryWindowInDays": 0}),
        managed("SecretsmanagerSecretVersion", "login", {"secretStringWoSecretRef": words, "secretStringWoVersion": 1}, ("secretId", "SecretsmanagerSecret", "login", "id")),
        managed("Route53Zone", "z", {"name": "example.org"}),
        managed("Route53Record", "www", {"name": "www", "type": "A", "ttl": 60, "records": ["10.0.0.1", "10.0.0.2"]}, ("zoneId", "Route53Zone", "z", "zoneId")),
        managed("EcrRepository", "app", {"name": "app", "imageScanningConfiguration": [{"scanOnPush": True}]}),
        managed("EksCluster", "prod", {"name": "prod", "vpcConfig": [{}]}, ("roleArn", "IamRole", "eks", "arn"),
                *((f"vpcConfig[0].subnetIds[{n}]", "Subnet", f"s{n + 1}", "id") for n in range(2))),
        managed("CloudwatchLogGroup", "app", {"name": "/app", "retentionInDays": 7}),
        managed("SsmParameter", "p", {"name": "/app/p", "type": "SecureString", "valueSecretRef": words}),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Aws() as aws, bare_engine() as engine:
        engine.engine.run("provider", "install", "hashicorp/aws@5.100.0", "--path", str(PROGRAM), timeout_s=600)
        engine.engine.run("provider", "enable", "aws", *(f"aws_{kind}" for kind in ENABLED), timeout_s=600)
        config = {
            "region": "eu-central-1",
            "s3_use_path_style": True,
            "skip_credentials_validation": True,
            "skip_metadata_api_check": "true",
            "endpoints": [dict.fromkeys(SERVICES, aws.url)],
            "default_tags": [{"tags": {"owner": "trimtab"}}],
        }
        secrets = {field: {"name": "aws", "key": field} for field in ("access_key", "secret_key")}
        spec = {
            "provider": "aws",
            "requestsPerSecond": 100,
            "removalsPerInterval": 20,
            "config": config,
            "secrets": secrets,
        }
        engine.apply(
            secret("aws", access_key=KEY, secret_key="hush"),
            secret("login", password="first-word"),
            {
                "apiVersion": "trimtab.dev/v1alpha1",
                "kind": "ProviderConfig",
                "metadata": {"name": "default"},
                "spec": spec,
            },
        )
        world = World(engine, aws)
        engine.apply(*everything())
        world.ready(*everything())
        yield world


def secret(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def test_what_nobody_touches_does_not_drift(world: World) -> None:
    looks = world.aws.calls["sns GetTopicAttributes"] + 20
    since = world.engine.engine.last_entry()

    wait_for(lambda: world.aws.calls["sns GetTopicAttributes"] >= looks, PATIENCE_S, "twenty looks")

    assert world.plan() == 0
    told = [entry for entry in world.engine.engine.timeline() if entry.get("id", 0) > since]
    reasons = [(entry.get("data") or {}).get("reason", "") for entry in told]
    assert not {"Drifted", "Updated", "Gone", "NonConvergent", "ProviderError"} & set(reasons), told


def test_what_somebody_changes_is_set_back_and_said_to_be_drift(world: World) -> None:
    group = world.status("SecurityGroup", "web")["id"]
    since = world.engine.engine.last_entry()
    opened = {"GroupId": group, "IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "0.0.0.0/0"}

    world.aws.do("ec2", "authorize_security_group_ingress", **opened)
    world.aws.do("dynamodb", "delete_table", TableName="orders")

    def ports() -> set[int]:
        found = world.aws.do("ec2", "describe_security_groups", GroupIds=[group])["SecurityGroups"]
        return {rule["FromPort"] for rule in found[0]["IpPermissions"]}

    def updated() -> list[str]:
        told = [entry for entry in world.engine.engine.timeline() if entry.get("id", 0) > since]
        return [e["message"] for e in told if (e.get("data") or {}).get("reason") == "Updated"]

    wait_for(lambda: ports() == {80, 443}, PATIENCE_S, "the port closed again")
    wait_for(
        lambda: world.aws.do("dynamodb", "list_tables")["TableNames"] == ["orders"], PATIENCE_S, "the table made anew"
    )
    [said] = wait_for(updated, PATIENCE_S, "it is told")
    assert "ingress (drift)" in said
    assert "(spec)" not in said
    world.ready(*everything())


def test_a_write_only_value_is_sent_and_kept_nowhere(world: World) -> None:
    def sent() -> str:
        return str(world.aws.do("secretsmanager", "get_secret_value", SecretId="login")["SecretString"])

    assert sent() == "first-word"
    state = world.engine.get("Secret", "login-secretsmanagersecretversion-state")
    assert state is not None
    assert "first-word" not in json.dumps(state)
    connection = world.engine.get("Secret", "ci-key")
    assert connection is not None
    assert set(connection["data"]) == {"id", "secret"}


def test_what_has_to_be_made_anew_waits_for_who_may_say_so(world: World) -> None:
    before = world.status("Subnet", "s2")["id"]
    vpc = ("vpcId", "Vpc", "main", "id")
    other = managed("Subnet", "s3", {"cidrBlock": "10.0.3.0/24"}, vpc)
    world.engine.apply(other)
    world.ready(other)
    anew = managed("Subnet", "s3", {"cidrBlock": "10.0.33.0/24"}, vpc, policy={"replace": "approve"})
    world.engine.apply(anew)

    said = world.until("Subnet", "s3", "ApprovalNeeded")
    digest = world.status("Subnet", "s3")["plan"]["digest"]
    assert digest in said
    noted = {**anew, "metadata": {**anew["metadata"], "annotations": {"trimtab.dev/approve": digest}}}
    world.engine.apply(noted)

    world.ready(other)
    wait_for(
        lambda: world.status("Subnet", "s3")["atProvider"]["cidrBlock"] == "10.0.33.0/24", PATIENCE_S, "another subnet"
    )
    world.engine.engine.run("delete", "Subnet", "s3", "-n", "default", timeout_s=PATIENCE_S)
    assert world.status("Subnet", "s2")["id"] == before


def test_too_many_requests_and_an_expired_credential_are_said_in_aws_words(world: World) -> None:
    world.aws.faults(throttled={"sqs": 4})
    looks = world.aws.calls["sqs GetQueueAttributes"] + 6
    wait_for(lambda: world.aws.calls["sqs GetQueueAttributes"] >= looks, PATIENCE_S, "looks on, after what was refused")
    world.aws.faults(expired=KEY)
    said = world.until("SnsTopic", "news", "ProviderError")
    assert said.endswith("api error ExpiredToken: The security token included in the request is expired")
    world.until("Vpc", "main", "ProviderError")
    world.aws.faults()
    world.ready(*everything())
    assert len(world.aws.do("sns", "list_topics")["Topics"]) == 1


def test_what_exists_is_taken_over(world: World) -> None:
    world.aws.do("sns", "create_topic", Name="older")
    number = "arn:aws:sns:eu-central-1:123456789012:older"

    printed = world.engine.engine.run("provider", "import", "aws", "aws_sns_topic", number).stdout

    manifest = yaml.safe_load(printed)
    assert manifest["spec"]["policy"]["adopt"] == f"id:{number}"
    world.engine.apply(manifest)
    world.ready(manifest)
    assert [t["TopicArn"] for t in world.aws.do("sns", "list_topics")["Topics"]].count(number) == 1


def test_a_bucket_with_something_in_it_is_not_deleted(world: World) -> None:
    bucket = managed("S3Bucket", "full", {"bucket": "tt-full"})
    world.engine.apply(bucket)
    world.ready(bucket)
    world.aws.do("s3", "put_object", Bucket="tt-full", Key="a", Body="x")
    world.engine.engine.run("delete", "S3Bucket", "full", "-n", "default", "--no-wait")

    assert "BucketNotEmpty" in world.until("S3Bucket", "full", "ProviderError")

    world.aws.do("s3", "delete_object", Bucket="tt-full", Key="a")
    wait_for(lambda: world.engine.get("S3Bucket", "full") is None, PATIENCE_S, "the empty bucket deleted")


def test_the_end_of_it_is_in_order(world: World) -> None:
    places = [(one["kind"], one["metadata"]["name"]) for one in everything()]
    for kind, name in places:
        world.engine.engine.run("delete", kind, name, "-n", "default", "--no-wait")

    wait_for(lambda: not any(world.engine.get(*place) for place in places), 600, world.engine.engine.logs)

    assert world.aws.do("s3", "list_buckets")["Buckets"] == []
    assert [one for one in world.aws.do("ec2", "describe_vpcs")["Vpcs"] if not one["IsDefault"]] == []
    assert world.aws.do("eks", "list_clusters")["clusters"] == []
    assert world.aws.do("iam", "list_users")["Users"] == []
    assert world.aws.do("route53", "list_hosted_zones")["HostedZones"] == []
    assert world.engine.get("Secret", "ci-key") is None
