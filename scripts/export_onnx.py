#!/usr/bin/env python3
"""The models of the page that paints, as the browser loads them.

    python scripts/export_onnx.py [FOLDER]

Writes FOLDER/models (default: build/play): an index, and for each model below its
networks as ONNX files and one JSON with its tokenizer and noise levels. A model whose
weights and code have not changed since is left alone. `make docs` runs this; needs
onnx and onnxscript. Nothing of it is committed.
"""
import argparse
import hashlib
import json
from pathlib import Path

from minidiff.files import data_folder, read_json, write_json
from minidiff.latent_diffusion import open_run
from minidiff.play import IDEAS, export_model

root = Path(__file__).resolve().parent.parent
RUNTIME = root / "tests" / "node_modules" / "onnxruntime-web"
# name -> title, folder (None: the package's own), ideas to click
MODELS = {"shapes": ("Shapes", None, IDEAS)}


def made_from(folder):
    """A fingerprint of a model's weights and of the code that writes them down."""
    found = hashlib.sha256()
    weights = Path(folder) if folder else data_folder("weights")
    code = [root / "minidiff" / "play.py", Path(__file__)]
    for path in [*sorted(weights.rglob("*")), *code]:
        if path.is_file():
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def runtime_files():
    """Of onnxruntime-web, what the page needs: {its name there: the file}."""
    dist = RUNTIME / "dist"
    if not dist.exists():
        raise SystemExit(f"{RUNTIME.relative_to(root)} is missing: run `npm ci` in tests/")
    return {"ort.js": dist / "ort.wasm.bundle.min.mjs",
            "ort.wasm": dist / "ort-wasm-simd-threaded.wasm"}


def runtime():
    """onnxruntime-web's WebAssembly, as the page downloads it."""
    path = runtime_files()["ort.wasm"]
    version = json.loads((RUNTIME / "package.json").read_text(encoding="utf-8"))["version"]
    return dict(name="wasm", file="ort/ort.wasm", bytes=path.stat().st_size,
                version=version)


def export(out):
    """Write what is not there yet; the folder of models."""
    out = Path(out) / "models"
    entries = []
    for name, (title, folder, ideas) in MODELS.items():
        fingerprint = made_from(folder)
        mark = out / name / "made_from.json"
        if not mark.exists() or read_json(mark) != {"sha256": fingerprint}:
            export_model(open_run(folder), out / name, title, ideas)
            write_json({"sha256": fingerprint}, mark)
        entries.append(dict(name=name, title=title))
    write_json(dict(models=entries, runtime=runtime()), out / "index.json")
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=root / "build" / "play")
    out = export(parser.parse_args().folder)
    for path in sorted(out.rglob("*.*")):
        print(f"{path.stat().st_size:>11,}  {path.relative_to(out)}")


if __name__ == "__main__":
    main()
