"""What every test of the ingress component may ask for."""

from ingress_fixtures import under_test, web

__all__ = ["under_test", "web"]
