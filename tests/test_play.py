"""The page that paints: its JavaScript beside our Python, and the page in a browser."""
import functools
import json
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import unicodedata
import urllib.error
import urllib.request
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from conftest import environment
from minidiff import play
from minidiff.checks import ConfigError
from minidiff.cli import unknown_words
from minidiff.conditioning import guide
from minidiff.files import data_folder
from minidiff.latent_diffusion import MODELS as SHIPPED, open_run
from minidiff.plots import to_uint8
from minidiff.samplers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from minidiff.sketchbook import Sketchbook, compare, wilson
from minidiff.stickers import STICKERS, StickerBook, complete_names
from pages import NOTEBOOKS, cfg, here, root
from test_browser import ready

sys.path.insert(0, str(root / "scripts"))
import docs  # noqa: E402
import judge  # noqa: E402
import ship_stickers  # noqa: E402

PLAY = data_folder("play")


BOOKS = {"shapes": lambda: Sketchbook(32), "stickers": lambda: StickerBook(64)}
MODELS = [*BOOKS]
assert MODELS == [*SHIPPED] == [*play.IDEAS]


@functools.cache
def opened(model):
    return open_run(model)


@pytest.fixture(scope="module")
def pipe():
    return opened("shapes")


def node(code, given):
    """Run a module that imports the page's files: `given` is there, `answer` is returned."""
    if not shutil.which("node"):
        pytest.skip("no node on the PATH: no JavaScript was run")
    script = (f'const at = "{PLAY.as_uri()}/";\n'
              'import { readFileSync } from "node:fs";\n'
              'const given = JSON.parse(readFileSync(0, "utf-8"));\n'
              f"{code}\nconsole.log(JSON.stringify(answer));")
    ran = subprocess.run(["node", "--input-type=module", "-e", script], text=True,
                         input=json.dumps(given), capture_output=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout)


# ---------------------------------------------------------------- JavaScript beside Python

def test_the_noise_is_the_same():
    seeds = [0, 1, 7, 12345, 2**31, 2**32 - 1]
    bits, noise = node("""
        const { noiseBits, seededNoise } = await import(at + "noise.js");
        const places = Array.from({ length: 300 }, (_, i) => i);
        const answer = [given.map(seed => places.map(i => noiseBits(seed, i))),
                        given.map(seed => [...seededNoise(301, seed)])];""", seeds)
    assert bits == [play.noise_bits(seed, 300).tolist() for seed in seeds]
    for seed, found in zip(seeds, noise):
        torch.testing.assert_close(torch.tensor(found), play.seeded_noise((301,), seed),
                                   rtol=3e-7, atol=1e-7)


