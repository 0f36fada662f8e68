// Opens a report in headless Chromium and uses it as a reader would: on a desk, on a phone, in the
// dark, with a keyboard and with a screen reader's rules (axe). Prints what is wrong and exits with 1.
//
//     node browser.mjs REPORT.html [FOLDER FOR SCREENSHOTS]
//
// Wants playwright-core and axe-core where node looks for modules, and a Chromium (CHROMIUM names it).
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";

// NODE_PATH counts for `require` only.
const require = createRequire(import.meta.url);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const [page_path, shots] = process.argv.slice(2);
const wrong = [];
const expect = (truth, text) => { if (!truth) wrong.push(text); };

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
});

for (const [name, width, height, colorScheme] of [
  ["desk", 1280, 900, "light"],
  ["dark", 1280, 900, "dark"],
  ["phone", 375, 740, "light"],
]) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme });
  const page = await context.newPage();
  page.on("console", (m) => { if (m.type() === "error") wrong.push(`${name}: console: ${m.text()}`); });
  page.on("pageerror", (e) => wrong.push(`${name}: script: ${e.message}`));
  page.on("request", (r) => {
    if (!/^(file|data|about):/.test(r.url())) wrong.push(`${name}: it asks the network for ${r.url()}`);
  });
  await page.goto(pathToFileURL(page_path).href);
  if (shots) await page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });

  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  expect(overflow <= 0, `${name}: the page is ${overflow} pixels wider than the window`);
  const broken = await page.evaluate(() => [...document.images].filter((i) => !i.naturalWidth).map((i) => i.alt));
  expect(broken.length === 0, `${name}: pictures that do not show: ${broken}`);
  const light = await page.evaluate(() =>
    getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0));
  expect((light > 382) === (colorScheme === "light"), `${name}: the background has brightness ${light} of 765`);

  // A number leads to where it comes from, by mouse and by keyboard.
  const cell = page.locator('figure.table button[popovertarget$="-reproduced"]').first();
  const target = page.locator(`[id="${await cell.getAttribute("popovertarget")}"]`);
  expect(!(await target.isVisible()), `${name}: an origin shows before anybody asked`);
  await cell.click();
  expect(await target.isVisible(), `${name}: a click on a number shows nothing`);
  if (shots) await page.screenshot({ path: `${shots}/${name}-origin.png` });
  await page.keyboard.press("Escape");
  expect(!(await target.isVisible()), `${name}: Escape does not close the origin`);
  await cell.focus();
  await page.keyboard.press("Enter");
  expect(await target.isVisible(), `${name}: Enter on a number shows nothing`);
  const link = target.locator("a[href^='#stage-']").first();
  const stage = (await link.getAttribute("href")).slice(1);
  await link.click();
  const opened = page.waitForFunction((id) => document.getElementById(id)?.closest("details").open, stage, { timeout: 3000 });
  await opened.catch(() => wrong.push(`${name}: ${stage} is not opened by its link`));

  await page.evaluate(axe);
  const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  for (const v of found.violations) {
    wrong.push(`${name}: ${v.id} (${v.impact}): ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.target).join(" ; ")}`);
  }
  await context.close();
}
await browser.close();
for (const text of wrong) console.log(text);
process.exit(wrong.length ? 1 : 0);
