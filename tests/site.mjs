// Open every page of the built site: wide and at 390 px, light and dark. node site.mjs FOLDER CHROMIUM [SCREENSHOTS [PART OF A PAGE'S NAME]]
// Nothing outside the folder is fetched but KaTeX, which comes from node_modules.
import { createServer } from "node:http";
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync } from "node:fs";
import { extname, join, relative, resolve } from "node:path";
import { chromium } from "playwright-core";

const [folder, executablePath, shots, only] = process.argv.slice(2);
const root = resolve(folder);
const katex = new URL("./node_modules/katex/dist/", import.meta.url).pathname;
const types = { ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json", ".svg": "image/svg+xml", ".png": "image/png", ".woff2": "font/woff2", ".woff": "font/woff" };

const server = createServer((request, response) => {
  let path = join(root, decodeURIComponent(new URL(request.url, "http://x").pathname));
  if (existsSync(path) && statSync(path).isDirectory()) path = join(path, "index.html");
  if (!path.startsWith(root) || !existsSync(path)) { response.writeHead(404); return response.end(); }
  response.writeHead(200, { "content-type": types[extname(path)] ?? "application/octet-stream" });
  response.end(readFileSync(path));
});
await new Promise(ready => server.listen(0, "127.0.0.1", ready));
const base = `http://127.0.0.1:${server.address().port}/`;

const pages = readdirSync(root, { recursive: true }).filter(name => name.endsWith(".html") && !name.includes("site_libs") && name !== "404.html" && name.includes(only ?? "")).sort();
const problems = [], ids = {}, targets = [];
const say = (page, what) => problems.push(`${page}: ${what}`);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"] });

for (const [width, colorScheme] of [[1280, "light"], [1280, "dark"], [390, "light"], [390, "dark"]]) {
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme });
  await context.route("**/*", route => {
    const url = new URL(route.request().url());
    if (url.origin + "/" === base || url.protocol === "data:") return route.continue();
    const file = url.pathname.match(/\/npm\/katex@[^/]*\/dist\/(.*)/);
    if (file && existsSync(join(katex, file[1]))) return route.fulfill({ path: join(katex, file[1]), contentType: types[extname(file[1])] });
    if (/\.(woff2?|ttf)$|fonts\./.test(url.href)) say(url.href, "a font from elsewhere");
    return route.abort();
  });
  for (const name of pages) {
    const page = await context.newPage();
    page.setDefaultTimeout(120_000);
    const view = `${name} at ${width} px, ${colorScheme}`;
    page.on("pageerror", error => say(view, `script: ${error.message}`));
    page.on("response", answer => { if (answer.url().startsWith(base) && answer.status() >= 400) say(view, `${answer.status()} for ${answer.url().slice(base.length)}`); });
    await page.goto(base + name, { waitUntil: "load" });
    await page.waitForTimeout(100);
    const seen = await page.evaluate(() => {
      const luminance = color => { const [r, g, b] = color.match(/[\d.]+/g).map(Number); return (0.3 * r + 0.6 * g + 0.1 * b) / 255; };
      const wide = [...document.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1 &&
        ![...function* () { for (let p = e.parentElement; p; p = p.parentElement) yield p; }()].some(p => /auto|scroll|hidden/.test(getComputedStyle(p).overflowX) && p !== document.body && p !== document.documentElement));
      return {
        across: document.scrollingElement.scrollWidth - innerWidth,
        wide: wide.slice(0, 3).map(e => e.outerHTML.slice(0, 90)),
        blank: [...document.images].filter(i => i.complete && !i.naturalWidth && (i.currentSrc.startsWith("data:") || i.currentSrc.startsWith(location.origin))).length,
        mute: [...document.querySelectorAll("main img")].filter(i => !i.alt.trim()).length,
        maths: [document.querySelectorAll(".math").length, document.querySelectorAll(".katex").length, document.querySelectorAll(".katex-error").length],
        paper: luminance(getComputedStyle(document.body).backgroundColor), ink: luminance(getComputedStyle(document.body).color),
        title: document.querySelector("h1")?.textContent.trim() ?? "",
        colab: document.querySelectorAll('main a[href*="colab.research.google.com"]').length,
        search: !!document.querySelector("#quarto-search"), toggle: !!document.querySelector(".quarto-color-scheme-toggle"),
        steps: document.querySelectorAll(".nav-page-previous a, .nav-page-next a").length,
        source: document.querySelectorAll('.toc-actions a[href*="github.com"], .quarto-alternate-formats a, a.toc-action').length,
        ids: [...document.querySelectorAll("[id]")].map(e => e.id), links: [...document.querySelectorAll("a[href]")].map(a => a.href).filter(h => h.startsWith(location.origin)),
      };
    });
    if (seen.across > 0) say(view, `${seen.across} px too wide: ${seen.wide.join(" | ")}`);
    if (seen.blank) say(view, `${seen.blank} pictures that do not load`);
    if (seen.mute) say(view, `${seen.mute} pictures without alt text`);
    if (seen.maths[2] || seen.maths[0] > seen.maths[1]) say(view, `${seen.maths[0]} formulas, ${seen.maths[1]} typeset, ${seen.maths[2]} refused`);
    if (seen.paper > 0.5 !== (colorScheme === "light") || Math.abs(seen.paper - seen.ink) < 0.5) say(view, `paper ${seen.paper.toFixed(2)}, ink ${seen.ink.toFixed(2)}`);
    if (width === 1280 && colorScheme === "light") {
      if (!seen.title) say(view, "no title");
      if (name !== "index.html" && !seen.colab) say(view, "no Colab button");
      if (!seen.search) say(view, "no search");
      if (!seen.toggle) say(view, "no switch between light and dark");
      if (!seen.steps) say(view, "neither previous nor next page");
      if (!seen.source) say(view, "no link to its source");
      ids[name] = new Set(seen.ids);
      seen.links.forEach(link => targets.push([name, link.slice(base.length)]));
    }
    if (shots) {
      mkdirSync(shots, { recursive: true });
      await page.screenshot({ path: join(shots, `${name.replaceAll("/", "-")}-${width}-${colorScheme}.png`) });
    }
    await page.close();
  }
  await context.close();
}
for (const [name, target] of targets) {
  const [path, anchor] = target.split("#"), file = decodeURIComponent(path.split("?")[0]) || "index.html";
  if (!existsSync(join(root, file))) say(name, `a link to ${target}, which is not there`);
  else if (anchor && ids[file] && !ids[file].has(decodeURIComponent(anchor))) say(name, `a link to ${target}: no such anchor`);
}
await browser.close();
server.close();
console.log([...new Set(problems)].join("\n"));
console.log(`${pages.length} pages, ${problems.length} problems`);
process.exit(problems.length || !pages.length ? 1 : 0);