def strings(book, n=2000):
    """Captions, and all that may be typed: every kind of character, and CLIP's own tokens."""
    dice = random.Random(0)
    generator = torch.Generator().manual_seed(0)
    scenes = book.sample_scenes(n // 3, generator)
    found = dict.fromkeys(book.caption(scenes, generator)[0])
    letters = [chr(c) for c in range(0x3000) if unicodedata.category(chr(c)) != "Cn"]
    letters += list("日本語한국어🦊🎨𝔸ﬁ①Ⅷ½") + [chr(c) for c in range(0xf900, 0xfa00)]
    words = ["<|endoftext|>", "<|startoftext|>", "it's", "I'LL", "'s", "!'d", "circle", "RED",
             "pizza", "jack-o-lantern", " ", "\t", "  ", "\x85", "\u3000", "\ufeff", "\x1c", "İ", "Σ", "e\u0301", "x" * 60]
    while len(found) < n:
        parts = [dice.choice(words) if dice.random() < 0.3 else
                 "".join(dice.choices(letters if dice.random() < 0.5 else letters[:128], k=dice.randint(1, 6)))
                 for _ in range(dice.randint(0, 12))]
        found[dice.choice(["", " "]).join(parts)] = None
    return [*found]


@pytest.mark.filterwarnings("ignore:cut the last")
@pytest.mark.parametrize("model", MODELS)
def test_the_tokenizer_gives_the_same_ids(model):
    pipe = opened(model)
    texts = strings(BOOKS[model]())
    facts = play.model_facts(pipe, model)["tokenizer"]
    rows, unknown = node("""
        const { CLIPTokenizer } = await import(at + "tokenizer.js");
        const tokenizer = new CLIPTokenizer(given.facts);
        const answer = [given.texts.map(text => tokenizer.encode(text)),
                        given.texts.map(text => tokenizer.unknownWords(text))];""",
                         dict(texts=texts, facts=facts))
    expected = pipe.tokenizer(texts, padding="max_length").input_ids
    assert len(texts) == 2000 and len(set(map(tuple, expected))) > 1800
    wrong = [text for text, row, other in zip(texts, rows, expected) if row != other]
    assert wrong == []
    assert sum(map(bool, unknown)) > 500
    for text, words in zip(texts, unknown):
        assert words == list(dict.fromkeys(unknown_words(pipe.tokenizer, text))), text


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_sampler_takes_the_same_steps(pipe, kind):
    scheduler = DPMSolverMultistepScheduler.from_config(
        play.page_scheduler(pipe).config, prediction_type=kind)
    counts = [1, 2, 3, 7, 14, 15, 16, 33, 50, 100]
    tables = dict(sigmas=[float(sigma) for sigma in scheduler._table()], prediction_type=kind)
    answers = play.seeded_noise((max(counts), 6), 1)
    ends, times = node("""
        const { DPMSolverMultistepScheduler } = await import(at + "sampler.js");
        const paint = n => {
          const sampler = new DPMSolverMultistepScheduler(given.tables, n);
          let x = Float32Array.from(given.start);
          for (let i = 0; i < n; i++) x = sampler.step(Float32Array.from(given.answers[i]), x, i).next;
          return [[...x], sampler.timesteps];
        };
        const all = given.counts.map(paint);
        const answer = [all.map(one => one[0]), all.map(one => one[1])];""",
        dict(tables=tables, counts=counts, answers=answers.tolist(), start=play.seeded_noise((6,), 2).tolist()))
    for n, end, visited in zip(counts, ends, times):
        scheduler.set_timesteps(n)
        assert scheduler.timesteps.tolist() == visited
        x = play.seeded_noise((6,), 2)
        for t, answer in zip(scheduler.timesteps, answers):
            x = scheduler.step(answer, t, x).prev_sample
        # at the top all is noise, and epsilon is divided by what is left of the picture
        scale = max(1.0, x.abs().max().item())
        torch.testing.assert_close(torch.tensor(end) / scale, x / scale, rtol=1e-4, atol=1e-4)


def test_guidance_is_the_same():
    one, other = play.seeded_noise((2, 50), 3)
    scales = [-2, 0, 0.5, 1, 2, 7.5]
    found = node("""
        const { guide } = await import(at + "sampler.js");
        const [one, other] = given.pair.map(row => Float32Array.from(row));
        const answer = given.scales.map(scale => [...guide(one, other, scale)]);""",
                 dict(pair=[one.tolist(), other.tolist()], scales=scales))
    for scale, row in zip(scales, found):
        torch.testing.assert_close(torch.tensor(row), guide(one, other, scale), rtol=1e-5, atol=1e-5)


def shortened(n=1500):
    """Sentences with whole names, parts of names, and what else may be typed."""
    dice = random.Random(1)
    pieces = sorted({word for name in STICKERS for word in name.split()}) + STICKERS
    between = ["above", "to the left of", "on a pink background", "in the top left corner, a", "and", ",", "!", "below an",
               "zebra", "green", "big", "of", "hot-pink background", "the", "a", "an", "A", "É", "ſ"]
    for _ in range(n):
        parts = ["a" if dice.random() < 0.6 else dice.choice(between)]
        for _ in range(dice.randint(1, 6)):
            parts.append(dice.choice(pieces if dice.random() < 0.5 else between))
        text = " ".join(parts)
        yield text if dice.random() < 0.8 else dice.choice([text.upper(), text.title(), text.replace(" ", "-", 2)])


def test_short_names_are_completed_alike():
    texts = [" ".join(text.split()) for text in [*shortened(), *strings(StickerBook(64), 900)]]
    facts = play.model_facts(opened("stickers"), "x", book="stickers")
    found = node("""
        const { Names } = await import(at + "names.js");
        const names = new Names({ things: given.facts.knows.things, ...given.facts.names });
        const answer = given.texts.map(text => names.complete(text));""", dict(texts=texts, facts=facts))
    expected = [complete_names(text) for text in texts]
    wrong = [(text, one["text"], other) for text, one, (other, _) in zip(texts, found, expected) if one["text"] != other]
    assert wrong == []
    assert [len(one["notes"]) for one in found] == [len(notes) for _, notes in expected]
    assert 200 < sum(text != other for text, (other, _) in zip(texts, expected)) < 2000
    assert not play.model_facts(opened("shapes"), "x", book="shapes").get("names")


# ---------------------------------------------------------------- what the page is told

def test_a_model_that_the_page_cannot_paint_with_is_refused():
    pipe = open_run()
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, prediction_type="sample")
    with pytest.raises(ConfigError, match="epsilon or v_prediction"):
        play.model_facts(pipe, "x")


