// A folder of built pages as the world will see it: under the path that it has on
// GitHub Pages, but served on this machine alone.
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, relative, resolve, sep } from "node:path";
import { gzipSync } from "node:zlib";

const settings = readFileSync(new URL("../../settings.ini", import.meta.url), "utf-8");
const setting = key =>
  settings
    .match(new RegExp(`^${key} *= *(.*)$`, "m"))[1]
    .trim()
    .replace(/%\((\w+)\)s/g, (_, other) => setting(other));
export const git = setting("git_url");
// Why a link to the project's own files, on GitHub or Colab, leads nowhere, or null.
const branch = `${setting("branch")}/`;
const places = [git, git.replace("//github.com", "//colab.research.google.com/github")];
export function astrayInRepository(link) {
  const start = places.map(place => `${place}/blob/`).find(one => link.startsWith(one));
  if (!start) return null;
  const [, file, line] = link.slice(start.length).match(/([^#?]*)(?:.*#L(\d+))?/);
  if (!file.startsWith(branch)) return "not the branch that is published";
  const at = new URL(`../../${file.slice(branch.length)}`, import.meta.url);
  if (!existsSync(at)) return "no such file";
  const lines = line ? readFileSync(at, "utf-8").split("\n").length : 0;
  return Number(line ?? 0) > lines ? "no such line" : null;
}
const path = `${setting("doc_baseurl")}/`;
const home = setting("doc_host") + path;
const lost = "no/such/page.html"; // any address that is not there, however deep

export const types = {
  ".html": "text/html",
  ".css": "text/css",
  ".js": "text/javascript",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".jpg": "image/jpeg",
  ".ico": "image/x-icon",
  ".woff2": "font/woff2",
  ".woff": "font/woff",
  ".ttf": "font/ttf",
};
// The gate answers for require.js (see visit.mjs), so its hash is taken out.
const hash = /(<script[^>]*require(?:\.min)?\.js"[^>]*?) integrity="[^"]*"/g;

export async function serve(folder) {
  const root = resolve(folder);
  const read = name => readFileSync(join(root, name), "utf-8");
  const names = readdirSync(root, { recursive: true }).map(n => n.replaceAll(sep, "/"));
  const pages = names
    .filter(name => name.endsWith(".html") && !name.startsWith("site_libs/"))
    .filter(name => !/http-equiv=["']?refresh/i.test(read(name)))
    .sort();

  const isFile = file => existsSync(file) && statSync(file).isFile();
  const fileOf = address => {
    // The name of the file behind an address inside the site, or null.
    const [plain] = address.split(/[?#]/);
    if (plain === lost) return isFile(join(root, "404.html")) ? "404.html" : null;
    const named = join(root, decodeURIComponent(plain));
    const file = isFile(named) ? named : join(named, "index.html");
    const inside = file.startsWith(root + sep) && isFile(file);
    return inside ? relative(root, file).replaceAll(sep, "/") : null;
  };

  const known = {};
  const sizeOf = name => {
    // Its bytes, and how many of them travel: GitHub Pages packs what is text.
    if (known[name]) return known[name];
    const bytes = readFileSync(join(root, name));
    const packs = /\.(html|css|js|json|svg|ttf)$/.test(name);
    known[name] = [bytes.length, packs ? gzipSync(bytes).length : bytes.length];
    return known[name];
  };

  const server = createServer((request, response) => {
    const asked = new URL(request.url, "http://x").pathname;
    const name = asked.startsWith(path) ? fileOf(asked.slice(path.length)) : null;
    if (name === null) return response.writeHead(404).end();
    const type = types[extname(name)] ?? "application/octet-stream";
    const page = name.endsWith(".html");
    const body = page ? read(name).replace(hash, "$1") : readFileSync(join(root, name));
    return response.writeHead(200, { "content-type": type }).end(body);
  });
  await new Promise(ready => server.listen(0, "127.0.0.1", ready));
  const origin = `http://127.0.0.1:${server.address().port}`;
  const base = origin + path;
  const within = link => {
    // The part of an address after the site's own, or undefined.
    const start = [base, home].find(one => link.startsWith(one));
    return start && link.slice(start.length);
  };
  const at = name => base + (name === "404.html" ? lost : name);
  return { root, pages, read, fileOf, sizeOf, origin, base, within, at, server };
}
