// The page that paints, in a browser. What is to be done is named by the second argument:
//
//   node play.mjs CHROMIUM ADDRESS WHAT [JSON]
//
// `ADDRESS`: of the page, served by the test. `paint`: pictures of {model, settings:
// [{prompt, negative, seed, steps, scale}, ...]}, made by the page's modules; the others:
// what a visitor sees, with clicks and wrong input. What was found is printed as one line
// of JSON.
import { chromium } from "playwright-core";
import { readFileSync } from "node:fs";

const [executablePath, address, what, given] = process.argv.slice(2);
const wanted = given ? JSON.parse(readFileSync(given, "utf-8")) : null;
const quiet = ["background-networking", "component-update", "gpu", "quic", "sync"];
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--no-first-run", ...quiet.map(part => `--disable-${part}`)],
});
const origin = new URL(address).origin;
const WAIT = { timeout: 300_000 };

// A fresh visitor: a page, and what it asked for and said.
async function visitor({ prepare, query = "" } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  const page = await context.newPage();
  const heard = { said: [], asked: [], elsewhere: [] };
  page.on("console", message => heard.said.push(message.text()));
  page.on("pageerror", error => heard.said.push(String(error)));
  page.on("request", request => {
    const url = request.url();
    heard.asked.push(url);
    if (!/^(data|blob):/.test(url) && !url.startsWith(`${origin}/`)) heard.elsewhere.push(url);
  });
  if (prepare) await prepare(page, context);
  await page.goto(address + query);
  await state(page, "idle", "error");
  return { context, page, heard };
}

const state = (page, ...names) =>
  page.waitForSelector(names.map(name => `#play[data-state=${name}]`).join(", "), WAIT);
const status = page => page.textContent("#play [role=status]");
const paint = page => page.click("#play [type=submit]");
const set = (page, name, value) =>
  page.evaluate(
    ([name, value]) => {
      document.querySelector(`#play [name=${name}]`).value = value;
    },
    [name, value],
  );
// The finished picture, as the reader has it on the stage: pixels as numbers.
const pixels = page =>
  page.evaluate(() => {
    const canvas = document.querySelector(".play-pair:not(.play-still) canvas");
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    return [...data].filter((_, i) => i % 4 < 3);
  });

