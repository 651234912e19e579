"""The Kubernetes API over HTTPS: discovery, CRUD, watch, apply, tables, OpenAPI, auth, admission, streams."""
