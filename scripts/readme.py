"""Make README.md from nbs/index.ipynb: its Markdown, its code, and what it printed."""
import argparse
import json
import re
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def text(source):
    return "".join(source)


def from_the_root(markdown):
    """Markdown whose addresses led from nbs/, and now lead from the folder above."""
    markdown = re.sub(r"\]\(\.\./", "](", markdown)
    local = r"\]\((?!https?:|#|mailto:)([\w./-]+\.(?:ipynb|png))"
    markdown = re.sub(local, r"](nbs/\1", markdown)
    return re.sub(r'\b(src|srcset)="(?!https?:|data:)', r'\1="nbs/', markdown)


def render(cell):
    """The Markdown of a cell, or None where it has nothing for a reader."""
    source = text(cell["source"]).strip()
    if cell["cell_type"] == "markdown":
        return from_the_root(source)
    hidden = re.search(r"^#\|\s*hide", source, re.M)
    if cell["cell_type"] != "code" or not source or hidden:
        return None
    lines = [line for line in source.splitlines() if not line.startswith("#|")]
    code = "\n".join(lines).strip()
    printed = "".join(
        text(output.get("text", output.get("data", {}).get("text/plain", "")))
        for output in cell["outputs"]
        if output["output_type"] in ("stream", "execute_result")).strip()
    below = "\n\n    " + printed.replace("\n", "\n    ") if printed else ""
    return f"```python\n{code}\n```" + below


def main():
    notebook = json.loads((root / "nbs" / "index.ipynb").read_text(encoding="utf-8"))
    parts = [part for part in map(render, notebook["cells"]) if part]
    head = "<!-- Made from nbs/index.ipynb by scripts/readme.py: edit that. -->\n"
    (root / "README.md").write_text("\n\n".join([head.strip(), *parts]) + "\n",
                                    encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
