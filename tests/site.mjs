// Open every page of a built site, light and dark, at 1280, 320 and 390 px, and say what a reader would stumble over:
// one line for each problem, then a line of JSON with what was measured.
// node site.mjs FOLDER CHROMIUM [FOLDER FOR SCREENSHOTS [PART OF A PAGE'S NAME]]
// What pages ask for comes from FOLDER, and from nowhere else; KaTeX from a CDN is answered from node_modules.
import { createServer } from "node:http";
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync } from "node:fs";
import { extname, join, resolve, sep } from "node:path";
import { gzipSync } from "node:zlib";
import { chromium } from "playwright-core";
import { contrast } from "./contrast.mjs";
import { look } from "./look.mjs";

const [folder, executablePath, shots, only] = process.argv.slice(2);
const root = resolve(folder),
  begun = Date.now(),
  LIMIT = 1.5e6,
  WIDTHS = [1280, 320, 390];
const katex = new URL("./node_modules/katex/dist/", import.meta.url).pathname;
const settings = readFileSync(new URL("../settings.ini", import.meta.url), "utf-8");
const setting = key => settings.match(new RegExp(`^${key} *= *(.*)$`, "m"))[1].trim();
const [user, repo] = ["user", "repo"].map(setting),
  prefix = `/${repo}/`;
const git = `https://github.com/${user}/${repo}`,
  address =
    setting("doc_host").replace("%(user)s", user) +
    setting("doc_baseurl").replace("%(repo)s", repo) +
    "/";
