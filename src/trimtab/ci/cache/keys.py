"""Keys: what a step's result depends on, as a flat list of named components, and nothing else.

    components(action, ...) -> {"engine": "1", "image": "sha256:...", "input /w": "sha256:...", "env FOO": "a", "run 1": ...}
    key_of(components)      -> the sha256 over them, in their order

The same list is made twice. For the *definition key* an input that another step gives stands as that step's own definition key:
it is known before anything runs and without data being touched. For the *content key* it stands as the digest of the tree that was
given: so a step is not run again when what it takes came out as before, whoever made it (early cutoff).

Not in it: names, the lines on which things are said, timeouts, limits, tries, what is in cache volumes, the run, the host. A name
of a field that this module does not know is a component as it is: forgetting one would be a false hit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

JSON = dict[str, Any]
Components = dict[str, str]

KEY_VERSION = 1
"""Of the components and of how they are hashed. Another number is another result for every step."""
SALT_BYTES = 32

_LAST = ("services", "secrets", "env", "inputs", "runs", "outputs", "caches")


def components(
    action: JSON,
    *,
    image: Callable[[str], str],
    given: Callable[[JSON], str],
    secret: Callable[[str], str],
    platform: str,
    prefix: str = "",
) -> Components:
    """What the key of an action is made of, in order.

    image: a base as text -> its digest. given: `{"source": ...}` or `{"step": ..., "output": ...}` -> what stands for it.
    secret: `file#key` -> its `secret_digest`.
    """
    out: Components = {}
    if not prefix:
        out["engine"] = str(KEY_VERSION)
        out["platform"] = platform
    if "image" in action:
        out[f"{prefix}image"] = image(image_name(action["image"]))
    for name in sorted(action.keys() - {"image", *_LAST}):
        value = action[name]
        out[prefix + _PLAIN.get(name, name)] = value if isinstance(value, str) else _text(value)
    for name, value in sorted(action.get("env", {}).items()):
        out[f"{prefix}env {name}"] = value
    for name, reference in sorted(action.get("secrets", {}).items()):
        out[f"{prefix}secret {name}"] = secret(reference)
    for one in action.get("inputs", ()):
        source = one["from"]
        to = f"{one['to'].rstrip('/') or ''}/{source['below']}" if "below" in source else one["to"]
        out[_free(out, f"{prefix}input {to}")] = given(source)
    for number, run in enumerate(action.get("runs", ()), 1):
        out[f"{prefix}run {number}"] = _text(run["argv"])
        for name in sorted(run.keys() - {"argv"}):
            out[f"{prefix}run {number} {name}"] = _text(run[name])
    for one in action.get("outputs", ()):
        out[f"{prefix}output {one['name']}"] = one["path"]
    for one in action.get("caches", ()):
        out[_free(out, f"{prefix}cache {one['path']}")] = one["key"]
    for name, service in sorted(action.get("services", {}).items()):
        out |= components(
            service, image=image, given=given, secret=secret, platform=platform, prefix=f"{prefix}service {name}: "
        )
    return out


_PLAIN = {"v": "form", "cwd": "directory", "net": "network"}


def key_of(parts: Mapping[str, str]) -> str:
    """The key of components, as hex digits. Their order counts: of two inputs at one place the later one wins."""
    return hashlib.sha256(_text(list(parts.items())).encode("utf-8", "surrogatepass")).hexdigest()


def is_tree(name: str, value: str) -> bool:
    """Whether a component is the digest of the tree of an input."""
    return name.rpartition(": ")[2].startswith("input ") and value.startswith("sha256:")


def takes_of_steps(action: JSON) -> bool:
    """Whether something of other steps is in it; when not, its definition is all that there is to know."""
    places = [action, *action.get("services", {}).values()]
    return any("step" in one["from"] for place in places for one in place.get("inputs", ()))


def image_name(image: JSON) -> str:
    """A base as text, as `str(Base)` gives it."""
    if reference := image.get("reference"):
        return str(reference)
    platforms = (f"for {one}" for one in image.get("platforms", ()))
    return " ".join([f"debian:{','.join(image['debian'])}", *image["python"], *platforms])


def host_platform() -> str:
    """What programs run here: `linux/x86_64`."""
    found = os.uname()
    return f"{found.sysname.lower()}/{found.machine}"


# Secrets


def salt_path(environ: Mapping[str, str] = os.environ) -> str:
    """Where the salt lies: outside of the cache, since who has both can try values."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "trimtab", "ci-salt")


def salt(environ: Mapping[str, str] = os.environ) -> bytes:
    """The key of `secret_digest`: of `$TRIMTAB_CI_SALT` where machines share a cache, else this user's own, made once."""
    if shared := environ.get("TRIMTAB_CI_SALT"):
        return shared.encode()
    path = salt_path(environ)
    try:
        with open(path, "rb") as file:
            found = file.read()
        if len(found) == SALT_BYTES:
            return found
        os.unlink(path)  # cut off by a full disk
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(SALT_BYTES))
        with contextlib.suppress(FileExistsError):  # another process was first: its salt is the one
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
    with open(path, "rb") as file:
        return file.read()


def secret_digest(value: str, key: bytes) -> str:
    """What stands for a secret in a key: changes when it does, and tells nobody without the salt what it is."""
    import hmac

    return "hmac:" + hmac.digest(key, value.encode("utf-8", "surrogatepass"), "sha256").hex()


def _free(out: Components, name: str) -> str:
    if name not in out:
        return name
    number = 2
    while f"{name} #{number}" in out:
        number += 1
    return f"{name} #{number}"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
