// What does the page say, and is everything there that a page has? `words` runs inside
// the page at its full width; all but formulas and pictures is looked at in one theme.
export function words(tools, { scheme, name, git }) {
  const { found, say, all, main, quarto, box, shown, clip, some, texts } = tools;
  const api = name.startsWith("api/");
  const lost = name === "404.html";
  const address = link => new URL(link, location.href).href;

  // What is neither code nor formula, around the text too.
  const unread = "code, pre, script, style, noscript, .math, .katex, .katex-error";
  const plain = () => texts(document.body, unread);

  function markdown() {
    const raw =
      /(?<!\w)(\[[^\]]+\]\([^\s)]+\)|\*\*[^*\s][^*]*\*\*)|`[^`\s][^`]*`|^(:::|## )/m;
    const [one] = plain().filter(t => raw.test(t.data));
    if (one) say("markdown", `raw Markdown in the text: ${clip(one.data, 60)}`);
  }

  function formulas() {
    const given = all(".math").filter(e => !e.parentElement.closest(".math"));
    const bare = given.filter(e => !all(".katex, .katex-error", e).some(shown));
    const count = `${bare.length} of ${given.length} formulas`;
    if (bare.length) say("formula", `${count} are not typeset: ${some(bare)}`);
    const [refused] = all('.katex-error, .katex [mathcolor="#cc0000"]');
    if (refused) say("formula", `refused: ${refused.title || refused.textContent}`);
    const twice = document.querySelector(".katex-mathml");
    if (twice && getComputedStyle(twice).position !== "absolute")
      say("formula", "KaTeX's style sheet is missing");
    const tex = /\$\$|\\[a-zA-Z]{2,}|\\[([]|\$[^\s$][^$]*[_^\\=][^$]*(?<!\s)\$(?!\d)/;
    const raw = plain().find(t => tex.test(t.data));
    if (raw) say("formula", `raw TeX in the text: ${clip(raw.data, 60)}`);
    return given.length;
  }

  function pictures() {
    const here = i =>
      !i.currentSrc || /^data:/.test(i.currentSrc) || ours(i.currentSrc);
    const ours = source => source.startsWith(location.origin);
    const blank = [...document.images].filter(
      i => i.complete && !i.naturalWidth && here(i),
    );
    if (blank.length) say("image", `${blank.length} do not load: ${some(blank)}`);
    const labelled = e =>
      e.getAttribute("aria-label")?.trim() ||
      e.getAttribute("aria-labelledby") ||
      [...e.children].some(c => c.tagName === "title" && c.textContent.trim()) ||
      e.closest(".katex, [aria-hidden=true], [aria-label], [role=presentation]");
    const mute = [
      ...all("main img").filter(i => !i.alt.trim()),
      ...all("main :is(svg, canvas, video)").filter(e => !labelled(e)),
    ];
    if (mute.length) say("alt", `${mute.length} without a description: ${some(mute)}`);
    const repeats = figure => {
      const caption = figure.querySelector("figcaption")?.textContent.trim();
      return caption && all("img", figure).some(i => i.alt.trim() === caption);
    };
    const empty = /\.(png|jpe?g|svg|gif|webp)$|^<|^(image|picture|figure|output)$/i;
    const idle = all("main img").filter(i => empty.test(i.alt.trim()));
    if (idle.length) say("alt", `${idle.length} descriptions say nothing: ${some(idle)}`);
    const twice = all("main figure").filter(repeats);
    if (twice.length)
      say("alt", `${twice.length} captions repeat the description: ${some(twice)}`);
  }

  function machine() {
    const said = texts(main, "div.sourceCode, pre.sourceCode, script, style, .katex");
    const path =
      /(?<![\w.~:/])((file:\/)?\/(tmp|work|root|home|Users|var|private)\/.{0,40})/;
    const paths = said.filter(t => path.test(t.data));
    const [one] = paths.map(t => clip(t.data.match(path)[1], 50));
    if (one) say("path", `${paths.length} paths of a machine: ${one}`);
    const library = /\b[A-Z]\w*Warning: |site-packages|warnings\.warn\(/;
    const remains = /Traceback \(most| at 0x[\da-f]{6}|<Figure size|\d%\|/;
    const warning = new RegExp(`${library.source}|${remains.source}`);
    const warned = said.find(
      t => t.parentElement.closest(".cell-output") && warning.test(t.data),
    );
    if (warned) say("path", `what no reader needs: ${clip(warned.data, 80)}`);
  }

  function plumbing() {
    const open = all("main div.sourceCode").filter(
      e => shown(e) && !e.closest("details[data-unfolded], .hidden, .cell-output"),
    );
    const code = open.map(e => e.textContent.replace(/^\s*#.*$/gm, "").trim());
    const alone = code.filter(c => /^illustration\([^]*\)$/.test(c));
    const only = alone.filter(c => !/\n[^\s)]/.test(c));
    if (only.length) say("plumbing", `${only.length} cells of ${only[0].slice(0, 40)}`);
    const told = open.find(e => /^#\| *\w/m.test(e.textContent));
    if (told) say("plumbing", `a directive is shown: ${clip(told.textContent, 40)}`);
  }

  function signatures() {
    // An API page has a source link above each; before there were such pages, the
    // signature of `x` stood in a section called x.
    const title = e => e.closest("section")?.querySelector(":scope > :is(h2, h3)");
    const called = e => title(e)?.textContent.trim().split(".").pop();
    const linked = e => e.previousElementSibling?.querySelector('a[href*="#L"]');
    const start = e => e.textContent.match(/^\s*(?:@|(?:async )?def |class )(\w*)/);
    const isOne = e =>
      e.matches(".signature") ||
      (api ? linked(e) || start(e) : start(e) && start(e)[1] === called(e));
    const blocks = all("main :is(.signature, div.sourceCode)");
    const given = blocks.filter(e => !e.closest(".cell") && isOne(e));
    const markdown = /.{0,20}(\]\(|`|\*\*[^*\n]+\*\*).{0,30}/;
    const raw = given.filter(e => markdown.test(e.textContent));
    const count = `${raw.length} of ${given.length} signatures`;
    const [one] = raw.map(e => clip(e.textContent.match(markdown)[0], 60));
    if (one) say("signature", `${count} hold raw Markdown: ${one}`);
    if (api && name !== "api/index.html" && !given.length)
      say("signature", "an API page without a signature");
  }

  function order() {
    const heads = all("main :is(h1, h2, h3)");
    const links = all('main a[href*="#L"]').filter(
      a => /source/i.test(a.textContent + a.className) || a.closest("h2, h3"),
    );
    const after = (a, b) =>
      a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING;
    const between = (a, head, next) =>
      head.contains(a) || (after(head, a) && !(next && after(next, a)));
    const lines = [];
    heads.forEach((head, i) => {
      const section = head.closest("section") ?? head;
      const title = head.id || head.dataset.anchorId || section.id;
      if (head.tagName === "H1") return;
      const floats = ':scope > a[style*=float][href*="#L"]'; // nbdev's stands above
      const above = section.previousElementSibling?.querySelector(floats);
      const link = above ?? links.find(a => between(a, head, heads[i + 1]));
      const given = head.dataset.line ?? section.dataset.line;
      const line = given ?? link?.hash.match(/^#L(\d+)/)?.[1];
      const file = `${link?.pathname} ${title.split(".").slice(0, -1)}`; // of one class
      if (line) lines.push({ title, line: Number(line), file });
    });
    const early = ({ line, file }, i) => {
      const before = lines.slice(0, i).findLast(other => other.file === file);
      return before && line < before.line;
    };
    const turned = lines.filter(early).map(({ title, line }) => `${title} (${line})`);
    const few = turned.slice(0, 3).join(", ");
    const count = `${turned.length} of ${lines.length} definitions`;
    if (turned.length) say("order", `${count} stand below later ones: ${few}`);
  }

  function parts() {
    const has = selector => document.querySelector(selector) !== null;
    const texted = list => list.some(e => e.textContent.trim());
    if (!has("main")) say("title", "no main");
    if (!texted(all("h1")) || !document.title.trim()) say("title", "no title");
    const chapter = !api && !lost && name !== "index.html";
    if (chapter && !has('main a[href*="colab.research.google.com"]'))
      say("colab", "no Colab button");
    const steps = ".nav-page-previous a[href], .nav-page-next a[href]";
    if (!lost && name !== "api/index.html" && !all(steps).some(shown))
      say("steps", "neither previous nor next page");
    for (const [rel, way] of [
      ["prev", "previous"],
      ["next", "next"],
    ])
      if (has(`link[rel=${rel}]`) && !has(`.nav-page-${way} a[href]`))
        say("steps", `no link to the ${way} page`);
    const here = a => a.pathname === location.pathname && !a.hash;
    if (name !== "index.html" && all(steps).some(here))
      say("steps", "leads to the page itself");
    if (!has("html[lang]")) say("head", "no language");
    if (!has('meta[name=viewport][content*="width=device-width"]'))
      say("head", "a telephone shows it as wide as a desk's screen: no viewport");
    if (has("meta[name=robots][content*=noindex]")) say("head", "hidden from search");
    if (all('meta[property="og:image"]').length > 1) say("og", "og:image twice");
    const top = all(quarto ? ".navbar a" : "a").filter(
      a => !main.contains(a) && !a.closest("#TOC, footer"),
    );
    if (!top.some(a => a.href.startsWith(git))) say("github", "no link above the page");
    if (!quarto) return;
    if (!all("#quarto-search").some(shown)) say("search", "no search box");
    if (!has(".quarto-color-scheme-toggle")) say("switch", "no switch of the theme");
    const listed = all("#quarto-sidebar a[href]:not([data-bs-toggle])"); // pages, not sections
    // The chapters and the page that paints lie beside the home page, others in folders.
    const chapters = listed.filter(
      a => a.pathname.split("/").length === 3 && !/\/((index|play)\.html)?$/.test(a.pathname),
    );
    const bare = chapters.filter(a => !/^\s*\d\d\b/.test(a.textContent));
    if (!lost && (bare.length || !listed.some(a => /^\s*\d\d\b/.test(a.textContent))))
      say("numbers", `chapters without: ${clip(bare[0]?.textContent ?? "all", 40)}`);
  }

  function links() {
    const plain = all("a[href], area[href], link[rel=next], link[rel=prev]");
    const drawn = all("svg a").map(a => a.href.baseVal);
    const written = plain.filter(a => !(a instanceof SVGElement)).map(a => a.href);
    return [...new Set([...written, ...drawn.map(address)])];
  }

  const count = formulas();
  markdown();
  if (scheme === "light") {
    pictures();
    machine();
    plumbing();
    signatures();
    order();
    parts();
  }
  const meta = key =>
    document
      .querySelector(`meta[property="${key}"], meta[name="${key}"]`)
      ?.content.trim();
  const keys = ["og:title", "og:description", "og:image", "twitter:image"];
  return {
    found,
    formulas: count,
    ids: all("[id], a[name]").map(e => e.id || e.name),
    links: links(),
    og: Object.fromEntries(keys.map(key => [key, meta(key)])),
    icon: document.querySelector('link[rel~="icon"][href]')?.href,
    pinned: all("script[src][integrity], link[href][integrity]").map(
      e => e.src || e.href,
    ),
  };
}