def test_the_pipelines_own_scheduler_comes_back(pipe):
    own = pipe.scheduler
    other = EulerDiscreteScheduler.from_config(own.config)
    picture = play.paint_as_page(pipe, "a red circle", 1, steps=3)
    pipe.scheduler = other
    try:
        assert torch.equal(play.paint_as_page(pipe, "a red circle", 1, steps=3), picture)
        assert pipe.scheduler is other
    finally:
        pipe.scheduler = own


def test_weights_are_halved_only_where_nothing_is_lost():
    from onnx import TensorProto, helper, numpy_helper
    whole = np.arange(100, dtype=np.float32)
    lossy = whole + np.float32(1e-3)
    given = [numpy_helper.from_array(whole, "whole"), numpy_helper.from_array(lossy, "lossy")]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [100])
    graph = helper.make_graph([helper.make_node("Add", ["whole", "lossy"], ["y"])], "g", [], [out], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert play.halve_weights(model) == 100
    kinds = {weight.name: weight.data_type for weight in model.graph.initializer}
    assert kinds == {"whole.half": TensorProto.FLOAT16, "lossy": TensorProto.FLOAT}
    import onnxruntime
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert (session.run(None, {})[0] == whole + lossy).all()


def test_the_names_of_chapters_lead_to_their_pages():
    pages = {re.sub(r"^\d+_", "", name).replace(".ipynb", ".html") for name in NOTEBOOKS}
    linked = re.findall(r'\["([\w/]+\.html)"', (PLAY / "cards.js").read_text(encoding="utf-8"))
    assert len(linked) >= 7 and set(linked) <= pages
    assert f'data-home="{cfg["doc_host"]}{cfg["doc_baseurl"]}/"' in (PLAY / "index.html").read_text(encoding="utf-8")
    page = (root / "nbs" / "play.qmd").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([\w/.]+\.ipynb)\)", page): assert target in NOTEBOOKS, target
    own = re.findall(rf"{re.escape(cfg['git_url'])}/(?:blob|tree)/{cfg['branch']}/([\w/.]+)\)", page)
    assert own and [path for path in own if not (root / path).exists()] == []


def test_the_files_name_no_other_place():
    for path in PLAY.iterdir():
        found = re.findall(r"https?://[^\s\"'`)]+", path.read_text(encoding="utf-8"))
        assert [url for url in found if not url.startswith(cfg["doc_host"])] == [], path.name


