// Opens a notebook in JupyterLab or in the classic notebook, runs its cells, and paints by a click in the playground's box:
//     node lab.mjs ADDRESS lab|notebook CHROMIUM [SCREENSHOT]
// ADDRESS is that of the notebook, with a token. Prints what it saw, as JSON.
import {chromium} from "playwright-core";

const [address, kind, executablePath, screenshot] = process.argv.slice(2);
const lab = kind == "lab";
const browser = await chromium.launch({executablePath, args: ["--no-sandbox"]});
const page = await browser.newPage({viewport: {width: 1000, height: 1000}});
page.setDefaultTimeout(+process.env.PATIENCE || 300000);
const seen = {errors: []};
page.on("pageerror", error => seen.errors.push(error.message));
const output = page.locator(lab ? ".jp-OutputArea-output" : ".output_area, .widget-area");
const picture = output.locator("img");
const button = page.getByRole("button", {name: "Paint", exact: true});
const look = async () => ({alt: await picture.getAttribute("alt"), src: await picture.getAttribute("src"),
  width: await picture.evaluate(async img => { await img.decode(); return img.naturalWidth; })});
const click = async () => {
  const before = await picture.count() ? await picture.getAttribute("src") : "";
  await button.click();
  await page.waitForFunction(old => [...document.querySelectorAll("img[alt]")].some(
    img => img.src.startsWith("data:image/png") && img.src != old), before);
  return look();
};

await page.goto(address, {waitUntil: "domcontentloaded"});
if (lab) {
  await page.locator(".jp-Notebook .jp-Cell").first().waitFor();
  await page.locator("#jp-main-statusbar").getByText(/\| Idle/).waitFor();  // or it asks which kernel
  await page.getByRole("menuitem", {name: "Run", exact: true}).click();
  await page.getByText("Run All Cells", {exact: true}).locator("visible=true").first().click();
} else {
  await page.waitForFunction(() => window.Jupyter?.notebook?.kernel?.is_connected());
  await page.evaluate(() => Jupyter.notebook.execute_all_cells());
}
try { await button.waitFor(); } catch (error) {
  if (screenshot) await page.screenshot({path: screenshot});
  console.error((await page.locator("body").innerText()).slice(-3000));
  throw error;
}
seen.before = await picture.count();
seen.first = await click();
const box = output.filter({has: button});
seen.said = (await box.last().innerText()).replace(/\s+/g, " ");
const seed = output.locator("input[type=number]").first();
await (await seed.count() ? seed : output.locator("input[type=text]").last()).fill("7");
await page.keyboard.press("Tab");
seen.seed = await click();
await output.locator("select").first().selectOption("shapes");
await page.waitForFunction(() => [...document.querySelectorAll("input")].some(input => input.value.includes("circle")));
seen.shapes = await click();
seen.tracebacks = await output.locator("[data-mime-type='application/vnd.jupyter.error'], .output_error, .jp-RenderedText[data-mime-type*=error]").allInnerTexts();
if (screenshot) await page.screenshot({path: screenshot});
if (lab) {
  await page.locator(".jp-Notebook").first().click({position: {x: 3, y: 3}});
  await page.keyboard.press("Control+s");
  await page.waitForFunction(() => !document.querySelector(".jp-mod-current.jp-mod-dirty"));
} else await page.evaluate(() => Jupyter.notebook.save_notebook());
await page.waitForTimeout(3000);
await browser.close();
for (const name of ["first", "seed", "shapes"]) seen[name].src = seen[name].src.slice(0, 22) + seen[name].src.slice(-400);
console.log(JSON.stringify(seen));
