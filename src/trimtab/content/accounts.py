"""Who may be named in an image: `/etc/passwd` and `/etc/group`, from Debian's own list plus the user that runs the app."""

from __future__ import annotations

import msgspec

from trimtab.content.errors import BadSpec

NOLOGIN = "/usr/sbin/nologin"
_ROOT_PASSWD = f"root:*:0:0:root:/root:{NOLOGIN}\nnobody:*:65534:65534:nobody:/nonexistent:{NOLOGIN}\n"
_ROOT_GROUP = "root:*:0:\nnogroup:*:65534:\n"


class Accounts(msgspec.Struct, frozen=True):
    """The texts of `/etc/passwd` and `/etc/group`."""

    passwd: str = _ROOT_PASSWD
    group: str = _ROOT_GROUP


class Identity(msgspec.Struct, frozen=True):
    """The user that a container runs as, in numbers, so that `runAsNonRoot` can be checked without reading the image."""

    uid: int
    gid: int
    home: str

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"


def with_user(accounts: Accounts, user: str | None, uid: int, home: str) -> tuple[Accounts, Identity]:
    """The accounts that include `user`, and its numbers. A user that is already there is taken as it is.

    A number is used as it is, as its own group; without a user it is root.
    """
    if user is None:
        return accounts, Identity(0, 0, "/root")
    rows = [line.split(":") for line in accounts.passwd.splitlines() if line.count(":") >= 6]
    for row in rows:
        if user in (row[0], row[2]):
            return accounts, Identity(int(row[2]), int(row[3]), row[5])
    if user.isdigit():
        return accounts, Identity(int(user), int(user), home)
    taken = next((row[0] for row in rows if row[2] == str(uid)), None)
    if taken is not None:
        raise BadSpec(f"uid: {uid} is already {taken}'s in this image; choose another for {user}")
    added = Accounts(
        passwd=_ended(accounts.passwd) + f"{user}:x:{uid}:{uid}:{user}:{home}:{NOLOGIN}\n",
        group=_ended(accounts.group) + f"{user}:x:{uid}:\n",
    )
    return added, Identity(uid, uid, home)


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
