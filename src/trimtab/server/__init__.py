"""The Kubernetes API over HTTPS: discovery, CRUD, watch, apply, tables, OpenAPI, auth, admission, streams.

Read `connection.py` (bytes to requests), `app.py` (a request's way), `handlers.py` (verbs), `writing.py` and `deleting.py`
(how objects change), `watching.py`, `housekeeping.py` (what the server does by itself), `audit.py` (who changed what), `metrics.py` and `figures.py` (what is counted), `sessions.py` (what stays open, and until when),
`serve.py` (listeners). What an object of a kind is stands in `schemas.py`;
a custom kind's in `custom.py` and `rules.py`, its expressions in `cel/`; server-side apply and patches in `apply.py` and `patch.py`.
"""

from trimtab.server.app import create_app
from trimtab.server.server import ApiServer, ServerSettings

__all__ = ["ApiServer", "ServerSettings", "create_app"]
