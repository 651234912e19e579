"""Writes the digests that a run published into the project's files, by one commit, and pushes it.

    the remote branch's newest commit -> its files with the new digests -> one commit on top -> pushed
                ^---------------------- somebody else was faster -----------------------------'

The commit is made beside the work tree, on what the remote has, so that a push of somebody else costs another round and never a
conflict. Its trailers say which run made it, of which commit; a commit with them makes no run (`is_own`), else one would
follow another for ever. Where nothing differs nothing is committed.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.ci.definition.graph import Graph
from trimtab.ci.runs.ports import EngineFault

RUN, BUILT_FROM, IMAGE = "Trimtab-Run", "Trimtab-Built-From", "Trimtab-Image"
"""The trailers: the run, the commit that it built, and a line for each image."""
ROUNDS_MAX = 20
"""So often another push may be faster."""
GIT_S = 120.0
FASTER = (b"fetch first", b"non-fast-forward", b"cannot lock ref", b"failed to update ref", b"stale info")
"""What git says when another push came before this one, or is just coming."""
_DIGEST = r"sha256:[0-9a-f]{64}"
_KEPT_NAME = re.compile(r"\b(?:name|newName):\s*[\"']?$")
"""Before a name that is no reference but a key's value of its own, as in Kustomize's `images`."""


@dataclass(frozen=True)
class Place:
    """Where commits go: the branch `ref` of a remote. branch: the local one, "" for a commit checked out by itself."""

    top: Path
    remote: str
    ref: str
    branch: str


def wanted(graph: Graph) -> dict[str, tuple[str, tuple[str, ...]]]:
    """By publishing step, of those that were asked for, the image's name and the files that want its digest."""
    asked, seen = list(graph.wanted), set()
    while asked:
        id = asked.pop()
        if id not in seen:
            seen.add(id)
            asked.extend(graph.needs(id))
    pushes = {id: graph.steps[id].container.push for id in sorted(seen)}
    return {id: (push.reference, push.record) for id, push in pushes.items() if push is not None and push.record}


