#!/usr/bin/env python3
"""The models of the page that paints, as the browser loads them.

    python scripts/export_onnx.py [FOLDER]

Writes FOLDER/models (default: build/play): an index, the program that runs networks in
a browser (onnxruntime-web), and for each shipped model its networks as ONNX files and one
JSON with its tokenizer and noise levels. What travels is packed here (gzip) and
unpacked by the page, as not every server packs. A model whose weights and code have
not changed since is left alone. `make docs` runs this; needs onnx and onnxscript.
Nothing of it is committed.
"""
import argparse
import gzip
import hashlib
import json
import shutil
from pathlib import Path

from minidiff.files import data_folder, read_json, write_json
from minidiff.latent_diffusion import MODELS, open_run
from minidiff.play import IDEAS, export_model

root = Path(__file__).resolve().parent.parent
RUNTIME = root / "tests" / "node_modules" / "onnxruntime-web"


def made_from(name):
    """A fingerprint of a model's weights and of the code that writes them down."""
    found = hashlib.sha256()
    weights = data_folder(MODELS[name])
    modules = [root / "minidiff" / f"{module}.py" for module in
               ("play", "sketchbook", "stickers")]
    code = [*modules, Path(__file__)]
    for path in [*sorted(weights.rglob("*")), *code]:
        if path.is_file():
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def packed(path):
    """`path` packed, beside it; its name, and its bytes. The same in, the same out.

    The name ends on .gzip: servers that know .gz say that it is to be unpacked on the
    way, and others do not; so the page could not know what it gets."""
    data = gzip.compress(path.read_bytes(), 9, mtime=0)
    out = path.with_name(f"{path.name}.gzip")
    out.write_bytes(data)
    return dict(file=out.name, bytes=len(data))


def runtime_file(name):
    """A file of onnxruntime-web."""
    dist = RUNTIME / "dist"
    if not dist.exists():
        raise SystemExit(f"{RUNTIME.relative_to(root)} is missing: run `npm ci` in tests/")
    return dist / name


def runtime(out):
    """onnxruntime-web: its script, and its WebAssembly as the page downloads it."""
    shutil.copy(runtime_file("ort.wasm.bundle.min.mjs"), out / "ort.js")
    wasm = out / "ort.wasm"
    shutil.copy(runtime_file("ort-wasm-simd-threaded.wasm"), wasm)
    version = json.loads((RUNTIME / "package.json").read_text(encoding="utf-8"))["version"]
    found = dict(name="wasm", version=version, **packed(wasm))
    wasm.unlink()
    return found


def export_packed(name, out):
    """A model for the page, its networks packed."""
    shutil.rmtree(out, ignore_errors=True)
    facts = export_model(open_run(name), out, name.capitalize(), IDEAS[name], book=name)
    for file in facts["files"]:
        path = out / file["file"]
        file.update(packed(path))
        path.unlink()
    write_json(facts, out / "model.json")
    write_json({"sha256": made_from(name)}, out / "made_from.json")


def export(out):
    """Write what is not there yet; the folder of models."""
    out = Path(out) / "models"
    entries = []
    out.mkdir(parents=True, exist_ok=True)
    wasm = runtime(out)
    for name in MODELS:
        mark = out / name / "made_from.json"
        if not mark.exists() or read_json(mark) != {"sha256": made_from(name)}:
            export_packed(name, out / name)
        facts = read_json(out / name / "model.json")
        size = sum(file["bytes"] for file in [wasm, *facts["files"]])
        entries.append(dict(name=name, title=facts["title"], pixels=facts["pixels"],
                            bytes=size))
    write_json(dict(models=entries, runtime=wasm), out / "index.json")
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
