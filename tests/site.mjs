// Open every page of a built site, light and dark, at 1280, 320 and 390 px (and in
// light at 1024 and 768, where the site changes its columns), and say
// what a reader would stumble over: `kind: page at WIDTH, theme: what`, a line each,
// then what was measured, in one line of JSON. Exit code 1 if there is a problem.
//
//   node site.mjs FOLDER CHROMIUM [FOLDER FOR SCREENSHOTS [PART OF A PAGE'S NAME]]
//
// What pages ask for comes from FOLDER and from nowhere else. The kinds are found in
//   gate/layout.mjs    overflow, cut, cut-output, mangled, gap, touch, toc
//   gate/contrast.mjs  contrast, theme
//   gate/words.mjs     formula, image, alt, path, plumbing, signature, order, title,
//                      colab, steps, github, search, switch, numbers, markdown, head
//   here               elsewhere, console, weight, favicon, anchor, og, search, 404
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { astrayInRepository, git, serve } from "./gate/folder.mjs";
import { newTab, visit, WIDTHS } from "./gate/visit.mjs";

const LIMIT = 1.5e6; // bytes of a page with its pictures, and of all that travels
const [folder, executablePath, shots, only = ""] = process.argv.slice(2);
const begun = Date.now();
const site = await serve(folder);
const pages = site.pages.filter(name => name.includes(only));
const problems = new Map(); // kind, page, width and what -> the themes
const facts = {};
const seen = {}; // what was on each page, in its light theme
const mb = bytes => `${(bytes / 1e6).toFixed(2)} MB`;

function say(kind, name, what, width = WIDTHS[0], scheme = "light") {
  const key = JSON.stringify([kind, name, width, what.trim().replace(/\s+/g, " ")]);
  problems.set(key, new Set([...(problems.get(key) ?? []), scheme]));
}

// ------------------------------------------------------------------- page by page

// Does a request go elsewhere? KaTeX may, from an address with a version and a hash.
function strangers(asked, pinned) {
  const version = /.*\/katex@\d+\.\d+\.\d+\/dist\//;
  const starts = pinned.map(url => url.match(version)?.[0]).filter(Boolean);
  const font = /\.(woff2?|ttf)$/;
  const allowed = url =>
    starts.some(start => url.startsWith(start)) &&
    (pinned.includes(url) || font.test(url));
  return asked.filter(url => !url.startsWith(site.origin) && !allowed(url));
}

function measure(name, { asked, formulas, formula_ms }) {
  const inner = asked.filter(url => url.startsWith(site.base));
  const files = inner.map(url => site.fileOf(url.slice(site.base.length)));
  const loaded = [...new Set(files.filter(Boolean))];
  const own = loaded.filter(file => !/\.(css|js|json|woff2?|ttf)$/.test(file));
  const sum = (list, part) =>
    list.reduce((all, file) => all + site.sizeOf(file)[part], 0);
  const [bytes, sent, content] = [sum(loaded, 0), sum(loaded, 1), sum(own, 0)];
  if (Math.max(sent, content) > LIMIT)
    say("weight", name, `${mb(content)} with its pictures, ${mb(sent)} sent in all`);
  return { bytes, sent, content, requests: asked.length, formulas, formula_ms };
}

async function look(tab, name, scheme) {
  const tell = (kind, width, what) => say(kind, name, what, width, scheme);
  const file = width => `${name.replaceAll("/", "-")}-${width}-${scheme}.png`;
  const shot = shots && (width => join(shots, file(width)));
  const here = await visit(tab, site.at(name), { scheme, name, git, shot, tell });
  for (const url of strangers(here.asked, here.pinned))
    tell("elsewhere", WIDTHS[0], `asks for ${url}`);
  const messages = here.messages.map(message => message.slice(0, 160));
  for (const message of messages) tell("console", WIDTHS[0], message);
  if (scheme === "light") {
    seen[name] = { ...here, ids: new Set(here.ids) };
    facts[name] = { ...measure(name, here), console: 0 };
  }
  facts[name].console += messages.length;
}

if (shots) mkdirSync(shots, { recursive: true });
const quiet = ["background-networking", "component-update", "gpu", "quic", "sync"];
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--no-first-run", ...quiet.map(what => `--disable-${what}`)],
});
for (const colorScheme of ["light", "dark"]) {
  const context = await browser.newContext({ colorScheme });
  const queue = [...pages];
  const work = async () => {
    const tab = await newTab(context, site.origin);
    while (queue.length) await look(tab, queue.shift(), colorScheme);
  };
  await Promise.all([work(), work()]); // two pages side by side
  await context.close();
}

