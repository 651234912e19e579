"""Who a pod is to the API: its ServiceAccount, and the volume with that account's token.

What Kubernetes' admission plugin ServiceAccount does. The account `default` may still be on its way in a namespace that was
just made; pods are not refused for that.
"""

from __future__ import annotations

from trimtab.api import JSON
from trimtab.server import errors
from trimtab.server.clock import name_suffix
from trimtab.server.kinds import Kind
from trimtab.server.strategies.base import Surroundings

DEFAULT = "default"
VOLUME_PREFIX = "kube-api-access-"
MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_S = 3607
"""As Kubernetes has it: an hour, and seven seconds by which such tokens are told apart from those that people ask for."""


def identify(around: Surroundings, kind: Kind, pod: JSON) -> None:
    """Gives a new pod its account, the account's pull secrets and, unless that is unwanted, its token.

    Raises:
        StatusError: 403, there is no such account.
    """
    spec, meta = pod["spec"], pod["metadata"]
    name = spec.get("serviceAccountName") or spec.get("serviceAccount") or DEFAULT
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    account = around.service_account(meta.get("namespace") or "", name)
    if account is None and name != DEFAULT:
        where = f"{meta.get('namespace')}/{name}"
        text = f'error looking up service account {where}: serviceaccount "{name}" not found'
        raise errors.forbidden(kind.plural, kind.group, meta.get("name") or "", text)
    account = account or {}
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = [{"name": ref.get("name") or ""} for ref in account["imagePullSecrets"]]
    wanted = spec.get("automountServiceAccountToken")
    if wanted is None:
        wanted = account.get("automountServiceAccountToken")
    if around.identities and wanted is not False:
        _mount_token(spec, name_suffix(around.clock))


def _mount_token(spec: JSON, suffix: str) -> None:
    present = [v["name"] for v in spec.get("volumes") or () if (v.get("name") or "").startswith(VOLUME_PREFIX)]
    name = present[0] if present else f"{VOLUME_PREFIX}{suffix}"
    used = False
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        mounts = container.get("volumeMounts") or []
        if not any(mount.get("mountPath") == MOUNT_PATH for mount in mounts):
            container["volumeMounts"] = [*mounts, {"name": name, "readOnly": True, "mountPath": MOUNT_PATH}]
            used = True
    if used and not present:
        spec["volumes"] = [*(spec.get("volumes") or ()), _volume(name)]


def _volume(name: str) -> JSON:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_S, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": 0o644}}
