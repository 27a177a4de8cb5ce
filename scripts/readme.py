"""Make README.md from nbs/index.ipynb: its Markdown, its code in fences, and what the code printed."""
import argparse
import json
import re
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def text(source):
    return "".join(source)


def render(cell):
    source = text(cell["source"]).strip()
    if cell["cell_type"] == "markdown":
        return re.sub(r"\]\((?!https?:|#|mailto:)([\w./-]+\.(?:ipynb|png))", r"](nbs/\1", re.sub(r"\]\(\.\./", "](", source))
    if cell["cell_type"] != "code" or not source or re.search(r"^#\|\s*hide", source, re.M):
        return None
    code = "\n".join(line for line in source.splitlines() if not line.startswith("#|")).strip()
    printed = "".join(text(output.get("text", output.get("data", {}).get("text/plain", ""))) for output in cell["outputs"]
                      if output["output_type"] in ("stream", "execute_result")).strip()
    return f"```python\n{code}\n```" + (f"\n\n    " + printed.replace("\n", "\n    ") if printed else "")


def main():
    notebook = json.loads((root / "nbs" / "index.ipynb").read_text(encoding="utf-8"))
    parts = [part for part in map(render, notebook["cells"]) if part]
    head = "<!-- Made from nbs/index.ipynb by scripts/readme.py: edit that. -->\n"
    (root / "README.md").write_text("\n\n".join([head.strip(), *parts]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
