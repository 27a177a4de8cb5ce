"""What the package defines, read from its text and not imported; for scripts/api.py."""
import ast
import functools
import re
import textwrap
from collections import Counter
from configparser import ConfigParser
from dataclasses import dataclass, field
from pathlib import Path

import sidebar

root = Path(__file__).resolve().parent.parent
LONG = 12  # the most lines of a value that is shown
# what tells how a thing is used; other decorators tell how it is made
DECORATORS = ("classmethod", "staticmethod", "property", "cached_property",
              "contextmanager", "dataclass", "no_grad")
SPECIAL = ("__call__", "__len__", "__getitem__")  # two of them if documented
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINED = (*FUNCTIONS, ast.ClassDef)


def setter(node):
    """Is a function what a property does when it is set or deleted?"""
    made = map(ast.unparse, node.decorator_list)
    return any(name.endswith((".setter", ".deleter")) for name in made)


@dataclass(eq=False)
class Entry:
    """A name: where it stands, how it looks, what it says."""
    name: str  # `Class.method` for a method
    module: "Module"
    node: ast.AST  # its definition
    owner: "Entry" = None  # the class that a method belongs to
    alias: "Entry" = None  # what it is another name of
    bases: list = field(default_factory=list)  # of a class, those in the package
    methods: dict = field(default_factory=dict)

    @property
    def public(self):
        return not re.match(r"_(?!_)", self.name)

    @property
    def doc(self):
        return ast.get_docstring(self.node) if isinstance(self.node, DEFINED) else None

    @property
    def notebook(self):
        """The notebook, below the folder of notebooks, whose cell defines it."""
        above = [name for line, name in self.module.cells if line < self.node.lineno]
        return above[-1] if above else self.module.notebook

    @property
    def target(self):
        """Its address, from the site's home."""
        home = self.owner.module if self.owner else self.module
        return f"api/{home.name}.html#{self.name}" if self.public else self.source

    @property
    def source(self):
        """Its lines on GitHub, decorators and all."""
        decorators = getattr(self.node, "decorator_list", [])
        first = min(node.lineno for node in [self.node, *decorators])
        last = self.node.end_lineno
        return f"{self.module.address}#L{first}" + f"-L{last}" * (last > first)

    def lineage(self):
        """A class and those above it, in the order in which Python asks them."""
        above = [entry for base in self.bases for entry in base.lineage()]
        return [self, *(e for i, e in enumerate(above) if e not in above[i + 1:])]

    def inherited(self):
        """[(class above, [its methods that are not replaced below])]"""
        seen, found = {*self.methods}, []
        for base in self.lineage()[1:]:
            new = [m for name, m in base.methods.items() if name not in seen]
            found.append((base, new))
            seen |= {*base.methods}
        return [(base, methods) for base, methods in found if methods]


