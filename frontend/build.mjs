// Bundles the dashboard into the Python package: one script, one style sheet, one page, all from this host alone. And the page of
// profiles, one file with all that it needs, because it is also what `trimtab profile record` writes.
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const common = { bundle: true, minify: true, target: "es2022", legalComments: "none", logLevel: "warning" };
const out = "../src/trimtab/web/static";
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
await build({ ...common, entryPoints: ["src/main.tsx", "src/style.css"], outdir: out });
cpSync("src/index.html", `${out}/index.html`);

const profile = await build({
  ...common,
  entryPoints: ["src/profile/page.ts", "src/profile/page.css"],
  outdir: "profile",
  format: "iife",
  write: false,
});
const part = (end) => profile.outputFiles.find((file) => file.path.endsWith(end)).text.trim().replaceAll("</", "<\\/");
const page = readFileSync("src/profile/page.html", "utf8")
  .replace("/*style*/", () => part(".css"))
  .replace("/*script*/", () => part(".js"));
const beside = "../src/trimtab/components/profiling/static";
rmSync(beside, { recursive: true, force: true });
mkdirSync(beside, { recursive: true });
writeFileSync(`${beside}/page.html`, page);
