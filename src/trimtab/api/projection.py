"""What is shown to a pod's containers as files: keys of ConfigMaps and Secrets, facts about the pod, its token."""

from __future__ import annotations

from msgspec import field

from trimtab.api.resource import Model


class KeyToPath(Model):
    key: str
    path: str
    mode: int | None = None


class FieldSelector(Model):
    field_path: str = ""
    api_version: str | None = None


class ResourceFieldSelector(Model):
    resource: str = ""
    container_name: str | None = None
    divisor: str | int | None = None


class DownwardAPIFile(Model):
    path: str
    field_ref: FieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    mode: int | None = None


class DownwardAPIVolume(Model):
    items: list[DownwardAPIFile] = []
    default_mode: int | None = None


class ConfigProjection(Model):
    """Of a ConfigMap or a Secret."""

    name: str = ""
    items: list[KeyToPath] = []
    optional: bool | None = None


class DownwardAPIProjection(Model):
    items: list[DownwardAPIFile] = []


class ServiceAccountTokenProjection(Model):
    path: str
    audience: str | None = None
    expiration_seconds: int | None = None


class VolumeProjection(Model):
    config_map: ConfigProjection | None = None
    secret: ConfigProjection | None = None
    downward_api: DownwardAPIProjection | None = field(default=None, name="downwardAPI")
    service_account_token: ServiceAccountTokenProjection | None = None


class ProjectedVolume(Model):
    sources: list[VolumeProjection] = []
    default_mode: int | None = None