class Module:
    """The text of a module, and what it defines and imports.

    `notebook` is the one that names it; others may add cells: `notebooks` are all."""
    def __init__(self, name, path, notebook, address, nbs="nbs"):
        self.name, self.notebook, self.address = name, notebook, address
        self.lines = path.read_text(encoding="utf-8").splitlines()
        self.tree = ast.parse("\n".join(self.lines))
        origin = re.compile(rf"# %% \.\./{re.escape(nbs)}/(\S+\.ipynb)")
        found = [(i, origin.match(line)) for i, line in enumerate(self.lines, 1)]
        self.cells = [(i, match[1]) for i, match in found if match]
        self.notebooks = [*dict.fromkeys([notebook, *(name for _, name in self.cells)])]
        self.doc = (ast.get_docstring(self.tree) or "").strip()
        self.all, self.imports, self.entries = [], {}, {}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                for name in node.names:
                    self.imports[name.asname or name.name] = node.module, name.name
            if isinstance(node, ast.Assign) and ast.unparse(node.targets) == "__all__":
                self.all = ast.literal_eval(node.value)

    def public(self):
        return [entry for name, entry in self.entries.items() if name in self.all]

    def above(self, node):
        """The lines of the comment above a node."""
        first = node.lineno - 1
        while re.match(r"\s*#(?! ?%%)", self.lines[first - 1]): first -= 1
        return self.lines[first:node.lineno - 1]

    def statement(self, node):
        return [*self.above(node), *self.lines[node.lineno - 1:node.end_lineno]]

    def header(self, node):
        """How the source of a function or class begins, up to its body."""
        body = node.body[0]
        lines = self.lines[node.lineno - 1:body.lineno]
        lines[-1] = lines[-1].encode()[:body.col_offset].decode()
        while not lines[-1].strip() or lines[-1].lstrip()[0] in "#@": lines.pop()
        named = [(ast.unparse(getattr(d, "func", d)), d) for d in node.decorator_list]
        kept = [f"@{ast.unparse(d)}" for name, d in named
                if name.split(".")[-1] in DECORATORS]
        if "as_prop=True" in "".join(ast.unparse(d) for _, d in named):
            kept.append("@property")
        return kept + textwrap.dedent("\n".join(map(str.rstrip, lines))).splitlines()

    def fields(self, entry):
        """The lines of a class's fields, and of its attributes that have a comment."""
        methods = {id(method.node) for method in entry.methods.values()}
        lines = []
        for part in entry.node.body:
            a_field = isinstance(part, ast.AnnAssign)
            if not a_field and not isinstance(part, ast.Assign): continue
            if id(part) in methods or ast.unparse(part).startswith("_"): continue
            source = self.statement(part)
            if source == lines[-len(source):]: continue  # a second one on its line
            if a_field or "#" in "".join(source): lines += source
        return lines


