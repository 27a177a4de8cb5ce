"""Docstrings as pandoc's Markdown, and names in prose as links; for scripts/api.py."""
import re
import textwrap

# what is Markdown in a docstring: code, links, addresses, formulas
INLINE = re.compile(
    r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)"
    r"|\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(https?:(?:[^()\s]|\([^()\s]*\))+\)"
    r"|(?P<url>https?://[^\s<>)\]]*[^\s<>)\].,;:])"
    r"|\$(?=[^$]*[\\^_])(?!\s)[^$]+(?<!\s)\$(?!\d)", re.S)
LETTER = re.compile(r"-{2,}|\.{3,}|[\\`*_\]<>$^~|#@{}]")
ITEM = re.compile(r"(?:[-*+]|\d+[.)])\s+")


def escape(text):
    """Text in which no letter means anything to pandoc."""
    return LETTER.sub(lambda m: "".join("\\" + letter for letter in m[0]), text)


def inline(text):
    """Escape what stands between code spans, links and formulas."""
    parts, end = [], 0
    for match in INLINE.finditer(text):
        keep = f"<{match[0]}>" if match["url"] else match[0]
        parts += [escape(text[end:match.start()]), keep]
        end = match.end()
    return "".join(parts) + escape(text[end:])


def markdown(doc):
    """A docstring as Markdown: paragraphs, lists, and indented parts as they stand."""
    kinds, before, gap = [], "", True  # [kind, lines] of each part
    for line in doc.splitlines():
        indent = len(line) - len(line.lstrip())
        last = kinds[-1][0] if kinds else "text"
        starts = gap or before.endswith(":")
        if not line.strip():
            gap = True
            continue
        if ITEM.match(line.strip()) and indent < 4 and (starts or last == "item"):
            kind = "item"
        elif last == "item" and indent: kind = "item"  # the item goes on
        elif indent and last == "code" or indent >= 4 and starts: kind = "code"
        else: kind = "text"
        if kind != last or not kinds or gap and kind == "text": kinds.append([kind, []])
        elif gap: kinds[-1][1].append("")
        kinds[-1][1].append(line)
        before, gap = line.rstrip(), False
    return "\n\n".join(block(kind, lines) for kind, lines in kinds)


def block(kind, lines):
    """A part of a docstring as Markdown."""
    text = "\n".join(lines)
    if kind == "code": return f"```text\n{textwrap.dedent(text)}\n```"
    if kind == "text": return inline(text)
    # every second part is the marker of an item
    parts = re.split(rf"(^\s*{ITEM.pattern})", text, flags=re.M)
    return "".join(part if i % 2 else inline(part) for i, part in enumerate(parts))


# where a name is no link, and what is looked at
SKIP = re.compile("|".join([
    r"\\[^\n]",  # an escaped letter
    r"^ {0,3}(?P<fence>`{3,}|~{3,}).*?(?:^ {0,3}(?P=fence)[`~]*\s*?$|\Z)",
    r"(?:\A|(?<=\n\n))(?: {4}.*(?:\n|\Z))+",  # indented code
    r"^(?P<heading>#{1,6}) .*?$",
    r"^.*\n(?=(?P<underlined>=+|-{2,}) *$)",
    r"<!--.*?-->",
    r"\$\$.*?\$\$",
    r"\$(?!\s)(?:(?!\n\s*\n)(?:[^$\\]|\\.))+?(?<!\s)\$(?!\d)",
    r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\](?:\((?:[^()]|\([^()]*\))*\)|\[[^\]]*\])",
    r"<(?P<tag>a|summary|code|pre|svg|h[1-6]|style|script)\b.*?</(?P=tag)>",
    r"</?\w[^>]*>",
    r"(?<!`)(?P<ticks>`+)(?!`)(?P<code>.+?)(?<!`)(?P=ticks)(?!`)",
]), re.M | re.S)


def linkify(text, names, depth=0, seen=None):
    """Make links of the code spans in Markdown that are `names`.

    `names` says where each leads, from the site's home; `depth` is how many folders the
    page lies below it. Each once in a section: `seen` goes on from cell to cell."""
    seen = set() if seen is None else seen

    def link(match):
        if match["heading"] in ("#", "##") or match["underlined"]: seen.clear()
        seen.update(re.findall(r"\]\((?:\.\./)*(api/[^)\s]+)\)", match[0]))  # links already
        name = match["code"] and match["code"].removesuffix("()")
        target = names.get(match["code"]) or names.get(name)
        if not name or not target or target in seen: return match[0]
        seen.add(target)
        return f"[{match[0]}]({'../' * depth}{target})"
    return SKIP.sub(link, text)
