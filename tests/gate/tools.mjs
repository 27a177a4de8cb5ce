// What layout, contrast and words share. All of them run inside the page that is open:
// `inside(page, layout, view)` gives what `layout(tools(), view)` returns there.
export const inside = (page, look, view) =>
  page.evaluate(`(${look})((${tools})(), ${JSON.stringify(view)})`);

function tools() {
  const found = []; // [kind, what]
  const say = (kind, what) => found.push([kind, what]);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const main = document.querySelector("main") ?? document.body;
  const generator = document.querySelector("meta[name=generator]")?.content ?? "";
  const quarto = generator.startsWith("quarto");
  const box = element => element.getBoundingClientRect();
  const shown = element =>
    element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) &&
    box(element).width > 1 &&
    box(element).height > 1;
  const clip = (text, length) => text.trim().replace(/\s+/g, " ").slice(0, length);
  const short = element =>
    clip(element.outerHTML.replace(/(data:.{20})[^"']*/g, "$1..."), 110);
  const some = list => {
    const more = list.length > 3 ? ` and ${list.length - 3} more` : "";
    return list.slice(0, 3).map(short).join(" | ") + more;
  };
  const texts = (from, skip) => {
    const walker = document.createTreeWalker(from, NodeFilter.SHOW_TEXT);
    const nodes = [];
    for (let node = walker.nextNode(); node; node = walker.nextNode())
      if (node.data.trim() && !node.parentElement.closest(skip)) nodes.push(node);
    return nodes;
  };
  return { found, say, all, main, quarto, box, shown, clip, short, some, texts };
}
