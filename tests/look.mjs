// What a reader would stumble over on the page that is open: `look` runs inside the page, once for each width.
// It gives {found: [[kind, what], ...], formulas, ids, links, og, pinned}.
export async function look({ width, scheme, name, git }) {
  const found = [];
  const say = (kind, what) => found.push([kind, what]);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const main = document.querySelector("main") ?? document.body;
  const first = scheme === "light",
    wide = width === 1280,
    phone = width === 390;
  const box = element => element.getBoundingClientRect();
  const shown = element =>
    element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) &&
    box(element).width > 1 &&
    box(element).height > 1;
  const short = element =>
    element.outerHTML
      .replace(/(data:.{20})[^"']*/g, "$1...")
      .replace(/\s+/g, " ")
      .slice(0, 110);
  const some = list =>
    list.slice(0, 3).map(short).join(" | ") +
    (list.length > 3 ? ` and ${list.length - 3} more` : "");
  const texts = (from, skip) => {
    const walker = document.createTreeWalker(from, NodeFilter.SHOW_TEXT),
      nodes = [];
    while (walker.nextNode())
      if (
        walker.currentNode.data.trim() &&
        !walker.currentNode.parentElement.closest(skip)
      )
        nodes.push(walker.currentNode);
    return nodes;
  };

  // ---------------------------------------------------------------- formulas
  const formulas = all(".math").filter(e => !e.parentElement.closest(".math"));
  if (wide) {
    const bare = formulas.filter(e => !all(".katex, .katex-error", e).some(shown)),
      refused = all('.katex-error, .katex [mathcolor="#cc0000"]');
    if (bare.length)
      say(
        "formula",
        `${bare.length} of ${formulas.length} formulas are not typeset: ${some(bare)}`,
      );
    if (refused.length)
      say(
        "formula",
        `${refused.length} formulas are refused: ${refused[0].title || refused[0].textContent}`,
      );
    const twice = document.querySelector(".katex-mathml");
    if (twice && getComputedStyle(twice).position !== "absolute")
      say("formula", "KaTeX's style sheet is missing");
    const raw = texts(
      main,
      "code, pre, script, style, noscript, textarea, .math, .katex, .katex-error",
    ).filter(t =>
      /\$\$|\\(begin|frac|sqrt|bar|text|mathbf|alpha|beta|sigma|epsilon|theta)\b/.test(
        t.data,
      ),
    );
    if (raw.length)
      say("formula", `raw TeX in the text: ${raw[0].data.trim().slice(0, 60)}`);
  }

  // ---------------------------------------------------------------- room
  const scrolls = element => {
    for (let p = element.parentElement; p && p !== document.body; p = p.parentElement)
      if (/auto|scroll|hidden|clip/.test(getComputedStyle(p).overflowX)) return true;
    return false;
  };
  const page = document.scrollingElement,
    across = page.scrollWidth - page.clientWidth,
    edge = box(main).right + 1;
  const out = all("main *").filter(
    e =>
      !e.closest("pre pre, pre *, .katex *, svg *") &&
      box(e).right > edge &&
      box(e).height > 1 &&
      !e.closest(".column-margin, .visually-hidden") &&
      !scrolls(e),
  );
  if (across > 0 && !out.length)
    out.push(
      ...all("main *").filter(
        e =>
          e.clientWidth &&
          e.scrollWidth > e.clientWidth + 1 &&
          !e.closest("pre *") &&
          !scrolls(e) &&
          getComputedStyle(e).overflowX === "visible",
      ),
    );
  if (across > 0 || out.length)
    say(
      "overflow",
      `${across > 0 ? `the page is ${across} px too wide` : "beyond main"}: ${some(out.filter(e => !out.includes(e.parentElement)))}`,
    );
  const cut = element =>
    element.scrollWidth > element.clientWidth + 1 && shown(element);
  const output = e => e.closest(".cell-output");
  if (wide) {
    for (const [kind, inside] of [
      ["cut", false],
      ["cut-output", true],
    ]) {
      const boxes = [
        ...all("main div.sourceCode, main pre"),
        ...(inside
          ? all("main .cell-output-display, main .cell-output table")
          : all("main table, main .katex-display, main .signature")),
      ];
      const over = boxes.filter(e => !!output(e) === inside && cut(e)),
        outer = over.filter(e => !over.some(o => o !== e && o.contains(e)));
      if (outer.length)
        say(
          kind,
          `${outer.length} boxes are cut off, by up to ${Math.max(...over.map(e => e.scrollWidth - e.clientWidth))} px: ${outer
            .slice(0, 2)
            .map(e => e.textContent.trim().replace(/\s+/g, " ").slice(0, 60))
            .join(" | ")}`,
        );
    }
  }
  if (first) {
    const broken = [],
      range = document.createRange();
    for (const node of texts(main, ".katex, script, style").filter(t =>
      t.parentElement.closest("td, th"),
    ))
      for (const { 0: word, index } of node.data.matchAll(/[\p{L}\p{N}_]{2,}/gu)) {
        range.setStart(node, index);
        range.setEnd(node, index + word.length);
        if (
          new Set(
            [...range.getClientRects()]
              .filter(r => r.width > 0)
              .map(r => Math.round(r.top / 4)),
          ).size > 1
        )
          broken.push(word);
      }
    if (broken.length)
      say(
        "mangled",
        `${broken.length} words in tables are broken: ${broken.slice(0, 5).join(", ")}`,
      );
    const small = all('main a[href*="colab.research.google.com"] :is(img, svg)').filter(
      e => shown(e) && e.naturalWidth !== 0 && box(e).width < 60,
    );
    if (small.length)
      say(
        "mangled",
        `${small.length} badges narrower than 60 px, the least ${Math.round(Math.min(...small.map(e => box(e).width)))}`,
      );
  }
  if (phone && first) {
    const controls = all(
      "header a, header button, .navbar a, .navbar button, .minifilm button, .minifilm input, main input[type=range]",
    ).filter(
      e =>
        !e.closest("[aria-label=breadcrumb], main header") &&
        shown(e) &&
        (e.tagName === "INPUT" || e.innerHTML.trim()),
    );
    const small = controls.filter(e => box(e).width < 23.5 || box(e).height < 23.5);
    if (small.length)
      say(
        "touch",
        `${small.length} targets below 24 px: ${small
          .slice(0, 3)
          .map(
            e =>
              `${Math.round(box(e).width)} x ${Math.round(box(e).height)} ${short(e).slice(0, 60)}`,
          )
          .join(" | ")}`,
      );
  }
  if (wide && first) {
    const media = "img, svg, canvas, video, .minifilm";
    const boxes = all("main figure, main .cell-output-display, main p").filter(
      e =>
        [...all(media, e)].some(m => box(m).height > 40) &&
        !e.querySelector("figure, .cell-output-display") &&
        (e.tagName !== "P" ||
          (!e.textContent.trim() && !e.closest("figure, .cell-output-display"))),
    );
    const tight = boxes.filter(e => {
      const end =
        e.tagName === "FIGURE"
          ? box(e).bottom
          : Math.max(...all(media, e).map(m => box(m).bottom));
      let next = e;
      do {
        while (!next.nextElementSibling && next !== main) next = next.parentElement;
        next = next === main ? null : next.nextElementSibling;
      } while (next && !shown(next));
      return (
        next &&
        next.textContent.trim() &&
        box(next).top > box(e).top &&
        box(next).top - end < 8
      );
    });
    if (tight.length)
      say("gap", `${tight.length} pictures without room below: ${some(tight)}`);
  }

  // ---------------------------------------------------------------- pictures, and what the words say
  const blank = [...document.images].filter(
    i =>
      i.complete &&
      !i.naturalWidth &&
      (i.currentSrc.startsWith("data:") ||
        i.currentSrc.startsWith(location.origin) ||
        !i.currentSrc),
  );
  if (wide && first && blank.length)
    say("image", `${blank.length} pictures do not load: ${some(blank)}`);
  if (wide && first) {
    const labelled = e =>
      e.getAttribute("aria-label")?.trim() ||
      e.getAttribute("aria-labelledby") ||
      [...e.children].some(c => c.tagName === "title" && c.textContent.trim());
    const mute = [
      ...all("main img").filter(i => !i.alt.trim()),
      ...all("main svg, main canvas, main video").filter(
        e =>
          !labelled(e) &&
          !e.closest(".katex, [aria-hidden=true], [aria-label], [role=presentation]"),
      ),
    ];
    if (mute.length)
      say("alt", `${mute.length} pictures without a description: ${some(mute)}`);
    const captions = all("main figure").filter(
      f =>
        f.querySelector("figcaption") &&
        all("img", f).some(
          i =>
            i.alt.trim() &&
            i.alt.trim() === f.querySelector("figcaption").textContent.trim(),
        ),
    );
    if (captions.length)
      say(
        "alt",
        `${captions.length} captions repeat the description: ${some(captions)}`,
      );

    const words = texts(main, "div.sourceCode, pre.sourceCode, script, style, .katex");
    const paths = words.filter(t =>
      /(^|[\s"'`(=:])\/(tmp|work|root|home)\//.test(t.data),
    );
    if (paths.length)
      say(
        "path",
        `${paths.length} paths of a machine: ${paths[0].data.match(/.{0,20}\/(tmp|work|root|home)\/.{0,40}/)[0].trim()}`,
      );
    const warnings = words.filter(
      t =>
        output(t.parentElement) &&
        /\b[A-Z]\w*Warning: |site-packages|warnings\.warn\(/.test(t.data),
    );
    if (warnings.length)
      say(
        "path",
        `a library's warning in an output: ${warnings[0].data.trim().slice(0, 80)}`,
      );

    const alone = all("main div.sourceCode")
      .filter(e => !e.closest("details, .hidden, .cell-output") && shown(e))
      .map(
        e =>
          e
            .querySelector("code")
            ?.textContent.replace(/^\s*#.*$/gm, "")
            .trim() ?? "",
      )
      .filter(code => /^illustration\([^]*\)$/.test(code) && !/\n[^\s)]/.test(code));
    if (alone.length)
      say("plumbing", `${alone.length} cells of nothing but ${alone[0].slice(0, 40)}`);

    const api = name.startsWith("api/");
    const titled = e =>
      e
        .closest("section[id]")
        ?.querySelector(":scope > :is(h2, h3)")
        ?.textContent.trim()
        .split(".")
        .pop();
    const isSignature = e =>
      e.matches(".signature") ||
      (api
        ? e.previousElementSibling?.querySelector('a[href*="#L"]') ||
          /^\s*(@|def |async def |class )/.test(e.textContent)
        : titled(e) === e.textContent.match(/(?:def|class) (\w+)/)?.[1]);
    const signatures = all("main .signature, main div.sourceCode").filter(
      e => !e.closest(".cell") && isSignature(e),
    );
    const markdown = signatures.filter(e =>
      /\]\(|`|\*\*[^*\n]+\*\*/.test(e.textContent),
    );
    if (markdown.length)
      say(
        "signature",
        `${markdown.length} of ${signatures.length} signatures hold raw Markdown: ${markdown[0].textContent.match(/.{0,20}(\]\(|`|\*\*).{0,30}/)[0].trim()}`,
      );
    if (
      api &&
      signatures.length === 0 &&
      all("main h2[id], main section[id] > h2").length &&
      name !== "api/index.html"
    )
      say("signature", "an API page without a signature");

    const heads = all("main :is(h1, h2, h3)"),
      sources = all('main a[href*="#L"]'),
      lines = [];
    for (const head of heads)
      if (head.tagName !== "H1") {
        const section = head.closest("section") ?? head,
          before = section.previousElementSibling?.matches("p")
            ? section.previousElementSibling.querySelector(
                'a[style*=float][href*="#L"]',
              )
            : null;
        const next = heads[heads.indexOf(head) + 1];
        const link =
          before ??
          sources.find(
            a =>
              head.contains(a) ||
              (/source/i.test(a.textContent + a.className) &&
                head.compareDocumentPosition(a) & 4 &&
                !(next && next.compareDocumentPosition(a) & 4)),
          );
        const line =
            head.dataset.line ??
            section.dataset.line ??
            link?.hash.match(/^#L(\d+)/)?.[1],
          title = head.id || head.dataset.anchorId || section.id;
        if (line && !title.includes("."))
          lines.push([title, Number(line), link?.pathname ?? ""]);
      }
    const turned = lines.filter(
      ([, line, file], i) => i && file === lines[i - 1][2] && line < lines[i - 1][1],
    );
    if (turned.length)
      say(
        "order",
        `${turned.length} of ${lines.length} definitions before those they follow: ${turned
          .slice(0, 3)
          .map(([title, line]) => `${title} (line ${line})`)
          .join(", ")}`,
      );

    // -------------------------------------------------------------- what every page has
    const outside = selector =>
      all(selector).filter(e => !main.contains(e) && !e.closest("#TOC, footer"));
    const lost = name === "404.html",
      quarto = document
        .querySelector("meta[name=generator]")
        ?.content.startsWith("quarto");
    if (!document.querySelector("main")) say("title", "no main");
    if (!all("h1").some(e => e.textContent.trim()) || !document.title.trim())
      say("title", "no title");
    if (
      !api &&
      !lost &&
      name !== "index.html" &&
      !document.querySelector('main a[href*="colab.research.google.com"]')
    )
      say("colab", "no Colab button");
    if (
      !lost &&
      name !== "api/index.html" &&
      !document.querySelector(".nav-page-previous a[href], .nav-page-next a[href]")
    )
      say("steps", "neither previous nor next page");
    if (!outside(quarto ? ".navbar a" : "a").some(a => a.href.startsWith(git)))
      say("github", "no link to GitHub in the navbar");
    if (quarto) {
      if (!all("#quarto-search").some(shown)) say("search", "no search box");
      if (!document.querySelector(".quarto-color-scheme-toggle"))
        say("switch", "no switch between light and dark");
      const chapters = all("#quarto-sidebar a[href]").filter(a =>
          /\/\d\d_[^/]*$/.test(a.pathname),
        ),
        plain = chapters.filter(
          a => !a.textContent.trim().startsWith(a.pathname.match(/\/(\d\d)_[^/]*$/)[1]),
        );
      const numbered = all("#quarto-sidebar a").some(a =>
        /^\s*\d\d\b/.test(a.textContent),
      );
      if (!lost && (plain.length || !numbered))
        say(
          "numbers",
          `no chapter numbers in the sidebar: ${plain
            .slice(0, 3)
            .map(a => a.textContent.trim())
            .join(" | ")}`,
        );
    }
  }
  if (
    phone &&
    first &&
    document.querySelector("meta[name=generator]")?.content.startsWith("quarto") &&
    all("main :is(h2, section[id] > h2)").length > 1
  ) {
    const tables = all("#TOC, [role=doc-toc], nav.toc, details.toc").filter(e =>
      e.querySelector('a[href*="#"]'),
    );
    const open = () => tables.some(e => all('a[href*="#"]', e).some(shown));
    all("details")
      .filter(e => e.querySelector("nav"))
      .forEach(e => {
        e.open = false;
      });
    const doors = all(
      "summary, button[aria-expanded], button[aria-controls], [data-bs-toggle=collapse]",
    ).filter(
      e =>
        !e.closest(".cell, .callout") &&
        e.tabIndex >= 0 &&
        shown(e) &&
        (e.tagName !== "SUMMARY" || e.parentElement.querySelector("nav")),
    );
    for (const door of doors.slice(0, 4)) {
      if (open()) break;
      door.click();
      for (let tries = 0; tries < 8 && !open(); tries++)
        await new Promise(done => setTimeout(done, 60));
    }
    if (!open()) say("toc", "the table of contents cannot be reached");
  }

  const meta = key =>
    document
      .querySelector(`meta[property="${key}"], meta[name="${key}"]`)
      ?.content.trim();
  const links = all("a[href], area[href], link[rel=next], link[rel=prev]").map(a =>
    a.href.baseVal === undefined ? a.href : new URL(a.href.baseVal, location.href).href,
  );
  return {
    found,
    formulas: formulas.length,
    ids: all("[id], a[name]").map(e => e.id || e.name),
    links: [
      ...new Set([
        ...links,
        ...all("svg a").map(
          a =>
            new URL(
              a.getAttribute("href") ?? a.getAttribute("xlink:href") ?? "#",
              location.href,
            ).href,
        ),
      ]),
    ],
    og: Object.fromEntries(
      ["og:title", "og:description", "og:image", "twitter:image"].map(key => [
        key,
        meta(key),
      ]),
    ),
    icon: document.querySelector('link[rel~="icon"][href]')?.href,
    pinned: all("script[src][integrity], link[href][integrity]").map(
      e => e.src || e.href,
    ),
  };
}
