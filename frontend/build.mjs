// Bundles the dashboard into the Python package: one script, one style sheet, one page, all from this host alone.
import { cpSync, mkdirSync, rmSync } from "node:fs";
import { build } from "esbuild";

const out = "../src/trimtab/web/static";
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
await build({
  entryPoints: ["src/main.tsx", "src/style.css"],
  bundle: true,
  minify: true,
  target: "es2022",
  outdir: out,
  legalComments: "none",
  logLevel: "warning",
});
cpSync("src/index.html", `${out}/index.html`);
