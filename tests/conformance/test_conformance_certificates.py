"""CertificateSigningRequests on either server: what one may be, who decides, and what of it may change. What signs them is a
controller: `test_workloads_signing.py`."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import kubernetes
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SIGNER = "example.com/e2e"


def request(*groups: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, "ann")]
    subject += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject)).sign(key, hashes.SHA256())
    return base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode()


@pytest.fixture
def certificates(client: Any) -> Any:
    return kubernetes.client.CertificatesV1Api(client)


@pytest.fixture
def name(certificates: Any) -> Iterator[str]:
    made = f"ann-{secrets.token_hex(3)}"
    yield made
    try:
        certificates.delete_certificate_signing_request(made)
    except kubernetes.client.ApiException as err:
        if err.status != 404:
            raise


def asked(name: str, **spec: Any) -> dict[str, Any]:
    given = {"request": request(), "signerName": SIGNER, "usages": ["client auth"], **spec}
    api = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest"}
    return {**api, "metadata": {"name": name}, "spec": given}


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(kubernetes.client.ApiException) as caught:
        call(*arguments)
    return str(json.loads(caught.value.body)["message"])


def test_kubectl_shows_approves_and_denies(kubectl: Callable[..., str], certificates: Any, name: str) -> None:
    kubectl("create", "-f", "-", stdin=json.dumps(asked(name, expirationSeconds=3600)))
    header, row = kubectl("get", "csr", name).splitlines()
    assert header.split() == ["NAME", "AGE", "SIGNERNAME", "REQUESTOR", "REQUESTEDDURATION", "CONDITION"]
    assert row.split()[2] == SIGNER
    assert row.split()[4:] == ["60m", "Pending"]
    listed = certificates.list_certificate_signing_request(field_selector=f"spec.signerName={SIGNER}").items
    assert name in [one.metadata.name for one in listed]
    kubectl("certificate", "approve", name)
    (condition,) = certificates.read_certificate_signing_request(name).status.conditions
    assert (condition.type, condition.status, condition.reason) == ("Approved", "True", "KubectlApprove")
    assert kubectl("get", "csr", name).split()[-1] == "Approved"


def test_who_asked_is_written_down_and_nothing_of_it_changes(certificates: Any, client: Any, name: str) -> None:
    body = asked(name, username="forged", groups=["system:masters"])
    body["status"] = {"conditions": [{"type": "Approved", "status": "True"}]}
    made = certificates.create_certificate_signing_request(body)
    me = kubernetes.client.AuthenticationV1Api(client).create_self_subject_review({}).status.user_info
    assert (made.spec.username, made.spec.groups) == (me.username, me.groups)
    assert not made.status.conditions
    made.spec.usages = ["server auth"]
    made.metadata.annotations = {"a": "b"}
    changed = certificates.replace_certificate_signing_request(name, made)
    assert (changed.spec.usages, changed.metadata.annotations) == (["client auth"], {"a": "b"})


def test_a_decision_comes_through_approval_and_is_final(certificates: Any, name: str) -> None:
    certificates.create_certificate_signing_request(asked(name))
    approved = [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]
    decided = certificates.patch_certificate_signing_request_approval(name, {"status": {"conditions": approved}})
    assert decided.status.conditions[0].last_update_time is not None
    assert decided.status.conditions[0].last_transition_time is not None
    denied = {"status": {"conditions": [*approved, {"type": "Denied", "status": "True"}]}}
    patch = certificates.patch_certificate_signing_request_approval
    assert "Approved and Denied conditions are mutually exclusive" in refusal(patch, name, denied)
    decided.status.conditions = []
    said = refusal(certificates.replace_certificate_signing_request_approval, name, decided)
    assert 'updates may not remove a condition of type "Approved"' in said


def test_what_is_no_request_is_refused(certificates: Any, name: str) -> None:
    create = certificates.create_certificate_signing_request
    said = refusal(create, asked(name, request=base64.b64encode(b"none").decode()))
    assert "PEM block type must be CERTIFICATE REQUEST" in said
    said = refusal(create, asked(name, usages=["any thing", "client auth", "client auth"], expirationSeconds=1))
    assert 'spec.usages[0]: Unsupported value: "any thing": supported values: "any", "cert sign"' in said
    assert 'spec.usages[2]: Duplicate value: "client auth"' in said
    assert "spec.expirationSeconds: Invalid value: 1: may not specify a duration less than 600 seconds" in said
    assert "spec.signerName" in refusal(create, asked(name, signerName="none"))
    masters = asked(name, request=request("system:masters"), signerName="kubernetes.io/kube-apiserver-client")
    text = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
    assert text in refusal(create, masters)


def test_nobody_decides_about_a_signer_without_the_right(certificates: Any, client: Any, name: str) -> None:
    certificates.create_certificate_signing_request(asked(name))
    rbac = kubernetes.client.RbacAuthorizationV1Api(client)
    mark = f"csr-{secrets.token_hex(3)}"
    plural = "certificatesigningrequests"
    rules = [{"apiGroups": ["certificates.k8s.io"], "resources": [f"{plural}/approval"], "verbs": ["update", "patch"]}]
    rbac.create_cluster_role({"metadata": {"name": mark}, "rules": rules})
    subject = {"kind": "User", "name": mark, "apiGroup": "rbac.authorization.k8s.io"}
    role = {"kind": "ClusterRole", "name": mark, "apiGroup": "rbac.authorization.k8s.io"}
    rbac.create_cluster_role_binding({"metadata": {"name": mark}, "roleRef": role, "subjects": [subject]})
    try:
        client.set_default_header("Impersonate-User", mark)
        change = {"status": {"conditions": [{"type": "Approved", "status": "True"}]}}
        said = refusal(certificates.patch_certificate_signing_request_approval, name, change)
        assert f'user not permitted to approve requests with signerName "{SIGNER}"' in said
    finally:
        client.default_headers.pop("Impersonate-User", None)
        rbac.delete_cluster_role_binding(mark)
        rbac.delete_cluster_role(mark)
