"""The files of volumes that show objects of the API: ConfigMaps, Secrets, facts about the pod, its token.

ConfigMap, Secret -> configured_files --.
the pod           -> Projector.facts ---+-> path -> ProjectedFile -> projection.py -> disk
TokenRequest      -> Projector.token ---'
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from trimtab.api.core import ConfigMap, Container, Pod, Secret, ServiceAccount
from trimtab.api.projection import (
    ConfigProjection,
    DownwardAPIFile,
    KeyToPath,
    ProjectedVolume,
    ServiceAccountTokenProjection,
    VolumeProjection,
)
from trimtab.components.node.decide import container_of
from trimtab.components.node.environment import ConfigProblem, Facts, Lookup, contents, field_value, resource_value
from trimtab.components.node.projection import DATA, ProjectedFile, safe_path
from trimtab.components.node.tokens import LIFE_S, TokenRequests, claims_of, still_good

FILE_MODE = 0o644
PRIVATE_MODE = 0o600

Files = dict[str, ProjectedFile]


def configured_files(
    source: ConfigMap | Secret | None, items: Sequence[KeyToPath], default_mode: int | None, *, optional: bool
) -> Files:
    """The files of a ConfigMap or Secret.

    Raises:
        ConfigProblem: a key that `items` names is missing, or a path leaves the volume.
    """
    mode = FILE_MODE if default_mode is None else default_mode
    data = contents(source) if source is not None else {}
    if not items:
        return {key: ProjectedFile(value, mode) for key, value in data.items() if safe_path(key)}
    out = {}
    for item in items:
        path = _within(item.path, f"the key {item.key}")
        if item.key in data:
            out[path] = ProjectedFile(data[item.key], mode if item.mode is None else item.mode)
        elif not optional:
            where = source.ref if source is not None else "its source"
            raise ConfigProblem(f"{where} has no key {item.key}")
    return out


def _within(path: str, of: str) -> str:
    if not safe_path(path):
        raise ConfigProblem(f"the path {path!r} of {of} must stay within the volume")
    return path


class Projector:
    """Makes the files of downwardAPI and projected volumes of one node."""

    def __init__(self, tokens: TokenRequests, facts: Facts, now: Callable[[], datetime]) -> None:
        """facts: cpu and memory of the node; the addresses are not used."""
        self._tokens = tokens
        self._facts = facts
        self._now = now

    def facts(self, pod: Pod, items: Sequence[DownwardAPIFile], default_mode: int | None) -> Files:
        """Files that tell about the pod.

        Raises:
            ConfigProblem: an item names nothing that there is, or a path leaves the volume.
        """
        mode = FILE_MODE if default_mode is None else default_mode
        out = {}
        for item in items:
            path = _within(item.path, "the downward API")
            text = self._fact(pod, item)
            out[path] = ProjectedFile(text.encode(), mode if item.mode is None else item.mode)
        return out

    def _fact(self, pod: Pod, item: DownwardAPIFile) -> str:
        if item.field_ref is not None:
            return field_value(pod, item.field_ref, self._facts)
        ref = item.resource_field_ref
        if ref is None:
            raise ConfigProblem(f"the item {item.path} of the downward API needs a fieldRef or a resourceFieldRef")
        container = container_of(pod, ref.container_name or "")
        if container is None:
            raise ConfigProblem(f"the item {item.path} names the container {ref.container_name!r}, which is not there")
        return resource_value(pod, container, ref, self._facts)

    async def files(
        self, pod: Pod, volume: ProjectedVolume, get: Lookup, directory: Path
    ) -> tuple[Files, datetime | None]:
        """All files of a projected volume, and when the first of them must be renewed. directory: where the volume is now.
        Of two sources with the same path the later wins.

        Raises:
            ConfigProblem: as above, or a ConfigMap or Secret that is not optional is missing, or there is no token.
        """
        mode = FILE_MODE if volume.default_mode is None else volume.default_mode
        out: Files = {}
        renew_at: datetime | None = None
        for source in volume.sources:
            if source.downward_api is not None:
                out |= self.facts(pod, source.downward_api.items, mode)
            elif source.service_account_token is not None:
                wanted = source.service_account_token
                path = _within(wanted.path, "the service account's token")
                out[path], until = await self._token(pod, wanted, get, directory / DATA / path, mode)
                renew_at = until if renew_at is None else min(renew_at, until)
            else:
                out |= await _configured(pod, source, get, mode)
        return out, renew_at

    async def _token(
        self, pod: Pod, wanted: ServiceAccountTokenProjection, get: Lookup, path: Path, mode: int
    ) -> tuple[ProjectedFile, datetime]:
        name = pod.spec.service_account_name or "default"
        account = await get(ServiceAccount, name, pod.namespace)
        if account is None:
            raise ConfigProblem(f'serviceaccount "{name}" not found')
        audience, now = wanted.audience or "", self._now()
        try:
            token = path.read_bytes()
        except OSError:
            token = b""
        renew_at = still_good(token, pod, account, audience, now)
        if renew_at is None:
            token = await self._tokens.request(pod, audience, wanted.expiration_seconds or LIFE_S)
            claims = claims_of(token)
            if claims is None:
                raise ConfigProblem(f"the API's token for the service account {name} cannot be read")
            renew_at = claims.renew_at
        user = only_user(pod)
        group = pod.spec.security_context.fs_group if pod.spec.security_context is not None else None
        private = user is not None or group is not None
        return ProjectedFile(token, PRIVATE_MODE if private else mode, user), renew_at


async def _configured(pod: Pod, source: VolumeProjection, get: Lookup, mode: int) -> Files:
    kind: type[ConfigMap] | type[Secret]
    wanted: ConfigProjection | None
    kind, what, wanted = ConfigMap, "configmap", source.config_map
    if wanted is None:
        kind, what, wanted = Secret, "secret", source.secret
    if wanted is None:
        raise ConfigProblem("a source is of a type that is not supported")
    found = await get(kind, wanted.name, pod.namespace)
    if found is None and not wanted.optional:
        raise ConfigProblem(f'{what} "{wanted.name}" not found')
    return configured_files(found, wanted.items, mode, optional=bool(wanted.optional))


def only_user(pod: Pod) -> int | None:
    """The user that all containers run as, when the spec names one: then nobody else need read a token."""
    whole = pod.spec.security_context.run_as_user if pod.spec.security_context is not None else None

    def user_of(container: Container) -> int | None:
        own = container.security_context
        return own.run_as_user if own is not None and own.run_as_user is not None else whole

    users = {user_of(container) for container in (*pod.spec.init_containers, *pod.spec.containers)}
    return users.pop() if len(users) == 1 else None
