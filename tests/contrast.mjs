// The contrast of every kind of text on the page that is open, by WCAG 2: 4.5, and 3 for large text and for icons.
// `contrast` runs inside the page and gives [[kind, what], ...]: of each page and theme the few worst.
export function contrast({ width, scheme }) {
  const found = [];
  const say = (kind, what) => found.push([kind, what]);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const main = document.querySelector("main") ?? document.body;
  const wide = width === 1280;
  const box = element => element.getBoundingClientRect();
  const shown = element =>
    element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) &&
    box(element).width > 1 &&
    box(element).height > 1;

  const pen = Object.assign(document.createElement("canvas"), {
    width: 1,
    height: 1,
  }).getContext("2d", { willReadFrequently: true });
  const known = new Map(),
    grounds = new Map(),
    fades = new Map();
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
  const over = ([r, g, b, a], [R, G, B]) => [
    r * a + R * (1 - a),
    g * a + G * (1 - a),
    b * a + B * (1 - a),
    1,
  ];
  const light = ([r, g, b]) =>
    [r, g, b]
      .map(v => v / 255)
      .map(v => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (one, two) => {
    const [a, b] = [light(one), light(two)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const hex = color =>
    "#" +
    color
      .slice(0, 3)
      .map(v => Math.round(v).toString(16).padStart(2, "0"))
      .join("");
  const fade = element => {
    // how much of an element is left after its own and its parents' opacity
    if (!element) return 1;
    if (!fades.has(element))
      fades.set(
        element,
        Number(getComputedStyle(element).opacity) * fade(element.parentElement),
      );
    return fades.get(element);
  };
  const canvas = document.documentElement.appendChild(document.createElement("i"));
  canvas.style.cssText = "position:fixed;background:Canvas";
  const paper = rgba(getComputedStyle(canvas).backgroundColor);
  canvas.remove();
  const ground = element => {
    // the colours an element may stand on: several where a gradient lies behind it
    if (!element) return [paper];
    if (!grounds.has(element)) {
      const style = getComputedStyle(element),
        left = fade(element);
      const layer = (under, color) =>
        over([...color.slice(0, 3), color[3] * left], under);
      let colors = ground(element.parentElement).map(under =>
        layer(under, rgba(style.backgroundColor)),
      );
      const inset = style.boxShadow.match(
        /^((?:rgba?|color)\([^)]*\)) 0px 0px 0px \d{4,}px inset/,
      ); // how Bootstrap stripes its tables
      if (inset) colors = colors.map(under => layer(under, rgba(inset[1])));
      const stops = style.backgroundImage.includes("gradient")
        ? (style.backgroundImage.match(/(rgba?|color)\([^)]*\)/g) ?? [])
        : [];
      if (stops.length)
        colors = stops.flatMap(stop => colors.map(under => layer(under, rgba(stop))));
      grounds.set(element, colors);
    }
    return grounds.get(element);
  };
  const shapes = new Map(); // of each drawing in the page: what is painted, in order
  const beneath = text => {
    // what a text of a drawing stands on; null where it cannot be told
    const svg = text.closest("svg");
    if (!shapes.has(svg))
      shapes.set(
        svg,
        all("rect, circle, ellipse, path, polygon, image, line, polyline", svg).filter(
          e =>
            !e.closest("defs, clipPath, mask, marker") &&
            !["none", "rgba(0, 0, 0, 0)"].includes(getComputedStyle(e).fill),
        ),
      );
    const { left, right, top, bottom } = box(text),
      x = (left + right) / 2,
      y = (top + bottom) / 2;
    const under = shapes
      .get(svg)
      .filter(
        e =>
          e.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING &&
          box(e).left <= x &&
          x <= box(e).right &&
          box(e).top <= y &&
          y <= box(e).bottom,
      )
      .pop();
    if (!under) return ground(svg);
    const fill = getComputedStyle(under).fill;
    return under.tagName === "rect" && !fill.startsWith("url")
      ? ground(svg).map(color => over(rgba(fill), color))
      : null;
  };
  const places = [
    ".nav-page",
    ".sidebar-navigation, nav.sidebar",
    "#TOC, [role=doc-toc]",
    ".navbar, body > header",
    "footer",
    "figcaption",
    "summary",
    "thead, th",
    ".cell-output-stderr",
    ".cell-output",
    "details",
    ".callout",
    "div.sourceCode",
    "table",
    "h1, h2, h3, h4, h5, h6",
    "main",
  ];
  const chain = element => {
    // elements inside code and formulas that look alike: the first few stand for all
    let key = "";
    for (
      let e = element;
      e && !/^(P|SECTION|MAIN|LI)$/.test(e.tagName);
      e = e.parentElement
    )
      key += `${e.tagName}.${e.getAttribute("class") ?? ""}[${e.getAttribute("style")?.match(/color:[^;]*/) ?? ""}]`;
    return key;
  };
  const groups = new Map();
  const judge = (element, color, stands, label, least) => {
    const style = getComputedStyle(element),
      size = parseFloat(style.fontSize),
      ink = rgba(color);
    if (!stands || ink[3] < 0.02) return;
    least ??=
      size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    for (const under of stands) {
      const seen = over([...ink.slice(0, 3), ink[3] * fade(element)], under),
        contrast = ratio(seen, under);
      if (contrast >= least - 0.005) continue;
      const where = places.find(place => element.closest(place)) ?? "";
      const key = `${where.split(",")[0]} ${element.tagName.toLowerCase()}${[
        ...element.classList,
      ]
        .slice(0, 2)
        .map(c => "." + c)
        .join("")}${label} ${hex(seen)} on ${hex(under)}`;
      const group = groups.get(key) ?? {
        contrast,
        count: 0,
        text: element.textContent.trim().replace(/\s+/g, " ").slice(0, 30),
      };
      groups.set(key, {
        ...group,
        count: group.count + 1,
        contrast: Math.min(contrast, group.contrast),
      });
    }
  };
  const seen = new Set(),
    alike = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (
      !node.data.trim() ||
      node.parentElement.closest(
        'script, style, noscript, template, svg title, svg desc, [disabled], .katex-mathml, .katex-error, .katex [style*="#cc0000"], .katex [style*="rgb(204, 0, 0)"]',
      )
    )
      continue;
    const element = node.parentElement;
    if (seen.has(element) || (!wide && main.contains(element))) continue;
    seen.add(element);
    if (element.closest("pre, .katex")) {
      const key = chain(element),
        count = alike.get(key) ?? 0;
      if (count >= 3) continue;
      if (shown(element)) alike.set(key, count + 1);
    }
    if (!shown(element)) continue;
    const drawn = element.closest("svg"),
      style = getComputedStyle(element);
    judge(
      element,
      drawn ? style.fill : style.color,
      drawn ? beneath(element) : ground(element),
      "",
    );
  }
  for (const input of all("input[placeholder]").filter(
    e => e.placeholder.trim() && shown(e),
  ))
    judge(
      input,
      getComputedStyle(input, "::placeholder").color,
      ground(input),
      "::placeholder",
    );
  for (const element of all("i, summary, a, button, li, p, .callout-icon").filter(
    e => (wide || !main.contains(e)) && !e.closest("pre, .katex"),
  ))
    for (const part of ["::before", "::after"]) {
      const style = getComputedStyle(element, part),
        content = style.content.replace(/^"|"$/g, "").trim();
      if (
        !/^(none|normal|)$/.test(content) &&
        !content.startsWith("url") &&
        shown(element) &&
        style.opacity > 0.05
      )
        judge(
          element,
          style.color,
          ground(element),
          part,
          /^[\ue000-\uf8ff]/.test(content) ? 3 : undefined,
        );
    }
  const worst = [...groups].sort((a, b) => a[1].contrast - b[1].contrast);
  for (const [key, { contrast, count, text }] of worst.slice(0, 4))
    say("contrast", `${contrast.toFixed(2)} for ${key} (${count} x, "${text}")`);
  if (worst.length > 4) say("contrast", `and ${worst.length - 4} more kinds of text`);
  const back = light(ground(document.body)[0]);
  if (wide && back > 0.4 !== (scheme === "light"))
    say("theme", `the page is ${back > 0.4 ? "light" : "dark"}`);
  return found;
}
