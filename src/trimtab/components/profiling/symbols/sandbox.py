"""Where this component parses hostile bytes: any program on the machine can put a file before the profiler.

The process that does it is `trimtab.confinement.sandbox`; functions are `module:function` within this package.
"""

from __future__ import annotations

from trimtab.confinement import sandbox
from trimtab.confinement.sandbox import FDS_MAX, ParseError, ParserDied, one_line

PACKAGE = "trimtab.components.profiling"


class Sandbox(sandbox.Sandbox):
    """For the parsers of this package."""

    package = PACKAGE


__all__ = ["FDS_MAX", "PACKAGE", "ParseError", "ParserDied", "Sandbox", "one_line"]
