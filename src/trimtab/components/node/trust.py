"""Who must have signed what runs here: ClusterImagePolicies, held against each image after its pull, by its digest.

    policies whose globs match the reference -> the image's digest -> a signature by one of their keys:
        in this machine's store, else beside the image in its registry

An image that was found good is not judged again until a policy changes. A signature that was seen is kept in the store, so that
a pod comes back without its registry. What runs already goes on running; the next container that is made is judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from trimtab.components.node.images import MESSAGE_LENGTH_MAX, PullFailure
from trimtab.components.node.kinds import ClusterImagePolicy
from trimtab.components.node.sandboxes import ImageInfo
from trimtab.content import ContentStore, Reference, parse_reference
from trimtab.content.errors import ContentError, NotSigned

BROKEN = "SignatureValidationFailed"
"""The kubelet's word for an image whose signature does not satisfy a policy."""
JUDGED_MAX = 1000
"""So many verdicts are remembered; a node has fewer images."""
DOCKER_HUB = "docker.io/"


class Trust:
    """store: where signatures are kept; without one no policy can be satisfied. own: the name under which the engine's own images
    are, which no registry has."""

    def __init__(self, store: Callable[[], ContentStore], own: str) -> None:
        self._store = store
        self._own = own
        self._policies: tuple[ClusterImagePolicy, ...] = ()
        self._known: dict[tuple[str, str], str] = {}
        """By reference and image id what to warn of, or "", of the images that may run."""

    def take(self, policies: Iterable[ClusterImagePolicy]) -> bool:
        """From now on these policies hold; whether they are others than before."""
        now = tuple(policies)
        if _marks(now) == _marks(self._policies):
            return False
        self._policies = now
        self._known.clear()
        return True

    def admits(self, reference: str, image: ImageInfo) -> bool:
        """Whether an image may run as far as is known: no policy is about it, or it was judged."""
        return (reference, image.id) in self._known or not self._about(reference)

    async def judge(self, reference: str, image: ImageInfo, auth: Mapping[str, str] | None) -> str:
        """Holds an image against the policies; returns what to warn of, or "". auth: the login for its registry.

        Raises:
            PullFailure: it may not run, or who signed it cannot be found out (now).
        """
        key = (reference, image.id)
        held = self._policies
        warnings = []
        for policy in self._about(reference):
            if problem := await self._problem(policy, reference, image, auth):
                text = f"{reference}: policy {policy.name}: {problem}"[:MESSAGE_LENGTH_MAX]
                if policy.spec.mode != "warn":
                    raise PullFailure(BROKEN, text)
                warnings.append(text)
        if held is self._policies:  # else it is judged again, by those that hold now
            while len(self._known) >= JUDGED_MAX:
                del self._known[next(iter(self._known))]
            self._known[key] = "; ".join(warnings)
        return "; ".join(warnings)

    def _about(self, reference: str) -> list[ClusterImagePolicy]:
        if not self._policies:
            return []
        try:
            names = list(_names(reference))
        except ContentError:
            return list(self._policies)  # whatever cannot be read must not slip by
        return [
            policy
            for policy in self._policies
            if any(_pattern(image.glob).fullmatch(name) for image in policy.spec.images for name in names)
        ]

    async def _problem(
        self, policy: ClusterImagePolicy, reference: str, image: ImageInfo, auth: Mapping[str, str] | None
    ) -> str:
        """Why an image does not satisfy a policy, or ""."""
        try:
            asked = parse_reference(reference)
            exact = [one for one in map(parse_reference, image.digests) if one.name == asked.name]
        except ContentError as err:
            return f"who signed it cannot be found out: {err}"
        if not exact:
            return (
                "it came from no registry, so nobody can have signed it; push it, sign it, and name it by its registry"
            )
        keys = [one.key.data for one in policy.spec.authorities if one.key is not None]
        problem = ""
        for one in exact:
            try:
                await self._signed(one, keys, auth)
            except NotSigned as err:
                problem = (
                    f"{str(err).removeprefix(f'{one.name}@')}; sign it with a key of the policy, or change the policy"
                )
            except ContentError as err:
                return f"who signed it cannot be found out: {err}"
            else:
                return ""
        return problem

    async def _signed(self, image: Reference, keys: Sequence[str], auth: Mapping[str, str] | None) -> None:
        """Raises what `signing.verify` raises."""
        from trimtab.content import Credentials, Login, RegistryClient, signing

        store, trusted = self._store(), signing.PublicKeys(keys)
        if signing.kept(store, image, trusted):
            return
        if image.registry == self._own:
            raise NotSigned(
                f"{image.name}@{image.digest}: the engine made it, and none of the keys is its own (DATA/pki/images.pub)"
            )
        login = {image.registry: Login(auth["username"], auth["password"])} if auth else {}
        async with RegistryClient(store, credentials=Credentials(logins=login)) as client:
            await signing.verify(client, store, image, trusted)


def _marks(policies: Sequence[ClusterImagePolicy]) -> list[tuple[str, int]]:
    return [(one.metadata.uid, one.metadata.generation) for one in policies]


def _names(reference: str) -> Iterator[str]:
    """All that a glob is compared with: the reference as it is written and in full, and without its tag or digest, lest a pod
    that names an image by its digest slips by a policy that names it by its tag."""
    full = parse_reference(reference)
    yield reference
    for name in (full.name, *_on_docker_hub(full.name)):
        yield from (name, f"{name}:", f"{name}:{full.tag or 'latest'}")
        if full.digest:
            yield f"{name}@{full.digest}"


def _on_docker_hub(name: str) -> Iterator[str]:
    if name.startswith(DOCKER_HUB):
        yield f"index.{name}"


@lru_cache(maxsize=256)
def _pattern(glob: str) -> re.Pattern[str]:
    """`*` and `*/*` mean Docker Hub's images, as in sigstore's policy controller."""
    whole = {"*": "index.docker.io/library/*", "*/*": "index.docker.io/*/*"}.get(glob, glob)
    parts = re.split(r"(\*\*|\*)", whole)
    return re.compile("".join({"**": ".*", "*": "[^/]*"}.get(part) or re.escape(part) for part in parts))
