"""ClusterImagePolicies: what is refused, which images a glob means, and that nothing slips by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trimtab.api import ObjectMeta, Uid
from trimtab.components.node.images import PullFailure
from trimtab.components.node.kinds import (
    Authority,
    ClusterImagePolicy,
    ClusterImagePolicySpec,
    ImagePattern,
    KeyRef,
)
from trimtab.components.node.sandboxes import ImageInfo
from trimtab.components.node.trust import Trust
from trimtab.components.node.trust_admission import check_image_policy
from trimtab.content import ContentStore
from trimtab.content.signing import SigningKey
from trimtab.runtime import Denied

PEM = SigningKey(SigningKey.new()).public
DIGEST = "sha256:" + "a" * 64


def policy(glob: str, name: str = "ours", generation: int = 1) -> ClusterImagePolicy:
    return ClusterImagePolicy(
        metadata=ObjectMeta(name=name, uid=Uid(name), generation=generation),
        spec=ClusterImagePolicySpec(images=[ImagePattern(glob)], authorities=[Authority(key=KeyRef(data=PEM))]),
    )


def image(*digests: str) -> ImageInfo:
    return ImageInfo(id=DIGEST, digests=digests, uid=None, username="")


def trust(tmp_path: Path, *policies: ClusterImagePolicy) -> Trust:
    made = Trust(lambda: ContentStore(tmp_path / "content"), "trimtab.local")
    made.take(policies)
    return made


@pytest.mark.parametrize(
    ("glob", "reference", "meant"),
    [
        ("**", "busybox", True),
        ("**", f"registry.example/a/b@{DIGEST}", True),
        ("registry.example/shop/*", "registry.example/shop/app:1", True),
        ("registry.example/shop/*", "registry.example/shop/app/deep:1", False),
        ("registry.example/shop/**", "registry.example/shop/app/deep:1", True),
        ("registry.example/shop/app", "registry.example/shop/app:7", True),
        ("registry.example/shop/app:**", f"registry.example/shop/app@{DIGEST}", True),
        ("registry.example/shop/app:1", "registry.example/shop/app:2", False),
        ("registry.example/shop/app", "registryxexample/shop/app", False),
        ("registry.example/shop/app", "evil.example/registry.example/shop/app", False),
        ("*", "busybox:1", True),
        ("*", "ada/busybox", False),
        ("*/*", "ada/busybox", True),
        ("index.docker.io/library/*", "busybox", True),
        ("docker.io/library/busybox:latest", "busybox", True),
        ("registry.example/**", "Not A Reference", True),
    ],
)
def test_a_glob_means_images(tmp_path: Path, glob: str, reference: str, meant: bool) -> None:
    assert trust(tmp_path, policy(glob)).admits(reference, image()) is not meant


def test_without_a_policy_everything_runs(tmp_path: Path) -> None:
    assert trust(tmp_path).admits("busybox", image())


@pytest.mark.parametrize(
    ("reference", "digests", "said"),
    [
        (
            "registry.example/app:1",
            (),
            "registry.example/app:1: policy ours: it came from no registry, so nobody can have signed it; "
            "push it, sign it, and name it by its registry",
        ),
        (
            "registry.example/app:1",
            (f"registry.example/other@{DIGEST}",),
            "registry.example/app:1: policy ours: it came from no registry, so nobody can have signed it; "
            "push it, sign it, and name it by its registry",
        ),
        (
            "trimtab.local/app:1",
            (f"trimtab.local/app@{DIGEST}",),
            f"trimtab.local/app:1: policy ours: {DIGEST}: the engine made it, and none of the keys is its own "
            "(DATA/pki/images.pub); "
            "sign it with a key of the policy, or change the policy",
        ),
        (
            "127.0.0.1:1/app:1",
            (f"127.0.0.1:1/app@{DIGEST}",),
            "127.0.0.1:1/app:1: policy ours: who signed it cannot be found out: cannot reach the registry 127.0.0.1:1: "
            "connection refused",
        ),
    ],
)
async def test_what_cannot_be_shown_does_not_run(
    tmp_path: Path, reference: str, digests: tuple[str, ...], said: str
) -> None:
    judged = trust(tmp_path, policy("**"))

    with pytest.raises(PullFailure) as failure:
        await judged.judge(reference, image(*digests), None)

    assert (failure.value.reason, failure.value.message) == ("SignatureValidationFailed", said)
    assert not judged.admits(reference, image(*digests))


async def test_a_policy_that_warns_lets_it_run_until_it_is_changed(tmp_path: Path) -> None:
    warns = policy("**")
    warns.spec.mode = "warn"
    judged = trust(tmp_path, warns)

    said = await judged.judge("trimtab.local/app:1", image(f"trimtab.local/app@{DIGEST}"), None)

    assert said.startswith("trimtab.local/app:1: policy ours: sha256:")
    assert judged.admits("trimtab.local/app:1", image())
    assert not judged.take([warns])
    assert judged.admits("trimtab.local/app:1", image())
    assert judged.take([policy("**", generation=2)])
    assert not judged.admits("trimtab.local/app:1", image())


KEY: dict[str, Any] = {"key": {"data": PEM}}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"match": []}, "spec.match: a policy is about every pod here; leave it out"),
        (
            {"policy": {"type": "cue"}},
            "spec.policy: rules over signatures and statements are not supported; leave it out",
        ),
        ({"images": [{"glob": "a b"}]}, "spec.images[0].glob: 'a b' is none: letters, digits, `-_.:/@`, `*` and `**`"),
        (
            {"authorities": []},
            "spec.authorities: nobody is named whose signature counts; give one with a public key as key.data",
        ),
        (
            {"authorities": [KEY, {"keyless": {}}]},
            "spec.authorities[1].keyless: certificates of a public authority are not supported; give a public key as key.data",
        ),
        (
            {"authorities": [{"static": {"action": "pass"}}]},
            "spec.authorities[0].static: it is not supported; give a public key as key.data",
        ),
        (
            {"authorities": [KEY | {"ctlog": {"url": "https://rekor.example"}}]},
            "spec.authorities[0].ctlog: transparency logs are not supported; leave it out, or write {}",
        ),
        (
            {"authorities": [{"key": {"secretRef": {"name": "a"}}}]},
            "spec.authorities[0].key.secretRef: a key in a Secret is not supported; a public key is no secret, give it as data",
        ),
        (
            {"authorities": [{"key": {"data": PEM, "hashAlgorithm": "sha512"}}]},
            'spec.authorities[0].key.hashAlgorithm: sha512 is not supported; use "sha256"',
        ),
        (
            {"authorities": [{"name": "a"}]},
            "spec.authorities[0].key.data: give a public key in PEM, such as `trimtab ci key` prints",
        ),
        (
            {"authorities": [{"key": {"data": "no key"}}]},
            "spec.authorities[0].key.data: public key 1 is none in PEM; `trimtab ci key` makes a pair",
        ),
    ],
)
def test_what_is_not_followed_is_refused(spec: dict[str, Any], said: str) -> None:
    whole = {"images": [{"glob": "**"}], "authorities": [KEY]} | spec
    with pytest.raises(Denied) as refused:
        check_image_policy({"spec": whole}, None)
    assert str(refused.value) == said


def test_what_is_followed_is_taken() -> None:
    authority = KEY | {"name": "ci", "ctlog": {}, "signatureFormat": "legacy"}
    spec = {"images": [{"glob": "registry.example/**"}], "authorities": [authority], "mode": "warn"}
    assert check_image_policy({"spec": spec}, None) == []