class Package:
    """All modules, in the order of the course, and their public names."""
    def __init__(self, root=root):
        settings = ConfigParser(delimiters=["="])
        settings.read(root / "settings.ini", encoding="utf-8")
        cfg = settings["DEFAULT"]
        self.name, self.nbs = cfg["lib_path"], root / cfg["nbs_path"]
        self.parts = sidebar.contents(self.nbs)
        self.modules = {}
        for name, notebook in sidebar.modules(self.parts, self.nbs).items():
            path = root / self.name / f"{name}.py"
            address = f"{cfg['git_url']}/blob/{cfg['branch']}/{self.name}/{name}.py"
            self.modules[name] = Module(name, path, notebook, address, cfg["nbs_path"])
        for step in (self.define, self.fill, self.assign):
            for module in self.modules.values(): step(module)

    def define(self, module):
        """Note a module's functions, classes and constants."""
        for node in module.tree.body:
            decorators = map(ast.unparse, getattr(node, "decorator_list", ()))
            if "patch_to(" in "".join(decorators): continue
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            names = [n.id for t in targets if t for n in ast.walk(t)
                     if isinstance(n, ast.Name) and n.id in module.all]
            if isinstance(node, DEFINED): names = [node.name]
            for name in names:
                again = isinstance(node, DEFINED)  # overloads: the last one is called
                if again or name not in module.entries:
                    module.entries[name] = Entry(name, module, node)

    def find(self, module, name):
        """The entry that a name in a module's code stands for, or None."""
        head, _, rest = name.partition(".")
        there, known = module.imports.get(head, (module.name, head))
        home = self.modules.get(there)
        entry = home and home.entries.get(known)
        return entry.methods.get(rest) if entry and rest else entry

    def fill(self, module):
        """Give classes their bases and methods, those from outside their body too."""
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                owner = module.entries[node.name]
                bases = [self.find(module, ast.unparse(base)) for base in node.bases]
                owner.bases = [base for base in bases if base]
                for part in node.body:
                    if not isinstance(part, FUNCTIONS) or setter(part): continue
                    self.take(owner, module, part, part.name)
            for decorator in getattr(node, "decorator_list", ()):
                patched = re.match(r"patch_to\(([\w.]+)", ast.unparse(decorator))
                owner = patched and self.find(module, patched[1])
                if owner: self.take(owner, module, node, node.name)

    def assign(self, module):
        """The methods and properties that are made by an assignment."""
        order = [*self.modules]
        wrapped = re.compile(r"(?:property|staticmethod|classmethod)\((.*)\)$", re.S)
        for owner in module.entries.values():
            if not isinstance(owner.node, ast.ClassDef): continue
            for node in owner.node.body:
                if not isinstance(node, ast.Assign): continue
                target, value = node.targets[0], node.value
                pairs = [(target, value)]
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                    pairs = zip(target.elts, value.elts)
                for name, value in [map(ast.unparse, pair) for pair in pairs]:
                    made = wrapped.match(value)
                    code = made[1] if made else value
                    alias = owner.methods.get(code) or self.alias(module, code)
                    if made or alias: self.take(owner, module, node, name, alias)
            owner.methods = dict(sorted(owner.methods.items(), key=lambda item: (
                item[1].module is not module, order.index(item[1].module.name),
                item[1].node.lineno)))

    def take(self, owner, module, node, name, alias=None):
        """Note a method, unless it is private."""
        doc = isinstance(node, DEFINED) and ast.get_docstring(node)
        if not name.startswith("_") or name in SPECIAL[:1] or name in SPECIAL and doc:
            full = f"{owner.name}.{name}"
            owner.methods[name] = Entry(full, module, node, owner, alias)

    def alias(self, module, code):
        """The function or method of the package that code stands for, or None."""
        entry = self.find(module, code) if re.fullmatch(r"[\w.]+", code) else None
        return entry if entry and isinstance(entry.node, FUNCTIONS) else None

    @functools.cached_property
    def links(self):
        """{name, `Class.method` or `module.name`: address from the site's home}"""
        public = [e for m in self.modules.values() for e in m.public()]
        known = [*public, *(e for owner in public for e in owner.methods.values())]
        count = Counter(entry.name for entry in known)
        found = {entry.name: entry.target for entry in known if count[entry.name] == 1}
        for entry in public:
            found[f"{entry.module.name}.{entry.name}"] = entry.target
        pages = {f"{self.name}.{name}": f"api/{name}.html" for name in self.modules}
        return found | pages

    @functools.cached_property
    def prose(self):
        """The names for prose: what is a parameter too is a link only with `()`."""
        parameters = {node.arg for module in self.modules.values()
                      for node in ast.walk(module.tree) if isinstance(node, ast.arg)}
        return {f"{name}()" if name in parameters else name: target
                for name, target in self.links.items()}

    def signature(self, entry):
        """The lines of source that show how a thing is called, or what a name holds."""
        node, module = entry.node, entry.module
        if isinstance(node, FUNCTIONS): return module.header(node)
        if not isinstance(node, ast.ClassDef):
            lines = textwrap.dedent("\n".join(module.statement(node))).splitlines()
            if len(lines) <= LONG: return lines
            short = f"{entry.name} = ...  # {len(lines)} lines: see the source"
            return [*module.above(node), short]
        lines = module.fields(entry)
        data = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
        for base in [] if data else entry.lineage():
            made = [n for n in base.node.body if getattr(n, "name", "") == "__init__"]
            note = [] if base is entry else [f"    # as {base.name}"]
            if not made: continue
            header = [line for line in base.module.header(made[0]) if line[0] != "@"]
            lines += note + [f"    {line}" for line in header]
            break
        return module.header(node) + lines

    def passed_on(self, entry):
        """{name of a function's `**options`: [entries, or other names, with them]}"""
        node, owner = entry.node, entry.owner or entry
        if isinstance(node, ast.ClassDef):
            inits = [n for n in node.body if getattr(n, "name", "") == "__init__"]
            node = (inits or [node])[0]
        rest = getattr(getattr(node, "args", None), "kwarg", None)
        above = [ast.unparse(base) for base in getattr(owner.node, "bases", ())]
        found = []
        for call in ast.walk(node) if rest else ():
            given = [k.value for k in getattr(call, "keywords", ()) if k.arg is None]
            words = {getattr(n, "id", "") for value in given for n in ast.walk(value)}
            if rest.arg not in words: continue
            name = ast.unparse(call.func)
            name = above[0] if above and name == "super().__init__" else name
            own = owner.methods.get(re.sub(r"^(self|cls)\.", "", name))
            got = own or self.find(entry.module, name)
            if got and not got.public: found += self.passed_on(got).get(rest.arg, [])
            elif got: found.append(got)
            elif name in (*above, "dict"): found.append(name)
        found = [other for other in dict.fromkeys(found) if other is not entry]
        return {rest.arg: found} if found else {}
