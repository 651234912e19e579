"""One async client for both engines: get, list, watch, apply; informer caches."""
