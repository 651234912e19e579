"""An API server that takes few connections, over a port without TLS, so that a test can be a hundred broken clients."""

from __future__ import annotations

from trimtab.server import serve

CONNECTIONS_MAX = 60


def main() -> None:
    """Runs as `api_process` does."""
    import api_process

    serve.CONNECTIONS_MAX = CONNECTIONS_MAX
    serve._tls = lambda listen: None  # type: ignore[assignment,return-value]
    api_process.main()


if __name__ == "__main__":
    main()
