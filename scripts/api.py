"""The API pages of the site, one a module, from the text of the package alone:

    python scripts/api.py FOLDER    writes FOLDER/api/index.qmd, FOLDER/api/vae.qmd, ...

Nothing of the package is imported. A signature is the header that the source has.
"""
import argparse
import ast
import functools
import json
import re
from pathlib import Path

import docstrings
import sidebar
import sources

root = Path(__file__).resolve().parent.parent
read = functools.lru_cache(sources.Package)


def links(root=root):
    """{name: address from the site's home}: `name`, `Class.method`, `module.name`."""
    return read(root).links


def linkify(markdown, depth=0, seen=None, root=root):
    """Markdown whose code spans lead to the API where they are its names.

    `depth` says how many folders the page lies below the site's home. Each name is a
    link once in a section: give the cells of a notebook the same set `seen`."""
    return docstrings.linkify(markdown, read(root).prose, depth, seen)


def linkify_notebook(cells, path, root=root):
    """Make links of the names in the Markdown cells of a notebook, in place.

    `path` is relative to the folder of notebooks. What the notebook defines itself
    leads to its own module, or nowhere."""
    package = read(root)
    text = lambda cell: "".join(cell["source"])
    code = "\n".join(text(cell) for cell in cells if cell["cell_type"] == "code")
    defined = {*re.findall(r"^(?:def |class |)(\w+)(?=\(| = |:)", code, re.M)}
    own = {entry.name: entry.target for module in package.modules.values()
           for entry in module.public() if entry.notebook == path}
    names = {name: target for name, target in package.prose.items()
             if name.removesuffix("()") not in defined}
    for name, target in own.items():
        names[f"{name}()"] = target
        if f"{name}()" not in package.prose: names[name] = target
    seen = set()
    for cell in cells:
        if cell["cell_type"] != "markdown": continue
        linked = docstrings.linkify(text(cell), names, path.count("/"), seen)
        lines = linked.splitlines(keepends=True)
        cell["source"] = lines if isinstance(cell["source"], list) else linked


def plain(lines):
    """Source lines with the Markdown of their comments taken off."""
    string = r"""[^"'#]|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'"""
    comment = re.compile(rf"^((?:{string})*)(#.*)$")
    link = re.compile(r"\[([^\]]*)\]\((https?:[^)\s]*)\)")
    bare = lambda text: link.sub(r"\1, \2", text).replace("`", "")
    return [comment.sub(lambda m: m[1] + bare(m[2]), line) for line in lines
            if not line.startswith("#|")]


def linked(entries, short=False):
    """Names, with their links if any; `short`: methods without their class."""
    name = lambda entry: entry.name.split(".")[-1] if short else entry.name
    link = lambda entry: f"[`{name(entry)}`]({'../' * entry.public}{entry.target})"
    return ", ".join(f"`{e}`" if isinstance(e, str) else link(e) for e in entries)


def saying(entry):
    """A docstring as Markdown; a method without one says what the class above says."""
    if entry.doc: return docstrings.markdown(entry.doc)
    owner, name = entry.owner, entry.name.split(".")[-1]
    for base in owner.lineage()[1:] if owner else ():
        method = base.methods.get(name)
        if method and method.doc:
            return f"As {linked([method])}: " + docstrings.markdown(method.doc)
    return ""


def names_for(package, entry):
    """Where names lead within an entry: its own class and module come first."""
    known = dict(package.prose)
    owner = entry.owner or entry
    known |= {other.name: other.target for other in entry.module.public()
              if other.name in known or other.name not in package.links}
    for base in reversed(owner.lineage()):
        known |= {n: m.target for n, m in base.methods.items() if m.public}
    given = [node.arg for node in ast.walk(entry.node) if isinstance(node, ast.arg)]
    return {name: target for name, target in known.items()
            if name not in given and target not in (entry.target, owner.target)}


def chapters(package, notebooks):
    """The titles of notebooks, as links from a page of the API."""
    title = lambda name: docstrings.escape(sidebar.title(name, package.nbs))
    found = [f"[{title(name)}](../{name})" for name in notebooks]
    return " and ".join(filter(None, [", ".join(found[:-1]), found[-1]]))


