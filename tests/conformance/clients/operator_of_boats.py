"""An operator as kopf's users write them: handlers, a timer, a daemon, an index, a finalizer, events, peering.

What it did is told in the status of its objects, so that whoever looks can tell. `kopf run operator_of_boats.py`.
"""

import asyncio

import kopf


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_):
    settings.persistence.finalizer = "clients.example/anchored"
    settings.posting.level = 20
    settings.watching.server_timeout = 20
    settings.networking.error_backoffs = [0.2] * 50
    settings.peering.name = "boats"
    settings.peering.mandatory = True


@kopf.index("boats.clients.example")
def by_length(name, spec, **_):
    return {spec.get("length"): name}


@kopf.on.create("boats.clients.example")
@kopf.on.resume("boats.clients.example")
def launch(spec, by_length: kopf.Index, patch, body, reason, **_):
    patch.status["launched"] = spec.get("length")
    patch.status["twins"] = len(by_length.get(spec.get("length"), []))
    kopf.info(body, reason="Launched", message=f"{reason}: it floats")


@kopf.on.update("boats.clients.example", field="spec.length")
def lengthen(old, new, patch, **_):
    patch.status["lengthened"] = [old, new]


@kopf.on.field("boats.clients.example", field="metadata.labels.fail", value="once", retries=2, backoff=0.1)
def stumble(retry, patch, **_):
    if retry == 0:
        raise kopf.TemporaryError("the wind is wrong", delay=0.1)
    patch.status["retried"] = retry


@kopf.timer("boats.clients.example", interval=0.5, initial_delay=0.1)
def tick(patch, status, **_):
    patch.status["ticks"] = status.get("ticks", 0) + 1


@kopf.daemon("boats.clients.example", cancellation_timeout=1)
async def sail(stopped, body, **_):
    kopf.info(body, reason="Sailing", message="under way")
    await stopped.wait()
    kopf.info(body, reason="Anchored", message="no longer under way")


@kopf.on.event("configmaps", labels={"cargo": kopf.PRESENT})
async def load(body, patch, **_):
    patch.metadata.annotations["clients.example/loaded"] = "yes"


@kopf.on.delete("boats.clients.example")
async def sink(name, namespace, logger, **_):
    await asyncio.sleep(0)
    logger.info("%s is gone", name)