const tasks = {
  // Pictures by the page's own modules, as bytes, channels last.
  async paint() {
    const { page, heard } = await visitor();
    const pictures = await page.evaluate(async ({ model, settings }) => {
      const { Painter, listModels } = await import(new URL("painter.js", location.href));
      const { pixelsOf } = await import(new URL("draw.js", location.href));
      const { runtime } = await listModels();
      const painter = await Painter.open({ name: model, runtime });
      await painter.load();
      const found = [];
      for (const setting of settings) {
        let last;
        for await (const step of painter.paint(setting)) last = step;
        const [picture] = await painter.decode(last.next, last.next);
        found.push([...pixelsOf(picture).data].filter((_, i) => i % 4 < 3));
      }
      return found;
    }, wanted);
    return { pictures, ...heard };
  },

  // A first visit, a click, a scrub, two sides, a second visit.
  async visit() {
    const { context, page, heard } = await visitor();
    const found = { before: [...heard.asked], greeting: await status(page) };
    await paint(page);
    await state(page, "done");
    const { first, ms } = await page.evaluate(() => ({ ...document.getElementById("play").dataset }));
    Object.assign(found, { first: Number(first), ms: Number(ms), done: await status(page) });
    found.picture = await pixels(page);
    found.address = page.url();
    await page.focus(".play-scrubber input");
    await page.keyboard.press("Home");
    found.start = await page.textContent(".play-where");
    await page.keyboard.press("ArrowRight");
    found.second = await page.textContent(".play-where");
    found.noise = await page.getAttribute(".play-pair canvas", "aria-label");
    await page.keyboard.press("End");
    found.end = await page.textContent(".play-where");
    const { width } = await page.locator(".levels").boundingBox();
    await page.click(".levels", { position: { x: 0.5 * width, y: 30 } });
    found.bar = await page.textContent(".play-where");
    found.round = await page.textContent(".play-round");
    await page.click("text=Side by side");
    await page.waitForFunction(() => document.querySelectorAll(".play-pair").length === 2, null, WAIT);
    await state(page, "done");
    found.sides = await page.$$eval(".play-side", all => all.map(one => one.textContent));
    const again = await context.newPage();
    const loads = [];
    again.on("request", request => loads.push(request.url()));
    await again.goto(address);
    await state(again, "idle");
    found.welcome = await status(again);
    await paint(again);
    await state(again, "done");
    found.again = loads.filter(url => /\.(onnx|wasm)/.test(url));
    return { ...found, ...heard };
  },

  // The second model: chosen, painted with, opened again from its address; and chosen in
  // haste, and when it does not come.
  async stickers() {
    const { context, page, heard } = await visitor();
    const prompt = page => page.inputValue("#play [name=prompt]");
    const choose = (page, name) => page.selectOption("#play [name=model]", name);
    const thing = text => page.waitForFunction(
      text => document.querySelector(".play-known").textContent.includes(text), text, WAIT);
    const found = { prompts: [await prompt(page)] };
    found.options = await page.$$eval("#play [name=model] option", all => all.map(one => one.textContent));
    const numbers = () => page.$$eval(".play-cards > :last-child figcaption", all => all.map(one => one.textContent));
    await paint(page);
    await state(page, "done");
    found.numbers = [await numbers()];
    await choose(page, "stickers");
    await thing("octopus");
    found.numbers.push(await numbers());
    found.known = await page.textContent(".play-known");
    found.prompts.push(await prompt(page));
    await paint(page);
    await state(page, "done");
    const { first, ms } = await page.evaluate(() => ({ ...document.getElementById("play").dataset }));
    Object.assign(found, { first: Number(first), ms: Number(ms), done: await status(page) });
    found.picture = await pixels(page);
    found.numbers.push(await numbers());
    await set(page, "prompt", "a fox  above a pizza");
    await set(page, "negative", "a tree");
    await paint(page);
    await page.waitForFunction(() => document.querySelector(".play-tokens").textContent.includes("slice"), null, WAIT);
    await state(page, "done");
    found.completed = await status(page);
    found.tokens = await page.$$eval(".play-tokens", all => all.map(one => one.textContent));
    await set(page, "negative", "");
    await set(page, "prompt", "my own zebra");
    await paint(page);
    await state(page, "done");
    found.unknown = await status(page);
    found.address = page.url();
    await set(page, "seed", ""); // a field in need of mending is no reason not to change
    await choose(page, "shapes");
    await thing("triangle");
    await state(page, "idle");
    found.prompts.push(await prompt(page));
    const again = await context.newPage();
    await again.goto(found.address);
    await state(again, "idle");
    found.again = [await again.inputValue("#play [name=model]"), await prompt(again)];
    const slow = page => page.route("**/stickers/model.json", async route => {
      await new Promise(resolve => setTimeout(resolve, 500));
      await route.continue();
    });
    const other = await visitor({ prepare: slow });
    await choose(other.page, "stickers");
    await choose(other.page, "shapes");
    await other.page.waitForTimeout(1500);
    const things = await other.page.textContent(".play-known");
    found.hasty = [await other.page.inputValue("#play [name=model]"), things.includes("triangle") ? "shapes" : "stickers"];
    const eager = await visitor({ prepare: slow });
    await choose(eager.page, "stickers"); // and Paint before it is there
    await paint(eager.page);
    await state(eager.page, "done");
    found.waits = [await eager.page.textContent(".play-cards > :last-child figcaption"), eager.page.url()];
    const gone = await visitor({ prepare: page => page.route("**/stickers/model.json", route => route.abort()) });
    await choose(gone.page, "stickers");
    await state(gone.page, "error");
    found.gone = await status(gone.page);
    return { ...found, ...heard };
  },

  // One painting, where Python runs the networks.
  async served() {
    const { page, heard } = await visitor();
    await paint(page);
    await state(page, "done");
    const picture = await pixels(page);
    await page.selectOption("#play [name=model]", "stickers");
    await page.waitForFunction(() => document.querySelector(".play-known").textContent.includes("octopus"), null, WAIT);
    await state(page, "idle");
    await paint(page);
    await state(page, "done");
    return { picture, second: await pixels(page), ...heard };
  },

  // The live figure of a chapter: a click, and the slider at another place.
  async live() {
    const context = await browser.newContext();
    const page = await context.newPage();
    const said = [];
    page.on("console", message => said.push(message.text()));
    page.on("pageerror", error => said.push(String(error)));
    await page.goto(address + "live.html");
    const read = () =>
      page.$$eval(".play-live canvas", all =>
        all.map(canvas => {
          const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
          copy.drawImage(canvas, 0, 0);
          const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
          return [...data].filter((_, i) => i % 4 < 3);
        }));
    const told = text =>
      page.waitForFunction(
        text => document.querySelector(".play-live [role=status]").textContent.startsWith(text),
        text, WAIT);
    await told("The first picture");
    await page.click("text=Paint here");
    await told("15 steps");
    const first = await read();
    await page.focus(".play-live input");
    await page.keyboard.press("Home");
    await told("1 step,");
    return { first, second: await read(), said };
  },

  // Wrong input, one after another, on one page that goes on working.
  async wrong() {
    const { page, heard } = await visitor();
    const found = {};
    const tried = async (name, value) => {
      const before = await page.inputValue(`#play [name=${name}]`);
      await set(page, name, value);
      await paint(page);
      const said = await status(page);
      await set(page, name, before);
      return said;
    };
    await set(page, "steps", "2");
    for (const value of ["0", "1e9", "", "2.5"]) found[`steps ${value}`] = await tried("steps", value);
    for (const value of ["", "99"]) found[`scale ${value}`] = await tried("scale", value);
    for (const value of ["-1", "4294967296", ""]) found[`seed ${value}`] = await tried("seed", value);
    for (const [name, prompt] of [["empty", ""], ["long", "big red wonderful circle ".repeat(400)], ["one word", "a".repeat(10000)],
      ["emoji", "a \u{1f98a} fox \u{1f98a}"], ["half", "a \ud83d circle"], ["special", "<|endoftext|> a star"]]) {
      await set(page, "prompt", prompt);
      await paint(page);
      await state(page, "done");
      found[name] = await status(page);
      await page.evaluate(() => { document.getElementById("play").dataset.state = "asked"; });
    }
    await set(page, "prompt", "a blue star");
    await set(page, "steps", "40");
    await page.dblclick("#play [type=submit]");
    await state(page, "painting", "done", "idle");
    found.double = await status(page); // and not what the second click has stopped
    await paint(page);
    await state(page, "done");
    found.clicks = await status(page);
    found.picture = await pixels(page);
    await set(page, "steps", "100");
    await paint(page);
    await state(page, "painting");
    await page.click("text=Stop");
    found.stopped = await status(page);
    await page.waitForTimeout(500);
    found.still = await status(page);
    await paint(page);
    await state(page, "painting");
    await set(page, "seed", "-1");
    await paint(page);
    found.halted = await status(page);
    await set(page, "seed", "0");
    // Who has gone on to another field is left there.
    await page.fill("#play [name=steps]", "200");
    await page.focus("#play [name=prompt]");
    found.corrected = [await page.evaluate(() => document.activeElement.name), await status(page)];
    // What it is not to be is the first of the two answers.
    await set(page, "steps", "2");
    await set(page, "negative", "a blue circle");
    const answers = ".play-two > :nth-child(2)";
    for (const scale of ["0", "1", "3"]) {
      await set(page, "scale", scale);
      await paint(page);
      await state(page, "done");
      await page.waitForFunction(([card, scale]) => document.querySelector(`${card} .play-note`).textContent.includes(`Guidance ${scale}:`), [answers, scale], WAIT);
      found[`guidance ${scale}`] = await page.textContent(`${answers} .play-note`);
    }
    found.answers = await page.$$eval(`${answers} figcaption`, all => all.map(one => one.textContent));
    // An address that somebody sent.
    await page.goto(`${address}?prompt=a+big+green+star&seed=7&steps=3&scale=2`);
    await state(page, "idle");
    found.sent = [await page.textContent(".play-still"), await page.textContent(".play-tokens")];
    return { ...found, ...heard };
  },

  // A download that breaks off, and then does not; a browser without WebAssembly.
  async broken() {
    const found = {};
    let cut = true;
    const prepare = page =>
      page.route("**/unet.onnx*", async route => {
        if (!cut) return route.continue();
        const response = await route.fetch();
        const body = (await response.body()).subarray(0, 1000);
        await route.fulfill({ status: 200, body });
      });
    const { page } = await visitor({ prepare });
    await paint(page);
    await state(page, "error");
    found.cut = await status(page);
    cut = false;
    await paint(page);
    await state(page, "done");
    found.mended = await status(page);
    await page.evaluate(async () => {
      const store = await caches.open("minidiff-play");
      const [{ url }] = (await store.keys()).filter(({ url }) => url.includes("decoder"));
      const { byteLength } = await (await store.match(url)).arrayBuffer();
      await store.put(url, new Response(new Uint8Array(byteLength)));
    });
    await page.reload();
    await state(page, "idle");
    await paint(page);
    await state(page, "error");
    found.spoilt = await status(page);
    await paint(page);
    await state(page, "done");
    found.replaced = await status(page);
    const gone = await visitor({ prepare: page => page.route("**/*.onnx*", route => route.abort()) });
    await paint(gone.page);
    await state(gone.page, "error");
    found.gone = await status(gone.page);
    const old = await visitor({
      prepare: page => page.addInitScript(() => { delete globalThis.WebAssembly; }) });
    found.old = await status(old.page);
    found.still = await old.page.getAttribute(".play-still img", "src");
    return found;
  },
};

const found = await tasks[what]();
await browser.close();
console.log(JSON.stringify(found));
