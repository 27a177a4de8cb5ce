// What a reader would stumble over on the page that is open: `look` runs inside the page, once for each width.
// It gives {found: [[kind, what], ...], formulas, ids, links, og, pinned}.
export async function look({ width, scheme, name, git }) {
  const found = [];
  const say = (kind, what) => found.push([kind, what]);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const main = document.querySelector("main") ?? document.body;
  const first = scheme === "light", wide = width === 1280, phone = width === 390;
  const box = element => element.getBoundingClientRect();
  const shown = element => element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && box(element).width > 1 && box(element).height > 1;
  const short = element => element.outerHTML.replace(/(data:.{20})[^"']*/g, "$1...").replace(/\s+/g, " ").slice(0, 110);
  const some = list => list.slice(0, 3).map(short).join(" | ") + (list.length > 3 ? ` and ${list.length - 3} more` : "");
  const texts = (from, skip) => {
    const walker = document.createTreeWalker(from, NodeFilter.SHOW_TEXT), nodes = [];
    while (walker.nextNode()) if (walker.currentNode.data.trim() && !walker.currentNode.parentElement.closest(skip)) nodes.push(walker.currentNode);
    return nodes;
  };
  all("main details").filter(e => !e.querySelector("nav")).forEach(e => { e.open = true; });

  // ---------------------------------------------------------------- formulas
  const formulas = all(".math").filter(e => !e.parentElement.closest(".math"));
  if (wide) {
    const bare = formulas.filter(e => !all(".katex", e).some(shown)), refused = all('.katex-error, .katex [mathcolor="#cc0000"]');
    if (bare.length) say("formula", `${bare.length} of ${formulas.length} formulas are not typeset: ${some(bare)}`);
    if (refused.length) say("formula", `${refused.length} formulas are refused: ${refused[0].title || refused[0].textContent}`);
    const twice = document.querySelector(".katex-mathml");
    if (twice && getComputedStyle(twice).position !== "absolute") say("formula", "KaTeX's style sheet is missing");
    const raw = texts(main, "code, pre, script, style, noscript, textarea, .math, .katex, .katex-error").filter(t => /\$\$|\\(begin|frac|sqrt|bar|text|mathbf|alpha|beta|sigma|epsilon|theta)\b/.test(t.data));
    if (raw.length) say("formula", `raw TeX in the text: ${raw[0].data.trim().slice(0, 60)}`);
  }

  // ---------------------------------------------------------------- colours
  const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const known = new Map(), grounds = new Map(), fades = new Map();
  const rgba = color => {
    if (!known.has(color)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = color;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      known.set(color, [r, g, b, a / 255]);
    }
    return known.get(color);
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (one, two) => { const [a, b] = [light(one), light(two)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
  const hex = color => "#" + color.slice(0, 3).map(v => Math.round(v).toString(16).padStart(2, "0")).join("");
  const fade = element => {  // how much of an element is left after its own and its parents' opacity
    if (!element) return 1;
    if (!fades.has(element)) fades.set(element, Number(getComputedStyle(element).opacity) * fade(element.parentElement));
    return fades.get(element);
  };
  const canvas = document.documentElement.appendChild(document.createElement("i"));
  canvas.style.cssText = "position:fixed;background:Canvas";
  const paper = rgba(getComputedStyle(canvas).backgroundColor);
  canvas.remove();
  const ground = element => {  // the colours an element may stand on: several where a gradient lies behind it
    if (!element) return [paper];
    if (!grounds.has(element)) {
      const style = getComputedStyle(element), left = fade(element);
      const layer = (under, color) => over([...color.slice(0, 3), color[3] * left], under);
      let colors = ground(element.parentElement).map(under => layer(under, rgba(style.backgroundColor)));
      const inset = style.boxShadow.match(/^((?:rgba?|color)\([^)]*\)) 0px 0px 0px \d{4,}px inset/);  // how Bootstrap stripes its tables
      if (inset) colors = colors.map(under => layer(under, rgba(inset[1])));
      const stops = style.backgroundImage.includes("gradient") ? style.backgroundImage.match(/(rgba?|color)\([^)]*\)/g) ?? [] : [];
      if (stops.length) colors = stops.flatMap(stop => colors.map(under => layer(under, rgba(stop))));
      grounds.set(element, colors);
    }
    return grounds.get(element);
  };
  const shapes = new Map();  // of each drawing in the page: what is painted, in order
  const beneath = text => {  // what a text of a drawing stands on; null where it cannot be told
    const svg = text.closest("svg");
    if (!shapes.has(svg)) shapes.set(svg, all("rect, circle, ellipse, path, polygon, image, line, polyline", svg).filter(e => !e.closest("defs, clipPath, mask, marker") && !["none", "rgba(0, 0, 0, 0)"].includes(getComputedStyle(e).fill)));
    const { left, right, top, bottom } = box(text), x = (left + right) / 2, y = (top + bottom) / 2;
    const under = shapes.get(svg).filter(e => e.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING && box(e).left <= x && x <= box(e).right && box(e).top <= y && y <= box(e).bottom).pop();
    if (!under) return ground(svg);
    const fill = getComputedStyle(under).fill;
    return under.tagName === "rect" && !fill.startsWith("url") ? ground(svg).map(color => over(rgba(fill), color)) : null;
  };
  const places = [".nav-page", ".sidebar-navigation, nav.sidebar", "#TOC, [role=doc-toc]", ".navbar, body > header", "footer", "figcaption", "summary", "thead, th", ".cell-output-stderr", ".cell-output", "details", ".callout", "div.sourceCode", "table", "h1, h2, h3, h4, h5, h6", "main"];
  const chain = element => {  // elements inside code and formulas that look alike: the first few stand for all
    let key = "";
    for (let e = element; e && !/^(P|SECTION|MAIN|LI)$/.test(e.tagName); e = e.parentElement) key += `${e.tagName}.${e.getAttribute("class") ?? ""}[${e.getAttribute("style")?.match(/color:[^;]*/) ?? ""}]`;
    return key;
  };
  const groups = new Map();
  const judge = (element, color, stands, label, least) => {
    const style = getComputedStyle(element), size = parseFloat(style.fontSize), ink = rgba(color);
    if (!stands || ink[3] < 0.02) return;
    least ??= size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    for (const under of stands) {
      const seen = over([...ink.slice(0, 3), ink[3] * fade(element)], under), contrast = ratio(seen, under);
      if (contrast >= least - 0.005) continue;
      const where = places.find(place => element.closest(place)) ?? "";
      const key = `${where.split(",")[0]} ${element.tagName.toLowerCase()}${[...element.classList].slice(0, 2).map(c => "." + c).join("")}${label} ${hex(seen)} on ${hex(under)}`;
      const group = groups.get(key) ?? { contrast, count: 0, text: element.textContent.trim().replace(/\s+/g, " ").slice(0, 30) };
      groups.set(key, { ...group, count: group.count + 1, contrast: Math.min(contrast, group.contrast) });
    }
  };
  if (wide || phone) {
    const seen = new Set(), alike = new Map();
    for (const node of texts(document.body, "script, style, noscript, template, svg title, svg desc, [disabled]")) {
      const element = node.parentElement;
      if (seen.has(element) || (phone && main.contains(element))) continue;
      seen.add(element);
      if (element.closest("pre, .katex")) {
        const key = chain(element), count = alike.get(key) ?? 0;
        if (count >= 3) continue;
        if (shown(element)) alike.set(key, count + 1);
      }
      if (!shown(element)) continue;
      const drawn = element.closest("svg"), style = getComputedStyle(element);
      judge(element, drawn ? style.fill : style.color, drawn ? beneath(element) : ground(element), "");
    }
    for (const input of all("input[placeholder]").filter(e => e.placeholder.trim() && shown(e))) judge(input, getComputedStyle(input, "::placeholder").color, ground(input), "::placeholder");
    for (const element of all("i, summary, a, button, li, p, .callout-icon").filter(e => (wide || !main.contains(e)) && !e.closest("pre, .katex")))
      for (const part of ["::before", "::after"]) {
        const style = getComputedStyle(element, part), content = style.content.replace(/^"|"$/g, "").trim();
        if (!/^(none|normal|)$/.test(content) && !content.startsWith("url") && shown(element) && style.opacity > 0.05) judge(element, style.color, ground(element), part, /^[\ue000-\uf8ff]/.test(content) ? 3 : undefined);
      }
    const worst = [...groups].sort((a, b) => a[1].contrast - b[1].contrast);
    for (const [key, { contrast, count, text }] of worst.slice(0, 4)) say("contrast", `${contrast.toFixed(2)} for ${key} (${count} x, "${text}")`);
    if (worst.length > 4) say("contrast", `and ${worst.length - 4} more kinds of text`);
    const back = light(ground(document.body)[0]);
    if (wide && back > 0.4 !== first) say("theme", `the page is ${back > 0.4 ? "light" : "dark"}`);
  }

  // ---------------------------------------------------------------- room
  const scrolls = element => {
    for (let p = element.parentElement; p && p !== document.body; p = p.parentElement) if (/auto|scroll|hidden|clip/.test(getComputedStyle(p).overflowX)) return true;
    return false;
  };
  const page = document.scrollingElement, across = page.scrollWidth - page.clientWidth, edge = box(main).right + 1;
  const out = all("main *").filter(e => !e.closest("pre pre, pre *, .katex *, svg *") && box(e).right > edge && box(e).height > 1 && !e.closest(".column-margin, .visually-hidden") && !scrolls(e));
  if (across > 0 || out.length) say("overflow", `${across > 0 ? `the page is ${across} px too wide` : "beyond main"}: ${some(out.filter(e => !out.includes(e.parentElement)))}`);
  const cut = element => element.scrollWidth > element.clientWidth + 1 && shown(element);
  const output = e => e.closest(".cell-output");
  if (wide) {
    for (const [kind, inside] of [["cut", false], ["cut-output", true]]) {
      const boxes = [...all("main div.sourceCode, main pre"), ...(inside ? all("main .cell-output-display, main .cell-output table") : all("main table, main .katex-display, main .signature"))];
      const over = boxes.filter(e => !!output(e) === inside && cut(e)), outer = over.filter(e => !over.some(o => o !== e && o.contains(e)));
      if (outer.length) say(kind, `${outer.length} boxes are cut off, by up to ${Math.max(...over.map(e => e.scrollWidth - e.clientWidth))} px: ${outer.slice(0, 2).map(e => e.textContent.trim().replace(/\s+/g, " ").slice(0, 60)).join(" | ")}`);
    }
  }
  if (first) {
    const broken = [], range = document.createRange();
    for (const node of texts(main, ".katex, script, style").filter(t => t.parentElement.closest("td, th")))
      for (const { 0: word, index } of node.data.matchAll(/[\p{L}\p{N}_]{2,}/gu)) {
        range.setStart(node, index);
        range.setEnd(node, index + word.length);
        if (new Set([...range.getClientRects()].filter(r => r.width > 0).map(r => Math.round(r.top / 4))).size > 1) broken.push(word);
      }
    if (broken.length) say("mangled", `${broken.length} words in tables are broken: ${broken.slice(0, 5).join(", ")}`);
    const small = all('main a[href*="colab.research.google.com"] :is(img, svg)').filter(e => shown(e) && e.naturalWidth !== 0 && box(e).width < 60);
    if (small.length) say("mangled", `${small.length} badges narrower than 60 px, the least ${Math.round(Math.min(...small.map(e => box(e).width)))}`);
  }
  if (phone && first) {
    const controls = all("header a, header button, .navbar a, .navbar button, .minifilm button, .minifilm input, main input[type=range]").filter(e => !e.closest("[aria-label=breadcrumb], main header") && shown(e) && (e.tagName === "INPUT" || e.innerHTML.trim()));
    const small = controls.filter(e => box(e).width < 23.5 || box(e).height < 23.5);
    if (small.length) say("touch", `${small.length} targets below 24 px: ${small.slice(0, 3).map(e => `${Math.round(box(e).width)} x ${Math.round(box(e).height)} ${short(e).slice(0, 60)}`).join(" | ")}`);
  }
  if (wide && first) {
    const media = "img, svg, canvas, video, .minifilm";
    const boxes = all("main figure, main .cell-output-display, main p").filter(e => [...all(media, e)].some(m => box(m).height > 40) && !e.querySelector("figure, .cell-output-display") && (e.tagName !== "P" || (!e.textContent.trim() && !e.closest("figure, .cell-output-display"))));
    const tight = boxes.filter(e => {
      const end = e.tagName === "FIGURE" ? box(e).bottom : Math.max(...all(media, e).map(m => box(m).bottom));
      let next = e;
      do { while (!next.nextElementSibling && next !== main) next = next.parentElement; next = next === main ? null : next.nextElementSibling; } while (next && !shown(next));
      return next && next.textContent.trim() && box(next).top > box(e).top && box(next).top - end < 8;
    });
    if (tight.length) say("gap", `${tight.length} pictures without room below: ${some(tight)}`);
  }

  // ---------------------------------------------------------------- pictures, and what the words say
  const blank = [...document.images].filter(i => i.complete && !i.naturalWidth && (i.currentSrc.startsWith("data:") || i.currentSrc.startsWith(location.origin) || !i.currentSrc));
  if (wide && first && blank.length) say("image", `${blank.length} pictures do not load: ${some(blank)}`);
  if (wide && first) {
    const labelled = e => e.getAttribute("aria-label")?.trim() || e.getAttribute("aria-labelledby") || [...e.children].some(c => c.tagName === "title" && c.textContent.trim());
    const mute = [...all("main img").filter(i => !i.alt.trim()), ...all("main svg, main canvas, main video").filter(e => !labelled(e) && !e.closest(".katex, [aria-hidden=true], [aria-label], [role=presentation]"))];
    if (mute.length) say("alt", `${mute.length} pictures without a description: ${some(mute)}`);
    const captions = all("main figure").filter(f => f.querySelector("figcaption") && all("img", f).some(i => i.alt.trim() && i.alt.trim() === f.querySelector("figcaption").textContent.trim()));
    if (captions.length) say("alt", `${captions.length} captions repeat the description: ${some(captions)}`);

    const words = texts(main, "div.sourceCode, pre.sourceCode, script, style, .katex");
    const paths = words.filter(t => /(^|[\s"'`(=:])\/(tmp|work|root|home)\//.test(t.data));
    if (paths.length) say("path", `${paths.length} paths of a machine: ${paths[0].data.match(/.{0,20}\/(tmp|work|root|home)\/.{0,40}/)[0].trim()}`);
    const warnings = words.filter(t => output(t.parentElement) && /\b[A-Z]\w*Warning: |site-packages|warnings\.warn\(/.test(t.data));
    if (warnings.length) say("path", `a library's warning in an output: ${warnings[0].data.trim().slice(0, 80)}`);

    const alone = all("main div.sourceCode").filter(e => !e.closest("details, .hidden, .cell-output") && shown(e)).map(e => e.querySelector("code")?.textContent.replace(/^\s*#.*$/gm, "").trim() ?? "").filter(code => /^illustration\([^]*\)$/.test(code) && !/\n[^\s)]/.test(code));
    if (alone.length) say("plumbing", `${alone.length} cells of nothing but ${alone[0].slice(0, 40)}`);

    const signatures = all("main .signature, main div.sourceCode").filter(e => !e.closest(".cell") && (e.matches(".signature") || /^\s*(@|def |async def |class |[A-Z]?[\w.]*\()/.test(e.textContent)) && (name.startsWith("api/") || e.closest("section[id]")?.querySelector(":scope > :is(h2, h3)")?.textContent.trim().split(".").pop() === e.textContent.match(/(?:def|class) (\w+)/)?.[1]));
    const markdown = signatures.filter(e => /\]\(|`|\*\*[^*\n]+\*\*/.test(e.textContent));
    if (markdown.length) say("signature", `${markdown.length} of ${signatures.length} signatures hold raw Markdown: ${markdown[0].textContent.match(/.{0,20}(\]\(|`|\*\*).{0,30}/)[0].trim()}`);
    if (name.startsWith("api/") && signatures.length === 0 && all("main h2[id], main section[id] > h2").length && name !== "api/index.html") say("signature", "an API page without a signature");

    const heads = all("main :is(h1, h2, h3)"), lines = [];
    for (const head of heads) if (head.tagName !== "H1") {
      const section = head.closest("section") ?? head, before = section.previousElementSibling?.querySelector?.(':scope > a[href*="#L"]');
      const next = heads[heads.indexOf(head) + 1];
      const link = before ?? all('main a[href*="#L"]').find(a => head.contains(a) || (/source/i.test(a.textContent + a.className) && head.compareDocumentPosition(a) & 4 && !(next && next.compareDocumentPosition(a) & 4)));
      const line = head.dataset.line ?? section.dataset.line ?? link?.hash.match(/^#L(\d+)/)?.[1], title = head.id || head.dataset.anchorId || section.id;
      if (line && !title.includes(".")) lines.push([title, Number(line), link?.pathname ?? ""]);
    }
    const turned = lines.filter(([, line, file], i) => i && file === lines[i - 1][2] && line < lines[i - 1][1]);
    if (turned.length) say("order", `${turned.length} of ${lines.length} definitions before those they follow: ${turned.slice(0, 3).map(([title, line]) => `${title} (line ${line})`).join(", ")}`);

    // -------------------------------------------------------------- what every page has
    const outside = selector => all(selector).filter(e => !main.contains(e) && !e.closest("#TOC, footer"));
    const api = name.startsWith("api/"), lost = name === "404.html", quarto = document.querySelector("meta[name=generator]")?.content.startsWith("quarto");
    if (!document.querySelector("main")) say("title", "no main");
    if (!all("h1").some(e => e.textContent.trim()) || !document.title.trim()) say("title", "no title");
    if (!api && !lost && name !== "index.html" && !document.querySelector('main a[href*="colab.research.google.com"]')) say("colab", "no Colab button");
    if (!lost && name !== "api/index.html" && !document.querySelector(".nav-page-previous a[href], .nav-page-next a[href]")) say("steps", "neither previous nor next page");
    if (!outside(quarto ? ".navbar a" : "a").some(a => a.href.startsWith(git))) say("github", "no link to GitHub in the navbar");
    if (quarto) {
      if (!all("#quarto-search").some(shown)) say("search", "no search box");
      if (!document.querySelector(".quarto-color-scheme-toggle")) say("switch", "no switch between light and dark");
      const chapters = all("#quarto-sidebar a[href]").filter(a => /\/\d\d_[^/]*$/.test(a.pathname)), plain = chapters.filter(a => !a.textContent.trim().startsWith(a.pathname.match(/\/(\d\d)_[^/]*$/)[1]));
      const numbered = all("#quarto-sidebar a").some(a => /^\s*\d\d\b/.test(a.textContent));
      if (!lost && (plain.length || !numbered)) say("numbers", `no chapter numbers in the sidebar: ${plain.slice(0, 3).map(a => a.textContent.trim()).join(" | ")}`);
    }
  }
  if (phone && first && document.querySelector("meta[name=generator]")?.content.startsWith("quarto") && all("main :is(h2, section[id] > h2)").length > 1) {
    const tables = all("#TOC, [role=doc-toc], nav.toc, details.toc").filter(e => e.querySelector('a[href*="#"]'));
    const open = () => tables.some(e => all('a[href*="#"]', e).some(shown));
    all("details").filter(e => e.querySelector("nav")).forEach(e => { e.open = false; });
    const doors = all("summary, button[aria-expanded], button[aria-controls], [data-bs-toggle=collapse]").filter(e => !e.closest(".cell, .callout") && e.tabIndex >= 0 && shown(e) && (e.tagName !== "SUMMARY" || e.parentElement.querySelector("nav")));
    for (const door of doors.slice(0, 4)) {
      if (open()) break;
      door.click();
      for (let tries = 0; tries < 8 && !open(); tries++) await new Promise(done => setTimeout(done, 60));
    }
    if (!open()) say("toc", "the table of contents cannot be reached");
  }

  const meta = key => document.querySelector(`meta[property="${key}"], meta[name="${key}"]`)?.content.trim();
  const links = all('a[href], area[href], link[rel=next], link[rel=prev]').map(a => (a.href.baseVal === undefined ? a.href : new URL(a.href.baseVal, location.href).href));
  return {
    found, formulas: formulas.length,
    ids: all("[id], a[name]").map(e => e.id || e.name), links: [...new Set([...links, ...all("svg a").map(a => new URL(a.getAttribute("href") ?? a.getAttribute("xlink:href") ?? "#", location.href).href)])],
    og: Object.fromEntries(["og:title", "og:description", "og:image", "twitter:image"].map(key => [key, meta(key)])),
    icon: document.querySelector('link[rel~="icon"][href]')?.href,
    pinned: all("script[src][integrity], link[href][integrity]").map(e => e.src || e.href),
  };
}
