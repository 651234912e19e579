"""A whole engine: from a provider's program to objects that keep a cloud, and back to nothing, by the commands that a user gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine_under_test import wait_for
from infrastructure_engine import CloudEngine, cloud_engine, server

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def world() -> Iterator[CloudEngine]:
    with cloud_engine() as made:
        yield made


def test_an_applied_object_exists_in_the_cloud_and_comes_back_when_it_is_deleted_there(world: CloudEngine) -> None:
    world.apply(server("web"))
    world.until("Server", "web")
    [first] = world.cloud.all("servers")

    world.cloud.remove("servers", first["id"])

    wait_for(lambda: world.cloud.all("servers"), 60, "the server made anew")
    world.engine.run("delete", "Server", "web", "-n", "default")
    wait_for(lambda: not world.cloud.all("servers"), 60, "the server deleted with its object")
