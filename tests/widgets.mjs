// Clicks in the playground's box as a reader would: node widgets.mjs ADDRESS CHROMIUM [SCREENSHOT]. Prints what it saw, as JSON.
import {chromium} from "playwright-core";

const [address, executablePath, screenshot] = process.argv.slice(2);
const browser = await chromium.launch({executablePath, args: ["--no-sandbox"]});
const page = await browser.newPage({viewport: {width: 800, height: 700}});
const seen = {errors: []};
page.on("pageerror", error => seen.errors.push(error.message));
page.setDefaultTimeout(240000);
const picture = page.locator("#out img");
const look = async () => ({alt: await picture.getAttribute("alt"), src: await picture.getAttribute("src"),
  width: await picture.evaluate(async img => { await img.decode(); return img.naturalWidth; })});
const click = async () => {
  const before = await picture.count() ? await picture.getAttribute("src") : null;
  await page.getByRole("button", {name: "Paint"}).click();
  await page.waitForFunction(old => { const img = document.querySelector("#out img"); return img && img.src != old; }, before);
  return look();
};
await page.goto(address);
await page.getByRole("button", {name: "Paint"}).waitFor();
seen.before = await picture.count();
seen.first = await click();
seen.said = (await page.locator("#out").innerText()).replace(/\s+/g, " ");
await page.locator("#out input[type=number]").fill("7");
await page.locator("#out input[type=number]").press("Tab");
seen.seed = await click();
await page.locator("#out select").first().selectOption("shapes");
await page.waitForFunction(() => document.querySelector("#out input[type=text]").value.includes("circle"));
seen.shapes = await click();
seen.log = await page.locator("#log").innerText();
if (screenshot) await page.screenshot({path: screenshot});
await browser.close();
for (const name of ["first", "seed", "shapes"]) seen[name].src = seen[name].src.slice(0, 22) + seen[name].src.slice(-400);
console.log(JSON.stringify(seen));
