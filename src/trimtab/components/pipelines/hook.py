"""git's hooks of a Pipeline's repository: tells what is pushed, and prints what the engine says to who pushes.

Run by git as `hook.py pre-receive|post-receive SOCKET`, with `OLD NEW REF` lines as input. The standard library alone.
"""

import json
import os
import socket
import sys


def main() -> None:
    hook, path = sys.argv[1:]
    refs = [dict(zip(("old", "new", "ref"), line.split(), strict=True)) for line in sys.stdin]
    said = {
        "hook": hook,
        "push": os.environ["TRIMTAB_PUSH"],
        "repository": os.path.realpath(os.environ.get("GIT_DIR", ".")),
        "object": os.environ.get("TRIMTAB_OBJECT", ""),
        "user": os.environ.get("REMOTE_USER", ""),
        "refs": refs,
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(json.dumps(said).encode() + b"\n")
        with connection.makefile() as answer:
            print(answer.read().strip())


if __name__ == "__main__":
    main()
