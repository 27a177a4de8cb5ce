// Does everything have room? `layout` runs inside the page, at each width and theme.
export async function layout(tools, { width, scheme }) {
  const { found, say, all, main, quarto, box, shown, clip, short, some, texts } = tools;
  const once = scheme === "light";
  const isOutput = element => element.closest(".cell-output") !== null;

  function overflow() {
    const scrolls = element => {
      for (let p = element.parentElement; p && p !== document.body; p = p.parentElement)
        if (/auto|scroll|hidden|clip/.test(getComputedStyle(p).overflowX)) return true;
      return false;
    };
    const page = document.scrollingElement;
    const across = page.scrollWidth - page.clientWidth;
    const inMain = all("main *").filter(
      e => !e.closest("svg, .katex, .minifilm, .visually-hidden"),
    );
    const left = inMain.filter(e => shown(e) && box(e).left < -1 && !scrolls(e));
    if (left.length) say("overflow", `beyond the left edge: ${some(left)}`);
    // What is hidden can be reached by no scrolling.
    const lost = inMain.filter(e => {
      const { overflowX, overflowY } = getComputedStyle(e);
      const hides = value => /hidden|clip/.test(value);
      const wide = hides(overflowX) && e.scrollWidth > e.clientWidth + 2;
      const high = hides(overflowY) && e.scrollHeight > e.clientHeight + 8;
      return (wide || high) && shown(e);
    });
    if (lost.length) say("overflow", `hides a part of itself: ${some(lost)}`);
    const edge = box(main).right + 1;
    const inner = "pre *, .katex *, svg *, .column-margin, .visually-hidden";
    const free = all("body *").filter(e => !e.closest(inner));
    // Where a line wraps within inline code, its padding may hang out a little.
    const hang = e => (getComputedStyle(e).display === "inline" ? 10 : 0);
    const limit = e => (main.contains(e) ? edge + hang(e) : page.clientWidth + 1);
    const isOut = e => box(e).height > 1 && box(e).right > limit(e);
    const counts = e => main.contains(e) || across > 0;
    let out = free.filter(e => counts(e) && isOut(e) && !scrolls(e));
    const visible = e => getComputedStyle(e).overflowX === "visible";
    const spills = e =>
      e.clientWidth && e.scrollWidth > e.clientWidth + 1 && visible(e);
    if (across > 0 && !out.length) out = free.filter(e => spills(e) && !scrolls(e));
    if (across <= 0 && !out.length) return;
    const first = out.filter(e => !out.includes(e.parentElement));
    const what = across > 0 ? `the page is ${across} px too wide` : "beyond main";
    say("overflow", `${what}: ${some(first)}`);
  }

  function cut(kind, selector, wanted) {
    const beyond = e => e.scrollWidth - e.clientWidth;
    const boxes = all(selector).filter(
      e => isOutput(e) === wanted && beyond(e) > 1 && shown(e),
    );
    if (!boxes.length) return;
    const outer = boxes.filter(e => !boxes.some(o => o !== e && o.contains(e)));
    const most = Math.max(...boxes.map(beyond));
    const start = outer.slice(0, 2).map(e => clip(e.textContent, 60));
    say(kind, `${outer.length} cut off, by up to ${most} px: ${start.join(" | ")}`);
  }

  function mangled() {
    const range = document.createRange();
    const lines = (node, start, end) => {
      range.setStart(node, start);
      range.setEnd(node, end);
      const rects = [...range.getClientRects()].filter(r => r.width > 0);
      return new Set(rects.map(r => Math.round(r.top / 4))).size;
    };
    const broken = [];
    for (const node of texts(main, ".katex, script, style")) {
      if (!node.parentElement.closest("td, th")) continue;
      for (const { 0: word, index } of node.data.matchAll(/[\p{L}\p{N}_]{2,}/gu))
        if (lines(node, index, index + word.length) > 1) broken.push(word);
    }
    const few = broken.slice(0, 5).join(", ");
    if (broken.length)
      say("mangled", `${broken.length} words broken in tables: ${few}`);
    const widths = all('main a[href*="colab.research.google.com"] :is(img, svg)')
      .filter(e => shown(e) && e.naturalWidth !== 0)
      .map(e => Math.round(box(e).width))
      .filter(w => w < 60);
    const least = Math.min(...widths);
    if (widths.length)
      say("mangled", `${widths.length} badges below 60 px, the least ${least}`);
  }

  function touch() {
    const bars = "header a, header button, .navbar a, .navbar button";
    const player = ".minifilm button, .minifilm input, main input[type=range]";
    const targets = all(`${bars}, ${player}`).filter(
      e =>
        !e.closest("[aria-label=breadcrumb], main header") &&
        (e.tagName === "INPUT" || e.innerHTML.trim()) &&
        shown(e),
    );
    const small = targets.filter(e => Math.min(box(e).width, box(e).height) < 23.5);
    const size = e => `${Math.round(box(e).width)} x ${Math.round(box(e).height)}`;
    const few = small.slice(0, 3).map(e => `${size(e)} ${short(e).slice(0, 60)}`);
    if (small.length)
      say("touch", `${small.length} targets below 24 px: ${few.join(" | ")}`);
  }

  function gap() {
    const media = e =>
      all("img, svg, canvas, video, .minifilm", e).filter(m => box(m).height > 40);
    const lone = e =>
      !e.textContent.trim() && !e.closest("figure, .cell-output-display");
    const pictures = all("main figure, main .cell-output-display, main p").filter(
      e =>
        media(e).length &&
        !e.querySelector("figure, .cell-output-display") &&
        (e.tagName !== "P" || lone(e)),
    );
    const following = element => {
      let next = element;
      do {
        while (!next.nextElementSibling && next !== main) next = next.parentElement;
        if (next === main) return null;
        next = next.nextElementSibling;
      } while (!shown(next));
      return next;
    };
    const tight = pictures.filter(e => {
      const ends = e.tagName === "FIGURE" ? [e] : media(e);
      const end = Math.max(...ends.map(m => box(m).bottom));
      const next = following(e);
      if (!next?.textContent.trim()) return false;
      return box(next).top > box(e).top && box(next).top - end < 8;
    });
    if (tight.length)
      say("gap", `${tight.length} pictures without room below: ${some(tight)}`);
  }

  async function contents() {
    if (all("main h2").length < 2) return;
    if (document.getElementById("play")) return; // the page that paints needs none
    const anchors = 'a[href*="#"]';
    const lists = all("#TOC, [role=doc-toc], nav.toc, details.toc");
    const open = () => lists.some(e => all(anchors, e).some(shown));
    const folded = all("details").filter(e => e.querySelector("nav"));
    folded.forEach(e => {
      e.open = false;
    });
    const doors = all(
      "summary, button:is([aria-expanded], [aria-controls]), [data-bs-toggle=collapse]",
    ).filter(
      e =>
        e.tabIndex >= 0 &&
        shown(e) &&
        !e.closest(".cell, .callout") &&
        (e.tagName !== "SUMMARY" || e.parentElement.querySelector("nav")),
    );
    for (const door of doors.slice(0, 4)) {
      if (open()) return;
      door.click();
      for (let tries = 0; tries < 8 && !open(); tries++)
        await new Promise(done => setTimeout(done, 60));
    }
    if (!open()) say("toc", "the table of contents cannot be reached");
  }

  overflow();
  if (once) mangled();
  if (width === 1280) {
    cut(
      "cut",
      "main :is(div.sourceCode, pre, .signature, table, .katex-display)",
      false,
    );
    cut(
      "cut-output",
      "main :is(div.sourceCode, pre, .cell-output-display, table)",
      true,
    );
    if (once) gap();
    const listed = all("#TOC a");
    if (once && quarto && listed.length > 1 && !listed.some(shown))
      say("toc", "the table of contents is hidden");
  }
  if (width === 390 && once) {
    touch();
    if (quarto) await contents();
    const menus = all('[data-bs-target=".quarto-sidebar-collapse-item"]');
    if (menus.length && !menus.some(shown)) say("toc", "the menu cannot be reached");
  }
  return found;
}
