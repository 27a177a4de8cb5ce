"""Write nbs/sidebar.yml: the notebooks that are there, in the order of the story, under the names of its parts, then the API."""
import argparse
import json
import re
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
WORKSHOP = ["plots", "sketchbook", "scenes", "critic", "alignment", "stickers", "negatives", "picture_files",
            "image_folder", "losses", "optimizers", "parallel", "cuda_graphs", "budget", "training",
            "runs", "report", "checks", "unet_checks", "text_checks", "pipeline_checks", "pipeline_files",
            "model_card", "flow_sigmas", "two_encoders", "lora", "t5", "files", "hub", "terminal"]
PARTS = [("Components", 1, 9), ("Maths", 10, 12), ("Putting it together", 13, 99)]


def contents(nbs=root / "nbs"):
    """[(part, [paths relative to nbs])], without the parts that are still empty."""
    numbered = {}
    for path in sorted(nbs.glob("[0-9]*.ipynb")):
        numbered.setdefault(int(re.match(r"\d+", path.name)[0]), []).append(path.name)
    between = lambda first, last: [name for number, names in numbered.items() if first <= number <= last for name in names]
    inside = lambda folder, known=(): sorted((path.relative_to(nbs).as_posix() for path in (nbs / folder).glob("*.ipynb")),
                                             key=lambda name: ([*known, Path(name).stem].index(Path(name).stem), name))
    parts = [("Story", ["index.ipynb", *between(0, 0)]), *((name, between(first, last)) for name, first, last in PARTS),
             ("Workshop", inside("workshop", WORKSHOP)), ("Appendix", inside("appendix"))]
    return [(name, paths) for name, paths in parts if paths]


def title(name, nbs=root / "nbs"):
    """What the sidebar calls a notebook: its number, if it has one, and its first line."""
    first = "".join(json.loads((nbs / name).read_text(encoding="utf-8"))["cells"][0]["source"])
    number = re.match(r"(\d+)_", name)
    return (f"{number[1]} · " if number else "") + re.match(r"# (.+)", first)[1]


def repository():
    """Where the course is published, from settings.ini."""
    settings = ConfigParser(delimiters=["="])
    settings.read(root / "settings.ini", encoding="utf-8")
    return settings["DEFAULT"]["git_url"]


def modules(parts, nbs=root / "nbs"):
    """{module: the notebook it is written in}, in the order of the course."""
    exports = re.compile(r'^\s*"?#\| *default_exp (\w+)', re.M)
    found = {path: exports.search((nbs / path).read_text(encoding="utf-8")) for _, paths in parts for path in paths}
    return {module[1]: path for path, module in found.items() if module}


def render(parts):
    """The link to the repository, then the page that paints, the parts of the course, and the API, a page a module."""
    entry = lambda depth, text, href: [f"{' ' * depth}- text: {json.dumps(text, ensure_ascii=False)}", f"{' ' * depth}  href: {href}"]
    lines = ["# Written by scripts/sidebar.py: don't edit.", "website:", "  navbar:", "    tools:", "      - icon: github",
             "        text: The course on GitHub", f"        href: {repository()}", "  sidebar:", "    contents:"]
    lines += entry(6, "Paint here", "play.qmd")
    for name, paths in parts:
        lines += [f"      - section: {name}", "        contents:"]
        for path in paths: lines += entry(10, title(path), path)
    lines += ["      - section: API", "        contents:", *entry(10, "All modules", "api/index.qmd")]
    for module in modules(parts): lines += entry(10, module, f"api/{module}.qmd")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    (root / "nbs" / "sidebar.yml").write_text(render(contents()), encoding="utf-8")
