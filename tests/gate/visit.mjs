// One tab of the browser that goes from page to page, and what it hears on its way.
import { existsSync } from "node:fs";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { contrast } from "./contrast.mjs";
import { types } from "./folder.mjs";
import { layout } from "./layout.mjs";
import { inside } from "./tools.mjs";
import { words } from "./words.mjs";

export const WIDTHS = [1280, 1024, 768, 320, 390];
const katex = fileURLToPath(new URL("../node_modules/katex/dist/", import.meta.url));
// What matters of require.js here: scripts that come after it hand themselves to
// `define` and set no global name.
const requirejs = `window.define = function () {}; define.amd = {};
window.require = window.requirejs = function () {}; require.config = function () {};`;

export async function newTab(context, origin) {
  const page = await context.newPage();
  const tab = { page, asked: new Set(), messages: [] };
  page.setDefaultTimeout(120_000);
  page.on("pageerror", error => tab.messages.push(error.message));
  page.on("console", message => {
    const text = message.text(); // what failed to load is told by its answer
    if (!/warning|error/.test(message.type()) || /^Failed to load/.test(text)) return;
    tab.messages.push(`${message.type()}: ${text}`);
  });
  page.on("response", answer => {
    const { href, pathname } = new URL(answer.url());
    if (!href.startsWith(origin) || answer.status() < 400) return;
    tab.messages.push(`${answer.status()} for ${pathname}`);
  });
  await page.route("**/*", route => {
    const url = new URL(route.request().url());
    if (/^(data|blob):$/.test(url.protocol)) return route.continue();
    tab.asked.add(url.href);
    if (url.origin === origin) return route.continue();
    const headers = { "access-control-allow-origin": "*" };
    const file = url.pathname.match(/\/katex@[^/]*\/dist\/(.*)/)?.[1];
    const local = file && join(katex, file);
    if (local && existsSync(local)) {
      const contentType = types[extname(file)];
      return route.fulfill({ path: local, contentType, headers });
    }
    if (/require(\.min)?\.js$/.test(url.pathname)) {
      const contentType = types[".js"];
      return route.fulfill({ body: requirejs, contentType, headers });
    }
    return route.abort();
  });
  await page.addInitScript(() => {
    const watch = (_, observer) => {
      if (!document.querySelector(".katex")) return;
      window.firstFormula = Math.round(performance.now());
      observer.disconnect();
    };
    new MutationObserver(watch).observe(document, { childList: true, subtree: true });
  });
  return tab;
}

// Look at one page: [[kind, width, what], ...] by `tell`; what `words` saw is returned.
export async function visit(tab, address, { scheme, name, git, shot, tell }) {
  const { page } = tab;
  const resize = width => page.setViewportSize({ width, height: 900 });
  tab.asked = new Set();
  tab.messages = [];
  await resize(WIDTHS[0]);
  await page.goto(address, { waitUntil: "load" });
  await page.evaluate(() => {
    for (const image of document.querySelectorAll("img[loading=lazy]"))
      image.loading = "eager";
  });
  const settled = () =>
    [...document.images].every(i => i.complete) &&
    [...document.querySelectorAll(".math")].every(e =>
      e.querySelector("[class^=katex]"),
    );
  await page.waitForFunction(settled, undefined, { timeout: 1500 }).catch(() => {});
  let seen;
  for (const width of WIDTHS) {
    const view = { width, scheme, name, git };
    if (width !== WIDTHS[0]) await resize(width);
    if (width === 1024 || width === 768) if (scheme === "dark") continue;
    const main = width === 1280 || width === 390;
    if (shot && main) await page.screenshot({ path: shot(width) });
    await page.evaluate(() => {
      for (const fold of document.querySelectorAll("details:not([open])")) {
        fold.open = true;
        fold.dataset.unfolded = "";
      }
    });
    const found = await inside(page, layout, view);
    if (main) found.push(...(await inside(page, contrast, view)));
    if (width === WIDTHS[0]) {
      seen = await inside(page, words, view);
      found.push(...seen.found);
    }
    await page.evaluate(() => {
      for (const fold of document.querySelectorAll("details[data-unfolded]"))
        fold.open = false;
    });
    for (const [kind, what] of found) tell(kind, width, what);
  }
  const formula_ms = await page.evaluate(() => window.firstFormula ?? null);
  return { ...seen, formula_ms, asked: [...tab.asked], messages: tab.messages };
}
