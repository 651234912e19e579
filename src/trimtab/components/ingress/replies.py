"""What Envoy itself answers when no app can: one plain line that says what is missing and where to look.

Answers of apps pass through untouched, errors included; these are only for requests that never reached one.
"""

from __future__ import annotations

from trimtab.api import JSON

UNKNOWN_HOST = 404
TOO_LARGE = 413


def _flags(*flags: str) -> JSON:
    return {"response_flag_filter": {"flags": list(flags)}}


def _status(status: int) -> JSON:
    return {
        "status_code_filter": {
            "comparison": {"op": "EQ", "value": {"default_value": status, "runtime_key": "trimtab.unused"}}
        }
    }


def _reply(when: JSON, text: str) -> JSON:
    return {"filter": when, "body_format_override": {"text_format_source": {"inline_string": text + "\n"}}}


LOCAL_REPLIES: JSON = {
    "mappers": [
        _reply(
            _flags("NR"), "404: the host %REQ(:AUTHORITY)% is known, but no Ingress rule takes the path %PATH(NQ)%."
        ),
        _reply(
            _status(UNKNOWN_HOST),
            "404: no Ingress declares the host %REQ(:AUTHORITY)%. See: trimtab get ingresses",
        ),
        _reply(
            _flags("UH", "NC"),
            "503: no endpoint of service %UPSTREAM_CLUSTER% is ready. See: trimtab get pods, trimtab timeline",
        ),
        _reply(
            _flags("UF"),
            "503: an endpoint of service %UPSTREAM_CLUSTER% refused the connection or did not answer in time.",
        ),
        _reply(_flags("UC", "UR"), "503: service %UPSTREAM_CLUSTER% closed the connection before it answered."),
        _reply(_flags("UO"), "503: service %UPSTREAM_CLUSTER% has more requests waiting than the proxy holds."),
        _reply(_flags("UT", "SI"), "504: service %UPSTREAM_CLUSTER% has been silent for longer than its read timeout."),
        _reply(_status(TOO_LARGE), "413: the body is longer than this Ingress takes (annotation proxy-body-size)."),
    ]
}