def by_file(said: Mapping[str, tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
    """From what each step says of which files to what is said of each file."""
    found: dict[str, list[str]] = {}
    for what, files in said.values():
        for file in files:
            found.setdefault(file, []).append(what)
    return found


def is_own(project: Path, commit: str = "HEAD") -> bool:
    """Whether a run made this commit: then it makes no run."""
    done = _git(project, "log", "-1", f"--format=%(trailers:key={RUN},valueonly)", commit, check=False)
    return done.returncode == 0 and bool(done.stdout.strip())


def check(project: Path, files: Mapping[str, Sequence[str]]) -> Place:
    """Finds out where a commit would go, before anything runs. files: by path below the project the names of images.

    Raises `EngineFault` for what would keep it from being made.
    """
    top = Path(
        _text(project, "rev-parse", "--show-toplevel", fix=f"{project} is no git repository, and record= wants one")
    )
    for file, names in files.items():
        if _git(project, "ls-files", "--error-unmatch", "--", file, check=False).returncode != 0:
            raise EngineFault(f"record={file!r}: it is not in git; commit it first")
        if _git(project, "status", "--porcelain", "--", file).stdout.strip():
            raise EngineFault(f"record={file!r}: it has changes that are not committed; commit or stash them")
        for name in names:
            rewritten((project / file).read_text(errors="surrogateescape"), name, "sha256:" + "0" * 64, file)
    for who in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT"):
        if _git(project, "-c", "user.useConfigOnly=true", "var", who, check=False).returncode != 0:
            raise EngineFault("git knows nobody to commit as; set user.name and user.email by git config")
    return _place(project, top)


def _place(project: Path, top: Path) -> Place:
    branch = _git(project, "symbolic-ref", "-q", "--short", "HEAD", check=False).stdout.decode().strip()
    name = branch
    if (
        not name and os.environ.get("GITHUB_REF_TYPE") == "branch"
    ):  # a checkout of GitHub Actions, or of what speaks as they do
        name = os.environ.get("GITHUB_REF_NAME", "")
    if not name:
        raise EngineFault("no branch is checked out, so a digest cannot be recorded on one; git switch BRANCH")
    remotes = _text(project, "remote").split()
    said = _git(project, "config", f"branch.{name}.remote", check=False).stdout.decode().strip()
    remote = said or ("origin" if "origin" in remotes else remotes[0] if len(remotes) == 1 else "")
    if not remote:
        raise EngineFault(f"the branch {name} has no remote to push to; git push --set-upstream REMOTE {name}")
    ref = _git(project, "config", f"branch.{name}.merge", check=False).stdout.decode().strip() or f"refs/heads/{name}"
    return Place(top, remote, ref, branch)


def record(
    project: Path, place: Place, references: Mapping[str, Sequence[str]], run: str, tell: Callable[[str], None]
) -> str:
    """Makes and pushes the commit; returns it, or "" where the remote has these digests already.

    references: by path below the project what to write there, `HOST/NAME@sha256:...`. Raises `EngineFault`.
    """
    head = _text(project, "rev-parse", "HEAD")
    short = place.ref.removeprefix("refs/heads/")
    problem = ""
    for _ in range(ROUNDS_MAX):
        tip = _newest(project, place)
        if _git(project, "merge-base", "--is-ancestor", head, tip, check=False).returncode != 0:
            raise EngineFault(
                f"{place.remote} does not have the commit that was built, {head[:12]}, on its branch {short}; push it, then run again"
            )
        commit = _commit(project, place, tip, head, references, run)
        if not commit:
            tell(f"{place.remote}/{short} has the digests already")
            return ""
        done = _git(project, "push", "-q", place.remote, f"{commit}:{place.ref}", check=False)
        if done.returncode == 0:
            break
        problem = _last_line(done.stderr)
        if not any(word in done.stderr for word in FASTER) and _newest(project, place) == tip:
            raise EngineFault(f"the commit with the digests cannot be pushed to {place.remote}: {problem}")
    else:
        raise EngineFault(f"{ROUNDS_MAX} times another push to {place.remote} was faster; run it again ({problem})")
    tell(f"recorded in {', '.join(references)} by {commit[:12]} on {place.remote}/{short}")
    if (
        head != tip
        or not place.branch
        or _git(project, "merge", "-q", "--ff-only", commit, check=False).returncode != 0
    ):
        tell("git pull to have it here")
    return commit


def _newest(project: Path, place: Place) -> str:
    done = _git(project, "fetch", "-q", "--no-tags", place.remote, place.ref, check=False)
    if done.returncode != 0:
        raise EngineFault(f"cannot fetch {place.ref} from {place.remote}: {_last_line(done.stderr)}")
    return _text(project, "rev-parse", "FETCH_HEAD")


def _commit(
    project: Path, place: Place, tip: str, built: str, references: Mapping[str, Sequence[str]], run: str
) -> str:
    """A commit on top of `tip`, which nothing names yet; "" when it would change nothing."""
    below = _text(project, "rev-parse", "--show-prefix")
    entries = []
    for file, said in references.items():
        path = os.path.normpath(below + file)
        found = _git(project, "ls-tree", "--full-tree", tip, "--", path).stdout.decode().split(None, 3)
        if len(found) < 3:
            raise EngineFault(f"record={file!r}: it is gone from {place.remote}; pull, then run again")
        before = _git(project, "cat-file", "blob", found[2]).stdout.decode(errors="surrogateescape")
        after = before
        for reference in said:
            name, _, digest = reference.partition("@")
            after = rewritten(after, name, digest, file)
        if after != before:
            data = after.encode(errors="surrogateescape")
            blob = _git(project, "hash-object", "-w", "--stdin", given=data).stdout.decode().strip()
            entries.append(f"{found[0]} {blob}\t{path}\n")
    if not entries:
        return ""
    with tempfile.TemporaryDirectory(prefix="trimtab-record-") as scratch:
        index = {"GIT_INDEX_FILE": f"{scratch}/index"}
        _git(project, "read-tree", tip, more=index)
        _git(place.top, "update-index", "--index-info", more=index, given="".join(entries).encode())
        tree = _git(project, "write-tree", more=index).stdout.decode().strip()
    message = _message(references, built, run)
    made = _git(project, "commit-tree", tree, "-p", tip, "-F", "-", given=message.encode())
    return made.stdout.decode().strip()


def _message(references: Mapping[str, Sequence[str]], built: str, run: str) -> str:
    images = list(dict.fromkeys(one for said in references.values() for one in said))
    name, _, digest = images[0].partition("@")
    more = f" and {len(images) - 1} more" if len(images) > 1 else ""
    subject = f"Deploy {name.rpartition('/')[2]} {digest.removeprefix('sha256:')[:12]}{more}"
    trailers = [f"{RUN}: {run}", f"{BUILT_FROM}: {built}", *(f"{IMAGE}: {one}" for one in images)]
    return "\n".join([subject, "", *trailers, ""])


def rewritten(text: str, name: str, digest: str, file: str) -> str:
    """The text with every reference to the image `name` at this digest; a tag stays. Raises `EngineFault` if there is none."""
    pattern = re.compile(rf"(?<![\w./:@-]){re.escape(name)}((?::\w[\w.-]*)?)(?:@{_DIGEST})?(?![\w./:@-])")
    count = 0

    def put(found: re.Match[str]) -> str:
        nonlocal count
        line = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
        if _KEPT_NAME.search(line):
            return found.group()
        count += 1
        return f"{name}{found.group(1)}@{digest}"

    after = pattern.sub(put, text)
    if not count:
        raise EngineFault(f"record={file!r}: it names no image {name}; write `image: {name}` where the digest belongs")
    return after


def _text(directory: Path, *arguments: str, fix: str = "") -> str:
    done = _git(directory, *arguments, check=not fix)
    if done.returncode != 0:
        raise EngineFault(fix)
    return done.stdout.decode().strip()


def _git(
    directory: Path, *arguments: str, check: bool = True, given: bytes = b"", more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **(more or {})}
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            input=given,
            capture_output=True,
            env=environment,
            timeout=GIT_S,
        )
    except FileNotFoundError:
        raise EngineFault("git is not installed, and record= wants it; apt-get install git") from None
    except subprocess.TimeoutExpired:
        raise EngineFault(f"git {arguments[0]} did not end within {GIT_S:.0f} s; is the remote there?") from None
    if check and done.returncode != 0:
        raise EngineFault(f"git {arguments[0]} failed: {_last_line(done.stderr)}")
    return done


def _last_line(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    for mark in ("!", "fatal:", "error:", ""):
        if telling := [line for line in lines if line.startswith(mark)]:
            return telling[-1]
    return "it says nothing"