// ------------------------------------------------- when all pages have been seen

const written = name =>
  new Set([...site.read(name).matchAll(/\b(?:id|name)="([^"]+)"/g)].map(m => m[1]));

function astray(link) {
  // Why a link inside the site leads nowhere, or null.
  if (link.startsWith(site.origin) && !link.startsWith(site.base))
    return "outside the site";
  const path = site.within(link);
  if (/^(file:|https?:\/\/(localhost|127\.|0\.0\.))/.test(link) && path === undefined)
    return "on one machine";
  if (path === undefined) return astrayInRepository(link);
  const file = site.fileOf(path);
  if (!file) return "which is not there";
  const anchor = decodeURIComponent(path.split("#")[1] ?? "");
  if (!file.endsWith(".html") || ["", "top"].includes(anchor)) return null;
  seen[file] ??= { ids: written(file), links: [] };
  return seen[file].ids.has(anchor) ? null : "no such anchor";
}

function links(name) {
  for (const link of seen[name].links) {
    const why = astray(link);
    if (why) say("anchor", name, `a link to ${site.within(link) ?? link}: ${why}`);
  }
  const { icon } = seen[name];
  if (!icon) say("favicon", name, "no favicon");
  else if (!icon.startsWith("data:") && !site.fileOf(site.within(icon) ?? "?"))
    say("favicon", name, `is not there: ${icon}`);
}

async function cards(name, widthOf) {
  const { og } = seen[name];
  for (const key of ["og:title", "og:description", "og:image"])
    if (!og[key]) say("og", name, `no ${key}`);
  for (const key of ["og:image", "twitter:image"]) {
    const image = og[key];
    const path = image && site.within(image);
    const bad = what => say("og", name, `${key} ${what}`);
    if (!image) continue;
    if (image.includes("data:")) bad("is a data: URL");
    else if (!/^https?:/.test(image)) bad(`is no full address: ${image}`);
    else if (path === undefined) bad(`is not of this site: ${image}`);
    else if (!site.fileOf(path)) bad(`is not there: ${path}`);
    else if ((await widthOf(path)) < 600) bad(`is less than 600 px wide: ${path}`);
  }
}

function search() {
  const index = site.fileOf("search.json");
  const quarto = pages.find(name =>
    /name="generator" content="quarto/.test(site.read(name)),
  );
  if (!index && quarto) say("search", quarto, "no search.json in the folder");
  const imports =
    /^(from [\w.]+ import [\w(*].*|import [\w.]+( as \w+)?(, *[\w.]+( as \w+)?)*)$/m;
  for (const { href, text } of index ? JSON.parse(site.read(index)) : []) {
    const name = href.split("#")[0];
    const line = text.match(imports)?.[0].slice(0, 40);
    const why = astray(site.base + href);
    if (!name.includes(only)) continue;
    if (line) say("search", name, `finds ${line} at ${href}`);
    if (why) say("anchor", name, `search leads to ${href}: ${why}`);
  }
}

const probe = await browser.newPage();
const widths = {};
await probe.goto(site.base).catch(() => {});
const widthOf = async path =>
  (widths[path] ??= await probe.evaluate(async source => {
    const image = Object.assign(new Image(), { src: source });
    await image.decode().catch(() => {});
    return image.naturalWidth;
  }, site.base + path));
for (const name of pages) {
  links(name);
  if (name !== "404.html") await cards(name, widthOf);
}
search();
if (!site.pages.includes("404.html") && !only) say("404", "404.html", "no such page");
await browser.close();
site.server.close();

for (const [key, schemes] of [...problems].sort()) {
  const [kind, name, width, what] = JSON.parse(key);
  const themes = [...schemes].sort().reverse().join(" and ");
  console.log(`${kind}: ${name} at ${width}, ${themes}: ${what}`);
}
const total = key => Object.values(facts).reduce((sum, fact) => sum + fact[key], 0);
const sums = ["bytes", "requests", "console", "formulas"].map(key => [key, total(key)]);
const seconds = Math.round((Date.now() - begun) / 1000);
const counts = { pages: pages.length, problems: problems.size, seconds };
console.log(
  JSON.stringify({ pages: facts, totals: { ...counts, ...Object.fromEntries(sums) } }),
);
process.exit(problems.size || !pages.length ? 1 : 0);