const types = {
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
// What matters of require.js here: while it is on a page, scripts hand themselves to `define` and set no global name. (Its hash is taken out.)
const requirejs =
  "window.define = function () {}; define.amd = {}; window.require = window.requirejs = function () {}; require.config = function () {};";

const html = name => readFileSync(resolve(root, name), "utf-8");
const fileOf = path => {
  // the file behind a path inside the site, or null
  const file = join(root, decodeURIComponent(path.split(/[?#]/)[0]));
  const inner =
    existsSync(file) && statSync(file).isDirectory() ? join(file, "index.html") : file;
  return (inner + sep).startsWith(root + sep) &&
    existsSync(inner) &&
    statSync(inner).isFile()
    ? inner
    : null;
};
const sizes = new Map();
const sizeOf = file => {
  // [bytes, bytes as GitHub Pages sends them]
  if (!sizes.has(file)) {
    const bytes = readFileSync(file);
    sizes.set(file, [
      bytes.length,
      /\.(html|css|js|json|svg|ttf)$/.test(file)
        ? gzipSync(bytes).length
        : bytes.length,
    ]);
  }
  return sizes.get(file);
};
const server = createServer((request, response) => {
  const path = new URL(request.url, "http://x").pathname;
  const lost = path === prefix + "no/such/page.html"; // the 404 page stands in for any address, however deep
  const file = lost
    ? join(root, "404.html")
    : path.startsWith(prefix)
      ? fileOf(path.slice(prefix.length))
      : null;
  if (!file) {
    response.writeHead(404);
    return response.end();
  }
  response.writeHead(200, {
    "content-type": types[extname(file)] ?? "application/octet-stream",
  });
  response.end(
    file.endsWith(".html")
      ? html(file).replace(
          /(<script[^>]*require(?:\.min)?\.js"[^>]*?) integrity="[^"]*"/g,
          "$1",
        )
      : readFileSync(file),
  );
});
await new Promise(ready => server.listen(0, "127.0.0.1", ready));
const origin = `http://127.0.0.1:${server.address().port}`,
  base = origin + prefix;
const within = href =>
  [base, address]
    .filter(start => href.startsWith(start))
    .map(start => href.slice(start.length))[0];

const problems = new Map(); // "kind: page", width and what -> the colour schemes in which it was seen
const say = (kind, name, width, scheme, what) => {
  const key = JSON.stringify([kind, name, width, what.replace(/\s+/g, " ")]);
  problems.set(key, (problems.get(key) ?? new Set()).add(scheme));
};
const files = readdirSync(root, { recursive: true })
  .map(name => name.split(sep).join("/"))
  .filter(name => name.endsWith(".html") && !name.startsWith("site_libs/"));
const pages = files
  .filter(
    name => name.includes(only ?? "") && !/http-equiv=["']?refresh/i.test(html(name)),
  )
  .sort();
const ids = {},
  targets = [],
  images = new Map(),
  facts = {};

async function visitor(context) {
  // a tab that goes from page to page; `now` is what the present page has asked for and said
  const page = await context.newPage(),
    now = {};
  page.setDefaultTimeout(120_000);
  page.on("pageerror", error => now.messages.push(error.message));
  page.on("console", message => {
    if (
      /warning|error/.test(message.type()) &&
      !message.text().startsWith("Failed to load resource")
    )
      now.messages.push(`${message.type()}: ${message.text()}`);
  });
  page.on("response", answer => {
    if (answer.url().startsWith(origin) && answer.status() >= 400)
      now.messages.push(`${answer.status()} for ${new URL(answer.url()).pathname}`);
  });
  await page.route("**/*", route => {
    const url = new URL(route.request().url());
    if (url.protocol === "data:" || url.protocol === "blob:") return route.continue();
    now.asked.add(url.href);
    if (url.origin === origin) return route.continue();
    const file = url.pathname.match(/\/katex@[^/]*\/dist\/(.*)/)?.[1],
      headers = { "access-control-allow-origin": "*" };
    if (file && existsSync(join(katex, file)))
      return route.fulfill({
        path: join(katex, file),
        contentType: types[extname(file)],
        headers,
      });
    if (/require(\.min)?\.js$/.test(url.pathname))
      return route.fulfill({
        body: requirejs,
        contentType: "text/javascript",
        headers,
      });
    return route.abort();
  });
  await page.addInitScript(() => {
    new MutationObserver((_, observer) => {
      if (!document.querySelector(".katex")) return;
      window.firstFormula = performance.now();
      observer.disconnect();
    }).observe(document, { childList: true, subtree: true });
  });
  return [page, now];
}

async function open([page, now], name, scheme) {
  const tell = (kind, what, width = WIDTHS[0]) => say(kind, name, width, scheme, what);
  Object.assign(now, { asked: new Set(), messages: [] });
  await page.setViewportSize({ width: WIDTHS[0], height: 900 });
  await page.goto(base + (name === "404.html" ? "no/such/page.html" : name), {
    waitUntil: "load",
  });
  await page.evaluate(() =>
    document.querySelectorAll("img[loading=lazy]").forEach(image => {
      image.loading = "eager";
    }),
  );
  const settled = () =>
    [...document.querySelectorAll(".math")].every(e =>
      e.querySelector(".katex, .katex-error"),
    ) && [...document.images].every(i => i.complete);
  await page.waitForFunction(settled, undefined, { timeout: 1500 }).catch(() => {});
  for (const width of WIDTHS) {
    if (width !== WIDTHS[0]) await page.setViewportSize({ width, height: 900 });
    if (shots && width !== 320)
      await page.screenshot({
        path: join(shots, `${name.replaceAll("/", "-")}-${width}-${scheme}.png`),
      });
    await page.evaluate(() =>
      document.querySelectorAll("details:not([open])").forEach(e => {
        e.open = true;
        e.dataset.unfolded = "";
      }),
    );
    const seen = await page.evaluate(look, { width, scheme, name, git });
    if (width !== 320)
      seen.found.push(...(await page.evaluate(contrast, { width, scheme })));
    await page.evaluate(() =>
      document.querySelectorAll("details[data-unfolded]").forEach(e => {
        e.open = false;
      }),
    );
    seen.found.forEach(([kind, what]) => tell(kind, what, width));
    if (width !== WIDTHS[0]) continue;
    const sameKatex = seen.pinned
      .map(url => url.match(/.*\/katex@\d+\.\d+\.\d+\/dist\//)?.[0])
      .filter(Boolean);
    const allowed = url =>
      sameKatex.some(start => url.startsWith(start)) &&
      (seen.pinned.includes(url) || /\.(woff2?|ttf)$/.test(url));
    [...now.asked]
      .filter(url => !url.startsWith(origin) && !allowed(url))
      .forEach(url => tell("elsewhere", `asks for ${url}`));
    if (scheme === "light") {
      ids[name] = new Set(seen.ids);
      if (
        !seen.icon ||
        (!seen.icon.startsWith("data:") && !fileOf(within(seen.icon) ?? "?"))
      )
        tell("favicon", seen.icon ? `is not there: ${seen.icon}` : "no favicon");
      targets.push(...seen.links.map(link => [name, link]));
      const own = [...now.asked]
        .filter(url => url.startsWith(base))
        .map(url =>
          url.endsWith("no/such/page.html") ? "404.html" : url.slice(base.length),
        )
        .map(fileOf)
        .filter(Boolean);
      const sum = (list, part) =>
        list.map(file => sizeOf(file)[part]).reduce((a, b) => a + b, 0);
      const content = own.filter(file => !/\.(css|js|json|woff2?|ttf)$/.test(file));
      facts[name] = {
        bytes: sum(own, 0),
        sent: sum(own, 1),
        content: sum(content, 0),
        requests: now.asked.size,
        formulas: seen.formulas,
        formula_ms: await page.evaluate(
          () => Math.round(window.firstFormula ?? 0) || null,
        ),
      };
      if (facts[name].content > LIMIT || facts[name].sent > LIMIT)
        tell(
          "weight",
          `${(facts[name].content / 1e6).toFixed(2)} MB of page and pictures, ${(facts[name].sent / 1e6).toFixed(2)} MB sent in all`,
        );
      if (name !== "404.html") {
        for (const key of ["og:title", "og:description", "og:image"])
          if (!seen.og[key]) tell("og", `no ${key}`);
        for (const key of ["og:image", "twitter:image"])
          if (seen.og[key]) images.set(`${name} ${key}`, [name, key, seen.og[key]]);
      }
    }
  }
  facts[name] = {
    ...facts[name],
    console: (facts[name]?.console ?? 0) + now.messages.length,
  };
  [...new Set(now.messages.map(what => what.slice(0, 160)))].forEach(what =>
    tell("console", what),
  );
}

if (shots) mkdirSync(shots, { recursive: true });
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
  ],
});
for (const scheme of ["light", "dark"]) {
  const context = await browser.newContext({
      viewport: { width: WIDTHS[0], height: 900 },
      colorScheme: scheme,
    }),
    queue = [...pages];
  const work = async () => {
    const tab = await visitor(context);
    for (let name = queue.shift(); name; name = queue.shift())
      await open(tab, name, scheme);
  };
  await Promise.all([work(), work()]); // two pages side by side
  await context.close();
}

// What can be said only when all pages have been seen: links, og:image, search, 404.
const idsOf = name =>
  (ids[name] ??= new Set(
    [...html(name).matchAll(/\b(?:id|name)="([^"]+)"/g)].map(match => match[1]),
  ));
const lead = (name, link) => {
  // why a link inside the site leads nowhere, or null
  if (link.startsWith(origin) && !link.startsWith(base)) return "outside the site";
  const path = within(link);
  if (path === undefined) return null;
  const [at, anchor] = path.split("#"),
    file = at === "no/such/page.html" ? join(root, "404.html") : fileOf(at);
  if (!file) return "which is not there";
  const page = file
    .slice(root.length + 1)
    .split(sep)
    .join("/");
  return anchor &&
    page.endsWith(".html") &&
    !["", "top"].includes(anchor) &&
    !idsOf(page).has(decodeURIComponent(anchor))
    ? "no such anchor"
    : null;
};
const show = link => within(link) ?? link;
for (const [name, link] of targets)
  if (lead(name, link))
    say("anchor", name, 1280, "light", `a link to ${show(link)}: ${lead(name, link)}`);
const context = await browser.newContext(),
  probe = await context.newPage();
await probe.goto(base + pages[0]);
const widths = new Map();
for (const [name, key, image] of images.values()) {
  const path = within(image),
    bad = what => say("og", name, 1280, "light", `${key} ${what}`);
  if (image.includes("data:")) bad("is a data: URL");
  else if (!/^https?:/.test(image)) bad(`is no full address: ${image}`);
  else if (path === undefined) bad(`is not of this site: ${image}`);
  else if (!fileOf(path)) bad(`is not there: ${path}`);
  else {
    if (!widths.has(path))
      widths.set(
        path,
        await probe.evaluate(
          src =>
            new Promise(done => {
              const i = new Image();
              i.onload = i.onerror = () => done(i.naturalWidth);
              i.src = src;
            }),
          base + path,
        ),
      );
    if (widths.get(path) < 600) bad(`is ${widths.get(path)} px wide: ${path}`);
  }
}
const index = join(root, "search.json"),
  needed = pages.find(name => /name="?generator"? content="quarto/.test(html(name)));
if (!existsSync(index) && needed)
  say("search", needed, 1280, "light", "no search.json in the folder");
for (const { href, text } of existsSync(index)
  ? JSON.parse(readFileSync(index, "utf-8"))
  : []) {
  const name = href.split("#")[0];
  if (only && !name.includes(only)) continue;
  const imports = text.match(
    /^(from [\w.]+ import [\w(*].*|import [\w.]+( as \w+)?(, *[\w.]+( as \w+)?)*)$/m,
  );
  if (imports)
    say(
      "search",
      name,
      1280,
      "light",
      `search finds ${imports[0].slice(0, 40)} at ${href}`,
    );
  if (lead(name, base + href))
    say(
      "anchor",
      name,
      1280,
      "light",
      `search leads to ${href}: ${lead(name, base + href)}`,
    );
}
if (!files.includes("404.html") && !only)
  say("404", "404.html", 1280, "light", "no 404 page");
await browser.close();
server.close();

for (const [key, schemes] of [...problems].sort()) {
  const [kind, name, width, what] = JSON.parse(key);
  console.log(
    `${kind}: ${name} at ${width}, ${[...schemes].sort().reverse().join(" and ")}: ${what}`,
  );
}
const total = key =>
  Object.values(facts)
    .map(fact => fact[key] ?? 0)
    .reduce((a, b) => a + b, 0);
console.log(
  JSON.stringify({
    pages: facts,
    totals: {
      pages: pages.length,
      problems: problems.size,
      seconds: Math.round((Date.now() - begun) / 1000),
      ...Object.fromEntries(
        ["bytes", "requests", "console", "formulas"].map(key => [key, total(key)]),
      ),
    },
  }),
);
process.exit(problems.size || !pages.length ? 1 : 0);
