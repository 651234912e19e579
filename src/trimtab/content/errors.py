"""What can go wrong with images, each as one line a user can act on: what, where, the fix."""

from __future__ import annotations


class ContentError(Exception):
    """Anything this package refuses or fails at. `str(error)` is one line."""


class Corrupt(ContentError):
    """Bytes on disk, or bytes received, are not what their digest says."""


class DiskFull(ContentError):
    """The file system of the content store has no room; nothing was half-written."""


class NoSuchBlob(ContentError):
    """The store does not hold this digest."""


class NoSuchImage(ContentError):
    """No image by this reference, here or at its registry."""


class Unauthorized(ContentError):
    """The registry refuses these credentials, or wants some."""


class Unreachable(ContentError):
    """The registry does not answer, or answers nonsense."""


class BadReference(ContentError):
    """Not an image reference."""


class BadSpec(ContentError):
    """An ImageSpec that cannot be built as it stands; the line names the field."""


class BuildFailed(ContentError):
    """A step of a build failed; the line names the step and, where known, the fix."""


class BadKey(ContentError):
    """Not a key that signs images."""


class NotSigned(ContentError):
    """No trusted key has signed the image."""
