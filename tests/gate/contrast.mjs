// The contrast of every kind of text with what it stands on, by WCAG 2: at least 4.5,
// and 3 for large text and icons. `contrast` runs inside the page; it tells the worst.
export function contrast(tools, { width, scheme }) {
  const { found, say, all, main, box, shown, clip } = tools;
  const wide = width === 1280; // below that only what is around `main` looks different
  const memo = (map, key, make) => {
    if (!map.has(key)) map.set(key, make());
    return map.get(key);
  };

  // Colours are [red, green, blue, opacity], whatever way they are written.
  const canvas = document.createElement("canvas");
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = color =>
    memo(known, color, () => {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = color;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      return [r, g, b, a / 255];
    });
  const over = (color, under, left = 1) => {
    const share = color[3] * left;
    return [0, 1, 2].map(i => color[i] * share + under[i] * (1 - share)).concat(1);
  };
  const linear = v => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) =>
    0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ratio = (one, two) => {
    const [low, high] = [light(one), light(two)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const digits = v => Math.round(v).toString(16).padStart(2, "0");
  const hex = color => "#" + color.slice(0, 3).map(digits).join("");

  // How much is left of an element after its own and its parents' opacity.
  const fades = new Map();
  const fade = element => {
    if (!element) return 1;
    const own = () => Number(getComputedStyle(element).opacity);
    return memo(fades, element, () => own() * fade(element.parentElement));
  };

  // The colours an element stands on: several where a gradient is among them.
  const probe = document.documentElement.appendChild(document.createElement("i"));
  probe.style.cssText = "position: fixed; background: Canvas";
  const paper = rgba(getComputedStyle(probe).backgroundColor);
  probe.remove();
  // (Bootstrap's tables are striped with a shadow.)
  const striped = /^((?:rgba?|color)\([^)]*\)) 0px 0px 0px \d{4,}px inset/;
  const grounds = new Map();
  const ground = element => {
    if (!element) return [paper];
    return memo(grounds, element, () => {
      const { backgroundColor, backgroundImage, boxShadow } = getComputedStyle(element);
      const left = fade(element);
      const stripe = boxShadow.match(striped)?.[1];
      const gradient = backgroundImage.includes("gradient");
      const stops = backgroundImage.match(/(?:rgba?|color)\([^)]*\)/g) ?? [];
      let colors = ground(element.parentElement);
      colors = colors.map(under => over(rgba(backgroundColor), under, left));
      if (stripe) colors = colors.map(under => over(rgba(stripe), under, left));
      if (!gradient || !stops.length) return colors;
      return stops.flatMap(stop => colors.map(under => over(rgba(stop), under, left)));
    });
  };

  // What a text of a drawing in the page stands on; null where it cannot be told.
  const painted = new Map();
  const clear = ["none", "rgba(0, 0, 0, 0)"];
  const shapes = svg =>
    memo(painted, svg, () =>
      all("rect, circle, ellipse, path, polygon, polyline, image", svg).filter(
        e =>
          !e.closest("defs, clipPath, mask, marker") &&
          !clear.includes(getComputedStyle(e).fill),
      ),
    );
  const beneath = text => {
    const svg = text.closest("svg");
    const { left, right, top, bottom } = box(text);
    const [x, y] = [(left + right) / 2, (top + bottom) / 2];
    const holds = ({ left, right, top, bottom }) =>
      left <= x && x <= right && top <= y && y <= bottom;
    const before = e =>
      e.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING;
    const under = shapes(svg).findLast(e => before(e) && holds(box(e)));
    if (!under) return ground(svg);
    const { fill } = getComputedStyle(under);
    if (under.tagName !== "rect" || fill.startsWith("url")) return null;
    return ground(svg).map(color => over(rgba(fill), color));
  };

  const places = [
    ".nav-page",
    "#quarto-sidebar",
    "#TOC",
    ".navbar",
    "header",
    "footer",
    "figcaption",
    "summary",
    "thead",
    "th",
    ".cell-output-stderr",
    ".cell-output",
    "details",
    ".callout",
    "div.sourceCode",
    "table",
    ":is(h1, h2, h3, h4)",
    "main",
  ];
  const groups = new Map(); // what looks alike: the least contrast, how many, a text
  const judge = (element, color, stands, part = "", icon = false) => {
    const { fontSize, fontWeight } = getComputedStyle(element);
    const size = parseFloat(fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(fontWeight) >= 700);
    const ink = rgba(color);
    if (!stands || ink[3] < 0.02) return;
    const where = places.find(place => element.closest(place)) ?? "";
    const classes = [...element.classList].slice(0, 2).map(c => `.${c}`);
    const what = element.tagName.toLowerCase() + classes.join("") + part;
    for (const under of stands) {
      const seen = over(ink, under, fade(element));
      const contrast = ratio(seen, under);
      if (contrast >= (large || icon ? 3 : 4.5) - 0.005) continue;
      const key = `${where} ${what} ${hex(seen)} on ${hex(under)}`;
      const fresh = { least: contrast, count: 0, text: clip(element.textContent, 30) };
      const group = memo(groups, key, () => fresh);
      group.count += 1;
      group.least = Math.min(group.least, contrast);
    }
  };

  // In code and formulas there are thousands of pieces: three of each look are enough.
  const looks = new Map();
  const outer = /^(P|SECTION|MAIN|LI|BODY)$/;
  const look = element => {
    if (!element || outer.test(element.tagName)) return "";
    const ink = element.getAttribute("style")?.match(/color:[^;]*/) ?? "";
    const classes = element.getAttribute("class") ?? "";
    return `${element.tagName}.${classes}[${ink}]${look(element.parentElement)}`;
  };
  const enough = element => {
    if (!element.closest("pre, .katex")) return false;
    const key = look(element);
    looks.set(key, (looks.get(key) ?? 0) + 1);
    return looks.get(key) > 3;
  };

  const silent = "script, style, noscript, template, svg :is(title, desc), [disabled]";
  const maths = '.katex-mathml, .katex-error, .katex [style*="#cc0000"]';
  const refused = '.katex [style*="rgb(204, 0, 0)"]'; // a formula's own fault
  const skip = `${silent}, ${maths}, ${refused}`;
  const outside = element =>
    wide || !main.contains(element) || element.closest("details.toc");
  const written = tools.texts(document.body, skip).map(node => node.parentElement);
  for (const element of new Set(written)) {
    if (!outside(element) || !shown(element) || enough(element)) continue;
    const { color, fill } = getComputedStyle(element);
    const drawn = element.closest("svg");
    judge(element, drawn ? fill : color, drawn ? beneath(element) : ground(element));
  }
  for (const input of all("input[placeholder]"))
    if (input.placeholder.trim() && shown(input) && outside(input)) {
      const { color } = getComputedStyle(input, "::placeholder");
      judge(input, color, ground(input), "::placeholder");
    }
  for (const element of all(
    "i, summary, a, button, li, p, span.menu-text, .callout-icon",
  ))
    for (const part of ["::before", "::after"]) {
      if (!outside(element) || element.closest("pre, .katex")) break;
      const { color, content, opacity } = getComputedStyle(element, part);
      const text = content.replace(/^"|"$/g, "").trim();
      if (/^(none|normal|url.*|)$/.test(text) || opacity < 0.05) continue;
      const icon = /^[\ue000-\uf8ff]/.test(text);
      if (shown(element)) judge(element, color, ground(element), part, icon);
    }

  const worst = [...groups].sort(([, a], [, b]) => a.least - b.least);
  for (const [key, { least, count, text }] of worst.slice(0, 4))
    say("contrast", `${least.toFixed(2)} for ${key} (${count} x, "${text}")`);
  if (worst.length > 4) say("contrast", `and ${worst.length - 4} more kinds of text`);
  const theme = light(ground(document.body)[0]) > 0.4 ? "light" : "dark";
  if (wide && theme !== scheme) say("theme", `the page is ${theme}`);
  return found;
}