# ---------------------------------------------------------------- in a browser

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_): pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of the page with its models, as the site has it."""
    ready()
    folder = tmp_path_factory.mktemp("site") / "play"
    docs.paints(folder)
    shutil.copy(PLAY / "index.html", folder)
    handler = functools.partial(Quiet, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def browse(address, what, given=None):
    """What play.mjs found."""
    command = ["node", "play.mjs", ready(), address, what, *([str(given)] if given else [])]
    ran = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=1800)
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr[-3000:]
    return json.loads(ran.stdout)


def held_out(model, n, seed=5):
    kinds = {"shapes": ("one_object", "two_objects"), "stickers": [*ship_stickers.KINDS]}[model]
    draw = {"shapes": functools.partial(judge.held_out, 32), "stickers": ship_stickers.held_out}[model]
    return [draw(n // 2, kind, seed) for kind in kinds]


def painted(site, tmp_path, model, settings):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(dict(model=model, settings=settings)))
    found = browse(site[1], "paint", path)
    assert found["said"] == [] and found["elsewhere"] == []
    return np.array(found["pictures"], dtype=int)


@pytest.mark.parametrize("model", MODELS)
def test_the_page_paints_what_python_paints(site, model, tmp_path):
    pipe = opened(model)
    captions = [caption for some, _ in held_out(model, 20) for caption in some]
    ways = [dict(steps=15, scale=2.0, negative=""), dict(steps=6, scale=4.5, negative=play.IDEAS[model][0]),
            dict(steps=20, scale=1.0, negative="")]
    seeds = [*range(20)]
    settings = [dict(prompt=caption, seed=seed, **way) for way in ways for caption, seed in zip(captions, seeds)]
    pictures = painted(site, tmp_path, model, settings)
    expected = np.concatenate([
        to_uint8(play.paint_as_page(pipe, captions, seeds, way["negative"], way["steps"], way["scale"]))
        for way in ways]).reshape(len(settings), -1).astype(int)
    assert expected.std() > 20
    worst = np.abs(pictures - expected).max(1)
    print("largest difference of a pixel, of 255:", worst.reshape(3, -1).max(1))
    assert worst.max() <= 2


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_the_page_is_as_accurate_as_python(site, model, tmp_path):
    pipe, book = opened(model), BOOKS[model]()
    groups = held_out(model, 200)
    captions = [caption for some, _ in groups for caption in some]
    settings = [dict(prompt=caption, seed=seed, negative="", steps=15, scale=2.0) for seed, caption in enumerate(captions)]
    pictures = painted(site, tmp_path, model, settings).reshape(-1, book.size, book.size, 3)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    reference = play.paint_as_page(pipe, captions, [*range(200)])
    critic = book.critic()
    right = {}
    for name, all_images in (("page", images), ("Python", reference)):
        found = [compare(critic.read(some), scenes)["whole"] for some, (_, scenes) in zip(all_images.split(100), groups)]
        right[name] = torch.cat([(fits | ~asked).all(1) for fits, asked in found])
    counts = {name: some.sum().item() for name, some in right.items()}
    different = (right["page"] != right["Python"]).sum().item()
    print(model, counts, "of 200,", "95%:", [round(end, 3) for end in wilson(counts["page"], 200)],
          "different verdicts:", different)
    assert counts["page"] > 180 and different <= 2


def test_a_visit(site, pipe):
    found = browse(site[1], "visit")
    folder, address = site
    assert found["said"] == [] and found["elsewhere"] == []
    before = {url.removeprefix(address).partition("?")[0] or "index.html" for url in found["before"] if url.startswith(address)}
    weight = sum((folder / name).stat().st_size for name in before)
    print(f"{weight / 1e3:.0f} kB before a click; first picture {found['first']} ms, {found['ms'] / 15:.0f} ms a step")
    assert "play.js" in before and weight < 200e3 and not any(name.endswith((".onnx", ".wasm")) for name in before)
    idea = play.IDEAS["shapes"][0]
    expected = to_uint8(play.paint_as_page(pipe, idea, 0)).reshape(-1).astype(int)
    assert np.abs(np.array(found["picture"]) - expected).max() <= 2
    assert re.search(r"fetches the painter, \d+ MB", found["greeting"]) and "15 steps in" in found["done"]
    assert "prompt=a+red+circle" in found["address"] and "seed=0" in found["address"]
    assert found["start"] == "Before step 1 of 15" and found["second"] == "Before step 2 of 15"
    assert re.fullmatch(r"The canvas: \d+% noise", found["noise"]) and found["end"].startswith("The end")
    assert found["bar"] == "Before step 8 of 15" and found["round"].endswith(": 8 of 15")
    assert len(found["sides"]) == 2 and "guidance 2" in found["sides"][0] and "guidance 1" in found["sides"][1]
    assert "last visit" in found["welcome"] and found["again"] == []


def test_the_download_is_small(site):
    models = site[0] / "models"
    index = json.loads((models / "index.json").read_text(encoding="utf-8"))
    runtime = index["runtime"]
    assert [entry["name"] for entry in index["models"]] == MODELS
    for entry in index["models"]:
        facts = json.loads((models / entry["name"] / "model.json").read_text(encoding="utf-8"))
        there = [(models / runtime["file"], runtime["bytes"])]
        there += [(models / entry["name"] / file["file"], file["bytes"]) for file in facts["files"]]
        for path, size in there: assert path.stat().st_size == size
        print(f"{entry['name']}: {entry['bytes'] / 1e6:.1f} MB")
        assert sum(size for _, size in there) == entry["bytes"] < 30e6
        assert len(facts["ideas"]) == len(play.IDEAS[entry["name"]])
        assert len(facts["knows"]["things"]) == {"shapes": 6, "stickers": len(STICKERS)}[entry["name"]]


def test_another_model(site):
    found = browse(site[1], "stickers")
    assert found["said"] == [] and found["elsewhere"] == []
    first, idea = play.IDEAS["shapes"][0], play.IDEAS["stickers"][0]
    assert [re.sub(r"\d+ MB", "MB", option) for option in found["options"]] == ["Shapes, 32 × 32, MB", "Stickers, 64 × 64, MB"]
    assert found["prompts"] == [first, idea, "my own zebra"]
    assert "model=stickers" in found["address"] and "15 steps in" in found["done"]
    assert found["numbers"] == [["256 numbers", "3,072 numbers"], [], ["1,024 numbers", "12,288 numbers"]]
    assert found["waits"][0] == "1,024 numbers" and "model=stickers" in found["waits"][1]
    assert "“fox” is taken for “fox face”" in found["completed"] and "“tree” may be any of" in found["completed"]
    assert "fox" in found["tokens"][0] and "face" in found["tokens"][0] and found["tokens"][1].startswith("not")
    assert "never met “my”, “own”, “zebra”" in found["unknown"] and "owl" in found["known"]
    print(f"first picture {found['first']} ms, {found['ms'] / 15:.0f} ms a step")
    expected = to_uint8(play.paint_as_page(opened("stickers"), idea, 0)).reshape(-1).astype(int)
    assert np.abs(np.array(found["picture"]) - expected).max() <= 2
    assert found["again"] == ["stickers", "my own zebra"]
    assert found["hasty"] == ["shapes", "shapes"] and "choose it again" in found["gone"]


def test_wrong_input_is_answered_in_a_line(site, pipe):
    found = browse(site[1], "wrong")
    assert found["said"] == [] and found["elsewhere"] == []
    for key, said in found.items():
        if match := re.match(r"(steps|scale|seed) ", key):
            name = {"scale": "guidance"}.get(match[1], match[1])
            assert re.fullmatch(rf"{name}: a (whole )?number from .* to .*, please\.", said), (key, said)
    assert "Without words he paints anything" in found["empty"]
    assert "2 steps in" in found["long"] and "never met “wonderful”;" in found["long"]
    assert "never met" in found["emoji"] and "“🦊”" in found["emoji"]
    assert "never met “aaaa" in found["one word"] and len(found["one word"]) < 300
    assert "2 steps in" in found["half"] and "2 steps in" in found["special"]
    assert "tep" in found["double"] and "Stopped" not in found["double"]
    assert "40 steps in" in found["clicks"]
    expected = to_uint8(play.paint_as_page(pipe, "a blue star", 0, steps=40)).reshape(-1).astype(int)
    assert np.abs(np.array(found["picture"]) - expected).max() <= 2
    assert found["stopped"].startswith("Stopped") and found["still"] == found["stopped"]
    assert found["halted"].startswith("seed: ") and found["halted"].endswith("The painting was stopped.")
    assert found["corrected"] == ["prompt", "steps: a whole number from 1 to 100, please."]
    assert found["answers"] == ["but no", "with", "difference"]
    assert "only what it is not to be is heard" in found["guidance 0"] and "is not heard" in found["guidance 1"] and "3 times the way" in found["guidance 3"]
    assert found["sent"][0] == "noise from seed 7" and "green" in found["sent"][1] and "circle" not in found["sent"][1]
    assert "reads only the first 30 pieces" in found["long"]


def test_the_live_figure_of_a_chapter(site, pipe):
    folder, address = site
    prompts = play.IDEAS["shapes"][:2]
    div = f'<div class="play-live" data-live="steps" data-prompts="{"|".join(prompts)}">On the site, this paints.</div>'
    page = docs.finished(f'<html><head><title>x</title><link rel="icon" href="data:,"></head><body>{div}</body></html>', "")
    assert page.count("play/figure.js") == 1 == docs.finished(page, "").count("play/figure.js")
    assert "play/" not in docs.finished("<html><head></head><body></body></html>", "")
    (folder / "live.html").write_text(re.sub('="play/', '="', page), encoding="utf-8")
    found = browse(address, "live")
    assert found["said"] == []
    for steps, pictures in ((15, found["first"]), (1, found["second"])):
        expected = to_uint8(play.paint_as_page(pipe, prompts, [0, 1], steps=steps)).reshape(2, -1).astype(int)
        assert np.abs(np.array(pictures) - expected).max() <= 2


def test_what_is_missing_is_said(site):
    found = browse(site[1], "broken")
    assert "did not come (only 1000 of" in found["cut"] and "Press Paint" in found["cut"]
    assert "steps in" in found["mended"]
    assert "did not come" in found["spoilt"] and "steps in" in found["replaced"]
    assert "did not come" in found["gone"] and "no WebAssembly" in found["old"]
    assert found["still"].startswith("data:image/png")


# ---------------------------------------------------------------- the command

def started(*argv):
    return subprocess.Popen([sys.executable, "-m", "minidiff", "play", *argv], text=True, env=environment(),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))


def test_the_command_serves_a_page_that_paints(pipe):
    ready()
    with started("--port", "0") as process:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
        try:
            found = browse(address, "served")
            with pytest.raises(urllib.error.HTTPError, match="404"): urllib.request.urlopen(address + 5000 * "x" + ".js")
            for asked in (b"GET /play.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"POST /run/shapes/unet HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n"):
                with socket.create_connection(("127.0.0.1", int(address[:-1].rpartition(":")[2]))) as gone:  # and it is reset at once
                    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    gone.sendall(asked)
            taken = started("--port", address.rstrip("/").rpartition(":")[2]).communicate(timeout=120)[1]
        finally:
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=60)
    assert found["said"] == [] and found["elsewhere"] == []
    expected = to_uint8(play.paint_as_page(pipe, play.IDEAS["shapes"][0], 0)).reshape(-1).astype(int)
    assert np.abs(np.array(found["picture"]) - expected).max() <= 2
    second = to_uint8(play.paint_as_page(opened("stickers"), play.IDEAS["stickers"][0], 0)).reshape(-1).astype(int)
    assert np.abs(np.array(found["second"]) - second).max() <= 2
    assert process.returncode == 0 and rest == ("\nclosed\n", "")
    assert re.fullmatch(r"error: --port: \d+ cannot be used \(.*\); --port 0 takes one that is free\n", taken)
