"""AWS as moto plays it, with faults before it: run by the Python of moto's own environment (`aws.py` starts it).

    a provider's request -> held against the faults -> noted -> moto
    POST /_call {"service", "operation", "arguments"} -> boto3 -> moto          who changes something outside
    POST /_faults {...}, GET /_calls                                            who tests

Prints its port.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Respond = Callable[..., Any]
SIGNED = re.compile(r"Credential=([^/]+)/[^/]*/[^/]*/([^/]+)/")
FORM = re.compile(rb"(?:^|&)Action=(\w+)")
XML = "text/xml"
BODY_BYTES_MAX = 1 << 20


class Played:
    """faults: `expired`, an access key that is refused; `throttled`: service -> how many of its next requests are too many."""

    def __init__(self) -> None:
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.faults: dict[str, Any] = {}
        self.calls: Counter[str] = Counter()
        self.url = ""

    def __call__(self, environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/_call":
            return self._json(respond, self._call(**self._body(environ)))
        if path == "/_faults":
            self.faults = self._body(environ)
            return self._json(respond, {})
        if path == "/_calls":
            return self._json(respond, dict(self.calls))
        signed = SIGNED.search(environ.get("HTTP_AUTHORIZATION", ""))
        key, service = signed.groups() if signed else ("", "")
        if key != "trimtab-tests":
            self.calls[f"{service} {self._operation(environ)}"] += 1
            if key and key == self.faults.get("expired"):
                return self._refuse(
                    environ, respond, 403, "ExpiredToken", "The security token included in the request is expired"
                )
            throttled = self.faults.get("throttled", {})
            if throttled.get(service, 0) > 0:
                throttled[service] -= 1
                return self._refuse(environ, respond, 429, "Throttling", "Rate exceeded")
        answer: Iterable[bytes] = self.moto(environ, respond)
        return answer

    def _operation(self, environ: dict[str, Any]) -> str:
        if target := environ.get("HTTP_X_AMZ_TARGET", ""):
            return str(target.rpartition(".")[2])
        if environ["REQUEST_METHOD"] == "POST" and "form" in environ.get("CONTENT_TYPE", ""):
            import io

            raw = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(raw)
            if found := FORM.search(raw):
                return found[1].decode()
        query = environ.get("QUERY_STRING", "").partition("&")[0].partition("=")[0]
        return f"{environ['REQUEST_METHOD']} {query}".strip()

    def _refuse(
        self, environ: dict[str, Any], respond: Respond, status: int, code: str, message: str
    ) -> Iterable[bytes]:
        if "json" in environ.get("CONTENT_TYPE", ""):
            kind, body = "application/x-amz-json-1.1", json.dumps({"__type": code, "message": message})
        else:
            error = f"<Code>{code}</Code><Message>{message}</Message>"
            kind, body = XML, f"<ErrorResponse><Error>{error}</Error><RequestId>r</RequestId></ErrorResponse>"
            if "s3" in environ.get("HTTP_AUTHORIZATION", ""):
                body = f"<Error>{error}</Error>"
            elif "/ec2/" in environ.get("HTTP_AUTHORIZATION", ""):
                body = f"<Response><Errors><Error>{error}</Error></Errors><RequestID>r</RequestID></Response>"
        respond(f"{status} {code}", [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body.encode()]

    def _call(self, service: str, operation: str, arguments: dict[str, Any]) -> Any:
        client = boto3.client(
            service,
            endpoint_url=self.url,
            region_name="eu-central-1",
            aws_access_key_id="trimtab-tests",
            aws_secret_access_key="none",
        )
        try:
            return {"answer": getattr(client, operation)(**arguments)}
        except client.exceptions.ClientError as err:
            return {"error": err.response["Error"]}

    def _body(self, environ: dict[str, Any]) -> Any:
        return json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))

    def _json(self, respond: Respond, value: Any) -> Iterable[bytes]:
        body = json.dumps(value, default=str).encode()
        respond("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


def main() -> None:
    played = Played()
    server = make_server("127.0.0.1", 0, played, threaded=True)
    played.url = f"http://127.0.0.1:{server.port}"
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
