"""`trimtab ci key`: a key that signs images."""

from __future__ import annotations

import sys

from trimtab.cli.ci import GREEN
from trimtab.cli.ci.options import parser


def key(arguments: list[str]) -> int:
    """Makes a key: the private half on standard output, the public one beside it."""
    options = parser(
        "key",
        "Make a key that signs images: the private half goes to standard output, the public one to standard error. "
        "`trimtab ci key | trimtab secret set ci/secrets.yaml signing` keeps it where publish(sign=...) finds it.",
    )
    options.parse_args(arguments)
    from trimtab.content.signing import SigningKey

    made = SigningKey.new()
    if sys.stdout.isatty():
        print(
            "a private key is not shown on a terminal; send it on: trimtab ci key | trimtab secret set FILE KEY",
            file=sys.stderr,
        )
        return 2
    sys.stdout.write(made)
    sys.stderr.write(SigningKey(made).public)
    return GREEN
