// The client for JavaScript, as its users write: objects, a watch, an informer, logs, exec, port-forward, metrics of the API.
//
//     node use_client_node.mjs NAMESPACE IMAGE
//
// It is found by NODE_PATH's directory, since modules are not: run where `node_modules` is. Prints "ok".
import { createRequire } from "node:module";
import { Writable } from "node:stream";
import net from "node:net";
import assert from "node:assert/strict";

const k8s = await import(createRequire(process.env.MODULES + "/").resolve("@kubernetes/client-node"));
const [namespace, image] = process.argv.slice(2);
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(config);

class Kept extends Writable {
  text = "";
  _write(chunk, _encoding, done) {
    this.text += chunk;
    done();
  }
}

async function until(holds, what) {
  const deadline = Date.now() + 60_000;
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, `not after 60 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

// An informer hears of everything, from before and after its start.
const heard = [];
const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, () =>
  core.listNamespacedConfigMap({ namespace, labelSelector: "client=node" }), "client=node");
for (const verb of ["add", "update", "delete"]) informer.on(verb, (object) => heard.push(`${verb} ${object.metadata.name}`));
informer.on("error", (error) => heard.push(`error ${error}`));
const labels = { client: "node" };
await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: "before", labels }, data: { a: "1" } } });
await informer.start();
await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: "after", labels } } });
await core.patchNamespacedConfigMap({ name: "after", namespace, body: { data: { b: "2" } } },
  k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.MergePatch));
await core.deleteNamespacedConfigMap({ name: "before", namespace });
await until(() => heard.includes("delete before"), `the informer heard ${heard}`);
assert.deepEqual(heard, ["add before", "add after", "update after", "delete before"]);
assert.deepEqual(informer.list().map((object) => object.metadata.name), ["after"]);
await informer.stop();

// A watch by hand, from a version on.
const { metadata } = await core.listNamespacedConfigMap({ namespace });
const seen = [];
const watching = await new k8s.Watch(config).watch(`/api/v1/namespaces/${namespace}/configmaps`,
  { resourceVersion: metadata.resourceVersion }, (type, object) => seen.push(`${type} ${object.metadata.name}`), () => {});
await core.deleteNamespacedConfigMap({ name: "after", namespace });
await until(() => seen.includes("DELETED after"), `the watch saw ${seen}`);
watching.abort();

// Errors are Statuses.
await assert.rejects(core.readNamespacedConfigMap({ name: "absent", namespace }), (error) =>
  error.code === 404 && JSON.parse(error.body).message === 'configmaps "absent" not found');

// Server-side apply of whatever kind, then a pod that runs.
const manifest = {
  apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "web", namespace },
  spec: { selector: { matchLabels: { app: "web" } }, template: { metadata: { labels: { app: "web" } },
    spec: { terminationGracePeriodSeconds: 1, containers: [{ name: "web", image }] } } },
};
await objects.patch(manifest, undefined, undefined, "client-node", true, k8s.PatchStrategy.ServerSideApply);
await until(async () => (await apps.readNamespacedDeployment({ name: "web", namespace })).status?.readyReplicas === 1, "web is ready");
const pod = (await core.listNamespacedPod({ namespace, labelSelector: "app=web" })).items[0].metadata.name;

const out = new Kept();
const err = new Kept();
const ended = await new Promise((resolve, reject) => {
  new k8s.Exec(config).exec(namespace, pod, "web", ["sh", "-c", "echo out; echo err >&2; exit 3"], out, err, null, false, resolve).catch(reject);
});
assert.equal(out.text, "out\n");
assert.equal(err.text, "err\n");
assert.equal(ended.details.causes[0].message, "3");

const server = net.createServer((socket) => new k8s.PortForward(config).portForward(namespace, pod, [8080], socket, null, socket));
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const page = await fetch(`http://127.0.0.1:${server.address().port}/`, { headers: { connection: "close" } });
assert.equal(await page.text(), "served\n");
server.close();

await core.createNamespacedPod({ namespace, body: { metadata: { name: "says" },
  spec: { restartPolicy: "Never", containers: [{ name: "says", image, command: ["echo", "said"] }] } } });
await until(async () => (await core.readNamespacedPod({ name: "says", namespace })).status?.phase === "Succeeded", "says has ended");
const logged = new Kept();
await new k8s.Log(config).log(namespace, "says", "says", logged, { follow: true });
await until(() => logged.text === "said\n", `the log is ${JSON.stringify(logged.text)}`);
console.log("ok");
process.exit(0);
