"""Hand-made pages for test_browser.py: a good chapter, a good API page, and a table of
what is wrong with all others, which differ from those in one place each."""
import base64
import hashlib
import os
import shutil

from PIL import Image

from pages import cfg, here

HOME = f"{cfg['doc_host']}{cfg['doc_baseurl']}/"
GIT = cfg["git_url"]
KATEX = here / "node_modules" / "katex" / "dist"
CDN = "https://cdn.jsdelivr.net/npm/katex@0.16.22/dist/"
SETTLE = """document.querySelectorAll(".math").forEach(
  e => katex.render(e.textContent, e, {throwOnError: false,
    displayMode: e.classList.contains("display")}))"""
DARK = "@media (prefers-color-scheme: dark)"

PICTURE = """<svg xmlns="http://www.w3.org/2000/svg" width="300" height="120">
<rect width="300" height="120" fill="#f0a23c"/></svg>"""
PICTURE = "data:image/svg+xml;base64," + base64.b64encode(PICTURE.encode()).decode()

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #222; --link: #1f4e96;
  --box: #f2f2f5; --quiet: #565a63; --word: #0b4f8a; --line: #ddd }
@media (prefers-color-scheme: dark) { :root { --paper: #171a23; --ink: #e3e4ec;
  --link: #8fb8ff; --box: #20242f; --quiet: #a9adb8; --word: #9cc4ff; --line: #444 } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 17px sans-serif }
a { color: var(--link) }
.navbar, footer { background: var(--box); padding: 8px 16px }
.navbar a, .navbar input { display: inline-block; padding: 6px 0; margin-right: 16px }
main, .page-navigation, details.toc { max-width: 800px; margin: 16px auto }
main, #quarto-sidebar, .page-navigation, details.toc { padding: 0 16px }
.navbar input { background: var(--paper) }
.navbar input::placeholder { color: var(--quiet) }
pre, code, .callout { background: var(--box) }
pre { overflow: auto; padding: 8px; font-size: 14px }
.sourceCode .kw { color: var(--word) } .sourceCode .co { color: var(--quiet) }
.cell-output, figure { margin: 0 0 24px }
figcaption, .cell-output-stderr code { color: var(--quiet) }
img { display: block; max-width: 100% }
table { display: block; overflow-x: auto; border-collapse: collapse }
td, th { border: 1px solid var(--line); padding: 4px 8px }
.striped tr:nth-child(odd) td { box-shadow: inset 0 0 0 9999px #80808018 }
.katex-display { overflow: auto hidden }
.minifilm { width: 260px } .minifilm button { width: 34px; height: 26px; padding: 0 }
.minifilm input { height: 26px }
"""

HEAD = f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="generator" content="quarto-1.7.34">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>A page</title>
<link rel="icon" href="/minidiff/images/icon.png">
<meta property="og:title" content="A page">
<meta property="og:description" content="About nothing">
<meta property="og:image" content="{HOME}images/og.png">
<link rel="stylesheet" href="/minidiff/site_libs/katex/katex.min.css">
<script defer src="/minidiff/site_libs/katex/katex.min.js"></script>
<style>{STYLE}</style></head><body>
<header id="quarto-header"><nav class="navbar">
<a class="navbar-brand" href="/minidiff/index.html">minidiff</a>
<a id="git" href="{GIT}">GitHub</a>
<a class="quarto-color-scheme-toggle" href="#">Theme</a>
<div id="quarto-search"><input type="search" placeholder="Search"></div>
</nav></header>
<nav id="quarto-sidebar" class="sidebar sidebar-navigation"><ul>
<li><a href="/minidiff/00_good.html">00 · Dali</a></li>
<li><a href="/minidiff/api/good.html">The module</a></li></ul></nav>
<details class="toc"><summary>On this page</summary><nav id="TOC" role="doc-toc">
<a href="#one">One</a> <a href="#two">Two</a></nav></details>
"""

FOOT = f"""<nav class="page-navigation">
<div class="nav-page nav-page-previous"><a href="/minidiff/index.html">Before</a></div>
<div class="nav-page nav-page-next"><a href="/minidiff/00_good.html#two">Next</a></div>
</nav><footer class="footer">Made by hand</footer>
<script>document.addEventListener("DOMContentLoaded", () => {{ {SETTLE} }})</script>
</body></html>"""

CHAPTER = HEAD + f"""<main><h1>A page</h1>
<p><a href="https://colab.research.google.com/github/x">
<img src="{PICTURE}" width="117" alt="Open in Colab"></a></p>
<p>Prose with <span class="math inline">x_0</span>, <code>inline code</code>
and <a href="#two">a link</a>.</p>
<span class="math display">\\sqrt{{x}}</span>
<section id="one"><h2>One</h2>
<div class="cell"><div class="sourceCode cell-code"><pre class="sourceCode python"><code
 class="sourceCode python"><span><span class="kw">import</span> torch</span>
<span><span class="co"># a comment</span></span></code></pre></div>
<div class="cell-output cell-output-stdout"><pre><code>1 2 3</code></pre></div>
<div class="cell-output cell-output-stderr"><pre><code>a message</code></pre></div>
</div>
<div class="cell"><details class="code-fold"><summary>Code</summary>
<div class="sourceCode cell-code"><pre class="sourceCode python"><code
 class="sourceCode python">illustration("folded")</code></pre></div></details>
<div class="cell-output cell-output-display"><img src="{PICTURE}" alt="An orange field">
</div></div>
<p>Text below a picture.</p>
<figure><img src="{PICTURE}" alt="Orange again"><figcaption>It is calm.</figcaption>
</figure>
<p>Text below a figure.</p>
<div class="cell"><div class="cell-output cell-output-display"><div class="minifilm">
<img src="{PICTURE}" alt="A film of orange" width="200"><button type="button"
 aria-label="play">▶</button><input type="range" aria-label="frame">
<span>frame = 3</span></div></div></div>
<p>Text below a film.</p>
<div class="cell"><div class="cell-output cell-output-display"><table class="dataframe">
<tr><th>loss</th></tr><tr><td>0.25</td></tr></table></div></div></section>
<section id="two"><h2>Two</h2>
<div class="callout"><p>A callout.</p></div>
<details class="answer"><summary>Answer</summary><p>Forty-two.</p></details>
<table class="striped"><thead><tr><th>sampler</th><th>steps</th></tr></thead><tbody>
<tr><td>Heun and a half</td><td>20</td></tr><tr><td>Euler</td><td>50</td></tr>
</tbody></table>
<svg role="img" aria-label="A word" width="200" height="60">
<rect width="90" height="60" fill="#fff8ec"/><text x="9" y="30" fill="#2b2d42">in</text>
<a href="#one"><text x="120" y="30" class="bare" fill="currentColor">bare</text></a>
</svg></section></main>""" + FOOT

API = HEAD + f"""<main><h1>minidiff.x</h1>
<section id="first"><h2 id="one">first</h2><a href="{GIT}/blob/main/minidiff/vae.py#L10">source</a>
<div class="sourceCode signature"><pre class="sourceCode python"><code>def first(
    x,  # pictures
    **options,
)</code></pre></div><p>It does one thing.</p></section>
<section><h2 id="two">Second</h2><a href="{GIT}/blob/main/minidiff/vae.py#L20">source</a>
<div class="sourceCode signature"><pre class="sourceCode python"><code>class Second(x)
</code></pre></div>
<h3 id="Second.go">Second.go</h3><a href="{GIT}/blob/main/minidiff/vae.py#L15">source</a>
<div class="sourceCode signature"><pre class="sourceCode python"><code>def go(self)
</code></pre></div></section></main>""" + FOOT


def css(rules):
    return "</head>", f"<style>{rules}</style></head>"


def dark(rules):
    return css(f"{DARK} {{ {rules} }}")


def light(rules):
    return css(f"@media (prefers-color-scheme: light) {{ {rules} }}")


def script(code):
    return "</body>", f"<script>{code}</script></body>"


def more(markup):
    return "<p>Text below a film.</p>", f"<p>Text.</p>{markup}<p>More.</p>"


TEXTS = {  # every kind of text: how to reach it
    "prose": "main p", "heading": "h2", "code": "div.sourceCode code",
    "keyword": ".sourceCode .kw", "comment": ".sourceCode .co", "inline": "p code",
    "stdout": ".cell-output-stdout code", "stderr": ".cell-output-stderr code",
    "frame": ".dataframe td", "caption": "figcaption", "slider": ".minifilm span",
    "link": "main a", "contents": "#TOC a", "sidebar": "#quarto-sidebar a",
    "previous": ".nav-page-previous a", "next": ".nav-page-next a", "title": "h1",
    "callout": ".callout p", "summary": ".answer summary", "answer": ".answer p",
    "fold": ".code-fold summary", "head": "thead th", "cell": ".striped td",
    "footer": "footer", "navbar": ".navbar a",
    "item": ".navbar-brand", "formula": ".katex",
}
PLAIN = '<meta name="generator" content="minidiff plain">'
QUARTO = '<meta name="generator" content="quarto-1.7.34">'
SCRIPT = '<script defer src="/minidiff/site_libs/katex/katex.min.js"></script>'
SHEET = '<link rel="stylesheet" href="/minidiff/site_libs/katex/katex.min.css">'
DEFINE = "<script>window.define = function () {}; define.amd = {}</script>"
HUSH = '<script>addEventListener("error", e => e.preventDefault())</script>'
REQUIRE = ('<script src="https://cdnjs.cloudflare.com/ajax/libs/require.js/2.3.6/'
           'require.min.js" integrity="sha512-c3Nl8" crossorigin="anonymous"></script>')
OG = f'<meta property="og:image" content="{HOME}images/og.png">'
BACK = '<div class="nav-page nav-page-previous"><a href="/minidiff/index.html">Before' \
       "</a></div>"
STDOUT = "<code>1 2 3</code>"
TABLE = '<table class="striped">'
PALE = ":root { --paper: #fff; --ink: #222; --link: #1f4e96; --box: #f2f2f5; " \
       "--quiet: #565a63; --word: #0b4f8a; --line: #ddd; color-scheme: light }"


def hashed(name):
    """The integrity of a file of KaTeX."""
    digest = hashlib.sha384((KATEX / name).read_bytes()).digest()
    digest = base64.b64encode(digest).decode()
    return f'integrity="sha384-{digest}" crossorigin="anonymous"'


# name of the page: (kinds that must be reported, where, what is replaced, by what)
# "where" is a colour scheme or a width, if the fault is to be seen in that alone.
BAD = {
    "no-katex": ("formula console", "", SCRIPT, ""),
    "no-katex-in-silence": ("formula", "", f"{{ {SETTLE} }}", "{ }"),
    "amd": ("formula console", "", SCRIPT, DEFINE + SCRIPT),
    "amd-in-silence": ("formula", "", SCRIPT, HUSH + DEFINE + SCRIPT),
    "require-js": ("formula console elsewhere", "", SCRIPT, REQUIRE + SCRIPT),
    "refused": ("formula", "", "x_0", "\\frac{"),
    "unknown-macro": ("formula", "", "x_0", "\\nosuchmacro x"),
    "raw-greek": ("formula", "", "Forty-two.", "Forty-two, or \\alpha_t."),
    "raw-dollars": ("formula", "", "A callout.", "A callout: $x_t$."),
    "raw-contents": ("formula", "", '"#one">One', '"#one">$\\lambda$'),
    "raw-markdown": ("markdown", "", "Forty-two.", "See [it](x.html)."),
    "api-raw-ticks": ("markdown", "", "It does one thing.", "It does `one` thing."),
    "hidden-formula": ("formula", "", *css(".math { display: none }")),
    "no-sheet": ("formula overflow", "", SHEET, ""),
    "dollars": ("formula", "", "A callout.", "A callout: $$x^2$$."),
    "raw-tex": ("formula", "", "A callout.", "A callout: \\begin{aligned}x."),
    "raw-macro": ("formula", "", "Forty-two.", "Forty-two: \\frac{a}{b}."),
    **{f"dim-{name}": ("contrast", "dark", *dark(f"{place} {{ color: #555 }}"))
       for name, place in TEXTS.items()},
    **{f"pale-{name}": ("contrast", "light", *light(f"{TEXTS[name]} {{ color: #aaa }}"))
       for name in ("prose", "code", "inline", "stdout", "link", "next", "callout",
                    "summary", "head", "comment")},
    "black-on-dark": ("contrast", "dark", *dark(".cell-output code { color: #000 }")),
    "inline-ground": ("contrast", "dark", *dark("p code { background: #f8f9fa }")),
    "hint": ("contrast", "dark", *dark(".navbar input::placeholder { color: #555 }")),
    "faded": ("contrast", "", *css(".callout p { opacity: .45 }")),
    "alpha": ("contrast", "light", *light(".callout p { color: rgb(0 0 0 / .4) }")),
    "see-through": ("contrast", "dark", *css(
        ".answer { background: rgb(128 128 128 / .8) }")),
    "stripes": ("contrast", "", *css(
        ".striped tr:nth-child(odd) td { box-shadow: inset 0 0 0 9999px #777 }")),
    "gradient": ("contrast", "light", *light(
        ".callout p { background: linear-gradient(#fff, #444) }")),
    "svg-text": ("contrast", "dark", 'fill="currentColor"', 'fill="#2b2d42"'),
    "svg-on-a-box": ("contrast", "", 'fill="#2b2d42"', 'fill="#e0d8c8"'),
    "summary-mark": ("contrast", "dark", *dark(
        "summary::before { content: '> '; color: #444 }")),
    "always-light": ("theme", "dark", *dark(PALE)),
    "wide-at-320": ("overflow", "320", *more('<div style="width: 340px">wide</div>')),
    "wide-at-390": ("overflow", "390", *css(
        "@media (min-width: 380px) and (max-width: 400px) { h2 { width: 500px } }")),
    "wide-at-1280": ("overflow", "1280", *css(
        "@media (min-width: 1200px) { .callout { width: 1400px } }")),
    "wide-steps": ("overflow", "320", *css(
        "@media (width: 320px) { .nav-page-next { width: 340px } }")),
    "wide-at-768": ("overflow", "768", *css(
        "@media (min-width: 600px) and (max-width: 900px) { h2 { width: 1100px } }")),
    "left-of-the-page": ("overflow", "390", *css(
        "@media (width: 390px) { .callout { margin-left: -60px } }")),
    "hidden-end": ("overflow", "320", *css(
        "@media (width: 320px) { main p { white-space: nowrap; overflow: hidden } }")),
    "out-of-main": ("overflow", "1280", *css(
        "@media (min-width: 1200px) { .callout { width: 900px } }")),
    "cut-code": ("cut", "1280", "# a comment", "# " + "a long comment " * 9),
    "cut-fold": ("cut", "1280", '"folded"', f'"{"folded" * 20}"'),
    "cut-output": ("cut-output", "1280", STDOUT, f"<code>{'1 2 3 ' * 25}</code>"),
    "cut-table": ("cut", "1280", "Heun and a half", "Heun&nbsp;" * 40),
    "cut-formula": ("cut", "1280", "\\sqrt{x}", "\\displaystyle " + "a+b+c+d" * 30),
    "torn-words": ("mangled", "", *css("td { word-break: break-all; max-width: 4ch }")),
    "anywhere": ("mangled", "320", *css(
        "@media (width: 320px) { table { overflow-wrap: anywhere; width: 60px } }")),
    "tiny-badge": ("mangled", "", 'width="117"', 'width="36"'),
    "no-alt": ("alt", "", 'alt="An orange field"', ""),
    "empty-alt": ("alt", "", 'alt="An orange field"', 'alt=" "'),
    "alt-to-caption": ("alt", "", 'alt="Orange again"><figcaption>It is calm.',
                       "><figcaption>Orange again"),
    "alt-twice": ("alt", "", "It is calm.", "Orange again"),
    "alt-of-a-file": ("alt", "", 'alt="An orange field"', 'alt="image.png"'),
    "mute-svg": ("alt", "", 'role="img" aria-label="A word"', ""),
    "mute-canvas": ("alt", "", *more("<canvas></canvas>")),
    "anchor-here": ("anchor", "", 'href="#two">a link', 'href="#three">a link'),
    "anchor-there": ("anchor", "", 'good.html#two">Next', 'good.html#three">Next'),
    "no-page": ("anchor", "", 'index.html">Before', 'nowhere.html">Before'),
    "full-address": ("anchor", "", '"#two">a link', f'"{HOME}no.html">a link'),
    "outside": ("anchor", "", 'href="#two">a link', 'href="/00_good.html">a link'),
    "anchor-svg": ("anchor", "", '<a href="#one"><text', '<a href="#four"><text'),
    "anchor-contents": ("anchor", "", '"#one">One', '"#five">One'),
    "anchor-sidebar": ("anchor", "", '/api/good.html">', '/api/good.html#six">'),
    "anchor-search": ("anchor", "", "", ""),
    "og-missing": ("og", "", OG, ""),
    "og-data": ("og", "", "images/og.png", PICTURE),
    "og-not-there": ("og", "", "images/og.png", "images/no.png"),
    "og-small": ("og", "", "images/og.png", "images/icon.png"),
    "og-relative": ("og", "", f"{HOME}images/og.png", "images/og.png"),
    "og-foreign": ("og", "", f"{HOME}images", "https://example.com/images"),
    "og-title": ("og", "", '<meta property="og:title" content="A page">', ""),
    "og-description": ("og", "", 'content="About nothing"', 'content=""'),
    "twitter": ("og", "", OG, OG + '<meta name="twitter:image" content="data:,">'),
    "heavy": ("weight", "", *more('<img src="/minidiff/images/heavy.png" alt="x">')),
    "heavy-page": ("weight", "", "</body>", f"<!-- {'long ' * 320_000}--></body>"),
    "elsewhere": ("elsewhere", "", *more('<img src="https://example.com/x" alt="x">')),
    "font": ("elsewhere", "", *css("@import url(https://fonts.example.com/a.css);")),
    "cdn": ("elsewhere", "", "/minidiff/site_libs/katex/", CDN),
    "cdn-floating": ("elsewhere", "", SCRIPT, SCRIPT.replace(
        "/minidiff/site_libs/katex/", CDN.replace("0.16.22", "latest"))),
    "console-error": ("console", "", *script("console.error(1)")),
    "console-warning": ("console", "", *script("console.warn(1)")),
    "thrown": ("console", "", *script("nothing.at.all()")),
    "no-script": ("console", "", "</head>", '<script src="no.js"></script></head>'),
    "no-picture": ("image console", "", *more('<img src="no.png" alt="x" width="80">')),
    "broken-picture": ("image", "", *more('<img src="data:image/png,AA" alt="x">')),
    "tight-output": ("gap", "", *css(".cell-output, main p { margin: 0 }")),
    "tight-figure": ("gap", "", *css("figure, main p { margin: 0 }")),
    "tight-paragraph": ("gap", "", *more(
        f'<p style="margin: 0"><img src="{PICTURE}" alt="Orange"></p><div>Text</div>')),
    "tmp": ("path", "", STDOUT, "<code>saved /tmp/abc/x.png</code>"),
    "work": ("path", "", STDOUT, "<code>File \"/work/x.py\", line 1</code>"),
    "home-in-prose": ("path", "", "A callout.", "A callout in /home/me/runs."),
    "warning": ("path", "", STDOUT, "<code>UserWarning: torchvision is old</code>"),
    "warning-place": ("path", "", "a message", "x/site-packages/transformers/y.py:3:"),
    "plumbing": ("plumbing", "", *more(
        '<div class="cell"><div class="sourceCode cell-code"><pre><code>illustration('
        '"x",\n    alt="y")</code></pre></div></div>')),
    "unfolded": ("plumbing", "", '<details class="code-fold">',
                 '<details class="code-fold" open>'),
    "no-main": ("title colab github", "", "main>", "article>"),
    "no-title": ("title", "", "<h1>A page</h1>", ""),
    "no-colab": ("colab", "", "https://colab.research.google.com/github/x", GIT),
    "no-steps": ("steps", "", "nav-page nav-page-", "page-"),
    "no-favicon": ("favicon", "", 'rel="icon"', 'rel="author"'),
    "favicon-not-there": ("favicon console", "", "images/icon.png", "images/no.ico"),
    "no-github": ("github", "", f'id="git" href="{GIT}"', 'href="https://example.com"'),
    "no-search": ("search", "", 'id="quarto-search"', ""),
    "import-first": ("search", "", "", ""),
    "no-switch": ("switch", "", 'class="quarto-color-scheme-toggle"', ""),
    "no-contents": ("toc", "390", *css(
        "@media (max-width: 400px) { details.toc { display: none } }")),
    "closed-contents": ("toc", "390", "<summary>On this page",
                        '<summary tabindex="-1">On this page'),
    "no-numbers": ("numbers", "", "00 · Dali", "Dali"),
    "small-player": ("touch", "390", *css(".minifilm button { height: 18px }")),
    "small-slider": ("touch", "390", *css(".minifilm input { height: 16px }")),
    "small-navbar": ("touch", "390", *css(".navbar a { padding: 0 !important }")),
    "api-link": ("signature", "", "# pictures", "# see [`x`](https://example.com)"),
    "api-ticks": ("signature", "", "# pictures", "# pictures, as `x0`"),
    "api-stars": ("signature", "", "# pictures", "# **clean** pictures"),
    "api-none": ("signature", "", "sourceCode signature", "box"),
    "api-cut": ("cut", "1280", "# pictures", "# " + "pictures " * 20),
    "api-reversed": ("order", "", "vae.py#L10", "vae.py#L30"),
    "api-line": ("order", "", '<h2 id="two">', '<h2 id="two" data-line="5">'),
    "api-methods": ("order", "", '<h3 id="Second.go">', f'''<h3 id="Second.a">Second.a
</h3><a href="{GIT}/blob/main/minidiff/vae.py#L18">source</a><h3 id="Second.go">'''),
    "api-no-source": ("anchor", "", "vae.py#L10", "no.py#L10"),
    "api-no-line": ("anchor", "", "vae.py#L20", "vae.py#L99999"),
    "colab-nowhere": ("anchor", "", "research.google.com/github/x",
                      f"research.google.com/github/{cfg['user']}/{cfg['repo']}/blob/main/x"),
    "localhost": ("anchor", "", '"#two">a link', '"http://localhost:3000/">a link'),
    "hidden-steps": ("steps", "", *css(".nav-page { display: none }")),
    "steps-in-place": ("steps", "", 'index.html">Before', 'steps-in-place.html">Before'),
    "no-step-back": ("steps", "", BACK, '<link rel="prev" href="/minidiff/index.html">'),
    "no-viewport": ("head", "", "width=device-width", "width=1200"),
    "no-language": ("head", "", ' lang="en"', ""),
    "directive": ("plumbing", "", "# a comment", "#| hide"),
    "progress": ("path", "", STDOUT, "<code>100%|####| 3/3</code>"),
    "elsewhere-path": ("path", "", STDOUT, "<code>[/Users/me/x]</code>"),
    "chapter-number": ("numbers", "", "</ul></nav>",
                       '<li><a href="/minidiff/plain.html">Plain</a></li></ul></nav>'),
    "dim-contents-390": ("contrast", "390", *more(
        "<style>main .toc { display: none } @media (width: 390px) { main .toc "
        "{ display: block } } main .toc a { color: #888; background: #777 }</style>"
        '<details class="toc"><summary>On</summary><a href="#one">One</a></details>')),
    "api-no-steps": ("steps", "", "nav-page nav-page-", "page-"),
}


def good():
    """Pages with nothing to find: {name: (page, what is replaced, by what)}."""
    plain = CHAPTER.replace('id="quarto-search"', "").replace("00 · ", "")
    pinned = CHAPTER.replace("/minidiff/site_libs/katex/", CDN)
    for name in ("katex.min.css", "katex.min.js"):
        pinned = pinned.replace(f'{CDN}{name}"', f'{CDN}{name}" {hashed(name)}')
    late = f"{{ setTimeout(() => {{ {SETTLE} }}, 300) }}"
    lazy = '<div style="height: 9000px"></div><img loading="lazy" alt="Wide" ' \
           'src="/minidiff/images/og.png">'
    return {
        "00_good": (CHAPTER, "", ""),
        "api/good": (API, "", ""),
        "api/index": (API, FOOT, ""),
        "index": (CHAPTER, "https://colab.research.google.com/github/x", "#one"),
        "404": (CHAPTER, "nav-page nav-page-", "page-"),
        "plain": (plain, QUARTO, PLAIN),
        "cdn-pinned": (pinned, "", ""),
        "wide-table": (CHAPTER, "Heun and a half", "Heun&nbsp;" * 9),
        "shown-plumbing": (CHAPTER, "# a comment", "illustration(1)"),
        "late": (CHAPTER, f"{{ {SETTLE} }}", late),
        "tex-in-code": (CHAPTER, "inline code", "$$ \\frac \\begin{x}"),
        "lazy": (CHAPTER, *more(lazy)),
    }


def write(folder, pages):
    """A small site of {name: (page, what is replaced, by what)}."""
    libs = folder / "site_libs" / "katex"
    shutil.copytree(KATEX / "fonts", libs / "fonts")
    for name in ("katex.min.css", "katex.min.js"):
        shutil.copy(KATEX / name, libs)
    (folder / "images").mkdir()
    (folder / "api").mkdir()
    Image.new("RGB", (1200, 630), "#f0a23c").save(folder / "images" / "og.png")
    Image.new("RGB", (32, 32), "#f0a23c").save(folder / "images" / "icon.png")
    noise = Image.frombytes("RGB", (800, 700), os.urandom(800 * 700 * 3))
    noise.save(folder / "images" / "heavy.png")
    for name, (page, old, new) in pages.items():
        assert old in page, (name, old)
        changed = page.replace(old, new) if old else page
        (folder / f"{name}.html").write_text(changed, encoding="utf-8")