def notes(package, entry):
    """What is said below a signature: docstring, origin, what it also has."""
    yield saying(entry)
    around = entry.owner if entry.owner and entry.owner.module is entry.module else None
    elsewhere = not entry.owner if around is None else around.notebook != entry.notebook
    if elsewhere and len(entry.module.notebooks) > 1:
        yield f"From {chapters(package, [entry.notebook])}."
    if entry.owner and entry.module is not entry.owner.module:
        page = entry.module.name
        yield f"Added by [`{package.name}.{page}`](../api/{page}.html)."
    if entry.alias and entry.alias.public: yield f"The same as {linked([entry.alias])}."
    for name, others in package.passed_on(entry).items():
        yield f"`**{name}` goes on to {linked(others)}."
    above = [f"from {linked([base])}: {linked(methods, short=True)}"
             for base, methods in entry.inherited()]
    if above: yield f"Inherited {'; '.join(above)}."


def mentioned(lines, names, seen):
    """Links to what a signature names in its comments and hints, once each."""
    found = re.findall(r"`([^`]+)`", "\n".join(lines))
    for line in plain(lines): found += re.findall(r"[A-Z]\w+", line.split("#")[0])
    also = {names[name]: f"[`{name}`](../{names[name]})" for name in found
            if names.get(name) and names[name] not in seen}
    seen |= {*also}
    return f"See also {', '.join(also.values())}." if also else ""


def listed(entry):
    """A name and the first sentence of what is said of it, for the list of a module."""
    paragraph = " ".join((entry.doc or "").strip().split("\n\n")[0].split())
    first = re.match(r".*?\.(?= [A-Z]|$)", paragraph) or re.match(".*", paragraph)
    said = f": {docstrings.inline(first[0])}" if first[0] else ""
    return f"* {linked([entry])}{said}"


def heading(entry):
    """A name that may part between its words; the contents leave out a method's class."""
    part = lambda name: "`<wbr>`{=html}".join(
        map(docstrings.escape, re.split(r"(?<=[a-z0-9])(?=[A-Z])|(?<=_)(?=[a-z0-9])", name)))
    *owner, name = entry.name.split(".")
    return f"[{part(owner[0])}.]{{.api-class}}{part(name)}" if owner else part(name)


def written(package, entry, seen):
    """The entry of a name, below a heading of level 2 or 3, and of its methods."""
    level = "###" if entry.owner else "##"
    names, lines = names_for(package, entry), package.signature(entry)
    shown = "\n".join(plain(lines))
    parts = [f"{level} {heading(entry)} {{#{entry.name}}}",
             f"[source]({entry.source}){{.api-source}}", f"```python\n{shown}\n```"]
    for text in filter(None, notes(package, entry)):
        parts.append(docstrings.linkify(text, names, 1, seen))
        seen |= {*re.findall(r"\]\(\.\./([^)\s]+)\)", text)}
    parts += filter(None, [mentioned(lines, names, seen)])
    for method in entry.methods.values(): parts += written(package, method, seen)
    return parts


def front(title, description):
    """The front matter of a page; a page that is made has no source to edit."""
    quoted = lambda text: json.dumps(text, ensure_ascii=False)
    return (f"---\ntitle: {quoted(title)}\ndescription: {quoted(description)}\n"
            "toc-depth: 3\nrepo-actions: false\n---")


def page(package, module):
    """The page of a module."""
    where = (f"Written in {chapters(package, module.notebooks)}; the "
             f"module's [source]({module.address}).")
    title = f"{package.name}.{module.name}"
    parts = [front(title, module.doc), where, "\n".join(map(listed, module.public()))]
    for entry in module.public(): parts += written(package, entry, set())
    return "\n\n".join(parts).replace("](../api/", "](") + "\n"


def index(package):
    """The page of all modules: where each comes from, and its public names."""
    parts = [front("API", "Every module of the package, and every name in it"),
             "Each module is written in a notebook, which tells why it is as it is. "
             "These pages say what it holds and how it is called."]
    for part, notebooks in package.parts:
        modules = [m for m in package.modules.values() if m.notebook in notebooks]
        if modules: parts.append(f"## {part} {{#part-{part.lower().replace(' ', '-')}}}")  # a module has its part's name
        for m in modules:
            title = docstrings.escape(f"{package.name}.{m.name}")
            said = docstrings.inline(m.doc.rstrip("."))
            parts += [f"### [{title}]({m.name}.html) {{#{m.name}}}",
                      f"{said}. From {chapters(package, m.notebooks)}.",
                      linked(m.public())]
    return "\n\n".join(parts).replace("](../api/", "](") + "\n"


def write(folder, root=root):
    """Write the pages into `folder/api`."""
    package = read(root)
    out = Path(folder) / "api"
    out.mkdir(parents=True, exist_ok=True)
    pages = {m.name: page(package, m) for m in package.modules.values()}
    pages["index"] = index(package)
    for name, text in pages.items():
        (out / f"{name}.qmd").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("folder", help="the site's folder of sources, such as _proc")
    write(parser.parse_args().folder)
