#!/usr/bin/env python3
"""A Terraform provider for the cloud of `cloud.py`, written with PyPI's `tf`, as somebody who has a cloud would write one.

pip install tf
trimtab provider install demo/cloud --path examples/infrastructure/provider.py --read VENV
"""

import json
import time
import urllib.error
import urllib.request

from tf.iface import Provider, Resource
from tf.runner import run_provider
from tf.schema import Attribute, Schema
from tf.types import String

PATIENCE_S = 300
LOOK_S = 0.2


class Api:
    url = token = ""

    @classmethod
    def call(cls, method, path, body=None):
        """The answer, or None for what is not there. Raises OSError with the cloud's own words."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{cls.url}/{path}", data, {"Authorization": f"Bearer {cls.token}"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as err:
            with err:
                if err.code == 404:
                    return None
                raise OSError(f"{err.code}: {json.load(err)['error']}") from None


class Thing(Resource):
    """One of the cloud's things: a record over HTTP."""

    path = ""

    def __init__(self, provider):
        pass

    @classmethod
    def get_name(cls):
        return cls.path.removesuffix("s")

    def state(self, found):
        return {attribute.name: found.get(attribute.name) for attribute in self.get_schema().attributes}

    def given(self, planned):
        return {
            a.name: planned[a.name]
            for a in self.get_schema().attributes
            if a.required or (a.optional and isinstance(planned[a.name], (str, int, float)))
        }

    def create(self, ctx, planned):
        try:
            found = Api.call("POST", self.path, self.given(planned))
        except OSError as err:
            ctx.diagnostics.add_error(str(err), f"{self.path}: it was not made")
            return None
        return self.settled(ctx, found)

    def settled(self, ctx, found):
        """Waits until it is what it will be; what went wrong half way is given back, too, so that it can be deleted."""
        end = time.monotonic() + PATIENCE_S
        while found is not None and found.get("status") == "creating" and time.monotonic() < end:
            time.sleep(LOOK_S)
            found = Api.call("GET", f"{self.path}/{found['id']}") or {
                **found,
                "status": "gone",
                "error": "somebody deleted it meanwhile",
            }
        if found.get("status") in ("failed", "gone", "creating"):
            ctx.diagnostics.add_error(
                f"{self.path} {found['id']}: {found.get('error') or 'it takes too long'}", "it was made half way"
            )
        return self.state(found)

    def read(self, ctx, current):
        try:
            found = Api.call("GET", f"{self.path}/{current['id']}")
        except OSError as err:
            ctx.diagnostics.add_error(str(err), f"{self.path} {current['id']} could not be read")
            return current
        return None if found is None else self.state(found)

    def update(self, ctx, current, planned):
        try:
            return self.state(Api.call("PUT", f"{self.path}/{current['id']}", self.given(planned)))
        except OSError as err:
            ctx.diagnostics.add_error(str(err), f"{self.path} {current['id']} was not changed")
            return current

    def delete(self, ctx, current):
        try:
            Api.call("DELETE", f"{self.path}/{current['id']}")
        except OSError as err:
            ctx.diagnostics.add_error(str(err), f"{self.path} {current['id']} was not deleted")
            return current


ID = Attribute("id", String(), computed=True)
NAME = Attribute("name", String(), required=True, requires_replace=True)


class Network(Thing):
    path = "networks"

    @classmethod
    def get_schema(cls):
        return Schema(attributes=[ID, NAME, Attribute("range", String(), optional=True, requires_replace=True)])


class Cluster(Thing):
    path = "clusters"

    @classmethod
    def get_schema(cls):
        secret = Attribute("kubeconfig", String(), computed=True, sensitive=True)
        return Schema(
            attributes=[ID, NAME, Attribute("network", String(), optional=True, requires_replace=True), secret]
        )


class Cloud(Provider):
    def get_model_prefix(self):
        return "cloud_"

    def full_name(self):
        return "demo/cloud"

    def get_provider_schema(self, diags):
        return Schema(
            attributes=[
                Attribute("url", String(), required=True),
                Attribute("token", String(), required=True, sensitive=True),
            ]
        )

    def validate_config(self, diags, config):
        pass

    def configure_provider(self, diags, config):
        Api.url, Api.token = config["url"], config["token"]

    def get_data_sources(self):
        return []

    def get_resources(self):
        return [Network, Cluster]


if __name__ == "__main__":
    run_provider(Cloud())
