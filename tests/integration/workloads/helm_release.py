"""Helm 4's library, in an environment of its own: installs, upgrades, lists, rolls back and uninstalls a chart, and prints
what came of each step. `python helm_release.py KUBECONFIG CHART`."""

import asyncio
import json
import sys

import helm_sdkpy as helm

kubeconfig, chart = sys.argv[1:]


async def main() -> None:
    config = helm.Configuration(namespace="default", kubeconfig=kubeconfig)
    told: dict[str, object] = {}
    await helm.Install(config).run("web", chart, wait=True, timeout=60)
    await helm.Upgrade(config).run("web", chart, values={"image": "ok:2"}, wait=True, timeout=60)
    await helm.Upgrade(config).run(
        "web", chart, values={"image": "ok:3"}, wait=True, timeout=60, server_side_apply=True
    )
    told["history"] = [entry["version"] for entry in await helm.History(config).run("web")]
    told["listed"] = [release["name"] for release in await helm.List(config).run()]
    try:
        await helm.Rollback(config).run("web", 1)
        told["rollback"] = "done"
    except helm.RollbackError as err:
        told["rollback"] = str(err)
    await helm.Uninstall(config).run("web", wait=True, timeout=60)
    told["left"] = [release["name"] for release in await helm.List(config).run(all=True) or []]
    print(json.dumps(told))


asyncio.run(main())
