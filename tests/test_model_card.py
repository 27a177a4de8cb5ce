"""The model card of a pipeline, as huggingface_hub reads it; and what is sent to the Hub, to a stand-in for it."""
import http.server
import json
import threading
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from PIL import Image

from minidiff.checks import ConfigError, LoadError
from minidiff.files import read_json
from minidiff.model_card import CARD_FILE, GRID_FILE, PipelineCard, as_card, card_text, keeps_card
from minidiff.pipeline import LatentDiffusionPipeline
from test_pipeline import OTHER, PROMPT

CARD = dict(title="A *small* painter", about="Random weights.\n\nFor tests.", prompts=[PROMPT, OTHER, "a | b\n<script>"], settings=dict(num_inference_steps=2, negative_prompt="red"),
            seed=3, results={"right": (0.75, 0.5, 0.875), "FID": 12}, measured_on="40 prompts, held out", license="apache-2.0", tags=["shapes"])


def test_the_card_is_what_huggingface_hub_reads(ours, tmp_path):
    ours.save_pretrained(tmp_path / "painter", card=CARD)
    file = tmp_path / "painter" / CARD_FILE
    card = ModelCard.load(file)
    data = card.data.to_dict()
    assert str(card) == file.read_text(encoding="utf-8")  # nothing is lost or changed
    assert (data["license"], data["library_name"], data["pipeline_tag"], data["language"]) == ("apache-2.0", "diffusers", "text-to-image", "en")
    assert data["tags"] == ["minidiff", "stable-diffusion", "shapes"]
    assert card.data.model_name == "A *small* painter"
    assert [(r.metric_type, r.metric_value, r.dataset_name, r.task_type) for r in card.data.eval_results] == [
        ("right", 0.75, "40 prompts, held out", "text-to-image"), ("FID", 12, "40 prompts, held out", "text-to-image")]
    text = card.text
    assert r"# A \*small\* painter" in text and "Random weights.\n\nFor tests." in text
    for line in ("| scheduler | DDIMScheduler | - |", r"| num\_inference\_steps | 2 |", r"| guidance\_scale | 7.5 |", "| seed | 3 |", r"| negative\_prompt | red |",
                 "| right | 0.75 | 0.5 to 0.875 |", "| FID | 12 | - |", r"3. a \| b \<script\>", f"1. {PROMPT}"): assert line in text, line
    count = f"{sum(p.numel() for p in ours.unet.parameters()):,}"
    assert f"| unet | UNet2DConditionModel | {count} |" in text
    assert "from_pretrained('painter')" in text and str(tmp_path) not in text and "StableDiffusionPipeline.from_pretrained" in text


def test_the_grid_is_what_the_settings_paint(ours, tmp_path):
    ours.save_pretrained(tmp_path, card=CARD)
    again = ours(CARD["prompts"], generator=torch.Generator().manual_seed(3), **CARD["settings"])
    grid = np.array(Image.open(tmp_path / GRID_FILE))
    assert grid.shape == (8 * (16 + 4), 8 * (3 * 18 + 2), 3)
    small = grid[::8, ::8]
    for i, picture in enumerate(again): np.testing.assert_array_equal(small[2:18, 2 + 18 * i:18 + 18 * i], np.array(picture))
    assert f"]({GRID_FILE})" in (tmp_path / CARD_FILE).read_text()
    given = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    ours.save_pretrained(tmp_path, card=dict(images=given, prompts=["red", "blue"]))
    assert np.array(Image.open(tmp_path / GRID_FILE))[24, 24].tolist() == [255, 0, 0]
    assert "## Settings" not in (tmp_path / CARD_FILE).read_text()  # nobody has told how they came to be
    assert isinstance(ours.save_pretrained(tmp_path, card=PipelineCard(images=given[:1])), type(None))


def test_whose_card_it_is(ours, tmp_path):
    ours.save_pretrained(tmp_path)  # a plain one
    plain = (tmp_path / CARD_FILE).read_text()
    assert "## Parts" in plain and "## Measured" not in plain and "## Settings" not in plain and not (tmp_path / GRID_FILE).exists()
    ours.save_pretrained(tmp_path, card=CARD)
    assert (tmp_path / GRID_FILE).exists() and not keeps_card(tmp_path)
    ours.save_pretrained(tmp_path, card=False)
    assert "## Measured" in (tmp_path / CARD_FILE).read_text()
    ours.save_pretrained(tmp_path)  # these weights were not measured: numbers and pictures go
    assert (tmp_path / CARD_FILE).read_text() == plain and not (tmp_path / GRID_FILE).exists()
    (tmp_path / CARD_FILE).write_text("# My own")
    (tmp_path / GRID_FILE).write_bytes(b"mine")
    assert keeps_card(tmp_path)
    ours.save_pretrained(tmp_path)
    assert (tmp_path / CARD_FILE).read_text() == "# My own" and (tmp_path / GRID_FILE).read_bytes() == b"mine"
    ours.save_pretrained(tmp_path, card={})
    assert (tmp_path / CARD_FILE).read_text() == plain
    ours.save_pretrained(tmp_path / "none", card=False)
    assert not (tmp_path / "none" / CARD_FILE).exists()
    LatentDiffusionPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("where", [".", "a/../b", "~/c", "d/.saving-1234"])
def test_the_name_on_the_card(where, ours, tmp_path, monkeypatch):
    "That of the folder, whatever way it is written; never a path, nor that of a folder which is there for the moment."
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    ours.save_pretrained(where)
    card, = [p for p in (tmp_path / "here").rglob(CARD_FILE)]
    assert f"from_pretrained('{ {'.': 'here', 'a/../b': 'b', '~/c': 'c'}.get(where, 'd') }')" in card.read_text()


def test_a_run_that_saves_again_keeps_a_card_of_ones_own(ours, tmp_path):
    from minidiff.files import staged
    (tmp_path / CARD_FILE).write_text("# My own")
    with staged(tmp_path, "model_index.json", lambda file: ".safetensors" in file.name) as stage: ours.save_pretrained(stage)
    assert (tmp_path / CARD_FILE).read_text() == "# My own" and LatentDiffusionPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("given", [3, None, "", b"a"])
def test_folders_that_are_none(given, ours):
    with pytest.raises(ConfigError, match="folder is a path"): ours.save_pretrained(given)


BAD = [("'titel'", dict(titel="a")), ("expected a PipelineCard", 3), ("expected a PipelineCard", True), ("card: title", dict(title=3)), ("card: settings: expected", dict(settings=[1])),
       ("card: results: expected", dict(results=[1])), ("measured_on", dict(results={"a": 1})), ("results: a", dict(results={"a": float("nan")}, measured_on="b")),
       ("results: a", dict(results={"a": "good"}, measured_on="b")), ("is not between", dict(results={"a": (3, 1, 2)}, measured_on="b")), ("(number, low", dict(results={"a": (3, 1)}, measured_on="b")),
       ("card: prompts", dict(prompts=[3])), ("card: seed", dict(seed=-1)), ("card: tags", dict(tags=[3])), ("card: prompts", dict(prompts=0)), ("card: prompts", dict(prompts=np.array(["a", "b"]))), ("card: settings: expected names", dict(settings={1: 2}, prompts="a")),
       ("card: results: expected names", dict(results={"": 1}, measured_on="b")), ("card: its texts must be of Unicode", dict(title="\ud800")), ("card: its texts must be of Unicode", dict(about="\ud800")), ("generator is not one", dict(prompts="a", settings=dict(generator=None))),
       ("num_images_per_prompt is not", dict(prompts="a", settings=dict(num_images_per_prompt=2))), ("knows no 'stepz'", dict(prompts="a", settings=dict(stepz=3))),
       ("num_inference_steps", dict(prompts="a", settings=dict(num_inference_steps=0))), ("card: images", dict(images=[3])), ("expected 2, one a prompt", dict(images=[Image.new("RGB", (8, 8))], prompts=["a", "b"]))]


@pytest.mark.parametrize("reason, card", BAD, ids=[f"{i} {reason}" for i, (reason, _) in enumerate(BAD)])
def test_a_wrong_card_is_refused_and_nothing_is_saved(reason, card, ours, tmp_path):
    with pytest.raises((ConfigError, ValueError, TypeError)) as error: ours.save_pretrained(tmp_path / "p", card=card)
    assert reason in str(error.value) and "\n" not in str(error.value) and not (tmp_path / "p").exists()


def test_a_card_of_any_text():
    for body in ("", "---\nnot: yaml\n---", "# é ☃\n\n| a |"):
        text = card_text(body, license="mit", language="en")
        assert ModelCard(text).data.to_dict() == {"license": "mit", "language": "en"} and ModelCard(text).text.strip() == body.strip()
    assert yaml.safe_load(card_text("", tags=["yes", "1", "a: b"]).split("---")[1])["tags"] == ["yes", "1", "a: b"]
    with pytest.raises(ConfigError, match="card"): card_text("", eval_results=["a"])
    assert as_card(None) == PipelineCard()


def test_captions_that_look_like_lists(ours, tmp_path):
    prompts = ["- a", "--- b", "+ c", "= d", "1. e", "12) f", "1.5 g", "-"]
    ours.save_pretrained(tmp_path, card=dict(prompts=prompts, images=torch.zeros(8, 3, 8, 8)))
    text = (tmp_path / CARD_FILE).read_text(encoding="utf-8")
    for line in (r"1. \- a", r"2. \--- b", r"3. \+ c", r"4. \= d", r"5. 1\. e", r"6. 12\) f", r"7. 1\.5 g", r"8. \-"): assert f"\n{line}\n" in text, line


def test_a_card_without_prompts_and_of_a_compiled_unet(ours, tmp_path):
    ours.unet = torch.compile(ours.unet)
    ours.save_pretrained(tmp_path, card=dict(prompts=None, images=torch.zeros(1, 3, 8, 8)))
    text = (tmp_path / CARD_FILE).read_text(encoding="utf-8")
    assert "| unet | UNet2DConditionModel |" in text and "painted, 1 in all" in text


def test_an_error_half_way_to_the_hub_leaves_nothing_here(ours, api, tmp_path, monkeypatch):
    monkeypatch.setattr(ModelCard, "validate", lambda self, repo_type=None: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("list_repo_files", "upload_folder"):
        def fail(*_, **__): raise ConnectionError(f"{name}\nbroke off")
        monkeypatch.setattr(Api, name, fail)
        with pytest.raises(LoadError, match="me/painter was not sent .*ConnectionError: (list|upload)_.* broke off") as error: ours.push_to_hub("me/painter")
        assert "\n" not in str(error.value) and not [*tmp_path.iterdir()]
        monkeypatch.setattr(Api, "list_repo_files", lambda self, repo_id, revision=None: [])


# --- the Hub --------------------------------------------------------------------------------------------------------
class Hub(http.server.BaseHTTPRequestHandler):
    "Takes what `ModelCard.validate` asks, and refuses a card without a license, as a stand-in for what the Hub refuses."
    asked = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Hub.asked.append((self.path, body))
        data = yaml.safe_load(body["content"].split("---")[1])
        good = "license" in data
        answer = b"OK" if good else b'"license" is required'
        self.send_response(200 if good else 400)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_): pass


@pytest.fixture
def endpoint(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.asked = []
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    huggingface_hub.utils.close_session() if hasattr(huggingface_hub.utils, "close_session") else None
    yield Hub
    server.shutdown()
    server.server_close()
    huggingface_hub.utils.close_session() if hasattr(huggingface_hub.utils, "close_session") else None


class Api:
    "Stands for `HfApi`: keeps what it is asked, and the files."
    calls, there, fails = [], [], None

    def __init__(self, token=None): Api.calls = [("token", token)]

    def create_repo(self, repo_id, **options):
        if Api.fails: raise Api.fails
        Api.calls.append(("create", repo_id, options))
        return type("Url", (), {"repo_id": repo_id if "/" in repo_id else f"me/{repo_id}"})()

    def list_repo_files(self, repo_id, revision=None):
        Api.revision = revision
        return Api.there

    def upload_folder(self, folder_path, **options):
        folder = Path(folder_path)
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        Api.calls.append(("upload", files, options))
        return type("Commit", (), {"commit_url": "https://huggingface.co/me/painter/commit/1"})()


@pytest.fixture
def api(monkeypatch, endpoint):
    Api.calls, Api.there, Api.fails = [], [], None
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return Api


def test_the_card_is_asked_of_the_hub_before_it_is_sent(ours, api, endpoint):
    api.revision = "main"
    url = ours.push_to_hub("me/painter", card=CARD, private=True, commit_message="First", revision="dev", create_pr=True, token="hf_x")
    assert url.endswith("/commit/1") and api.calls[0] == ("token", "hf_x")
    assert api.calls[1] == ("create", "me/painter", dict(private=True, exist_ok=True))
    assert api.revision == "dev"  # what is there, on that branch
    _, files, options = api.calls[2]
    assert options == dict(repo_id="me/painter", delete_patterns=None, ignore_patterns=[], commit_message="First", revision="dev", create_pr=True)
    assert {CARD_FILE, GRID_FILE, "model_index.json", "unet/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json", "scheduler/scheduler_config.json"} <= files.keys()
    text = files[CARD_FILE].decode()
    assert "from_pretrained('me/painter')" in text
    [(path, body)] = endpoint.asked
    assert path == "/api/validate-yaml" and body == {"repoType": "model", "content": text}


def test_a_card_that_the_hub_refuses(ours, api):
    with pytest.raises(ConfigError, match='card: the Hub refuses it.*"license" is required'): ours.push_to_hub("me/painter")
    assert [call[0] for call in api.calls] == ["token"]  # nothing was made or sent


def test_what_is_there_and_what_goes(ours, api, tmp_path):
    ours.save_pretrained(tmp_path, max_shard_size="100KB")
    old = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    api.there = [*old, "unet/diffusion_pytorch_model.fp16.safetensors", "notes[1].txt", ".gitattributes", "unet/notes.txt", "tokenizer/tokenizer.json"]
    ours.push_to_hub("painter", card=dict(license="mit"))
    _, files, options = api.calls[2]
    assert options["repo_id"] == "me/painter" and options["commit_message"] == "Upload a pipeline" and options["ignore_patterns"] == []
    from huggingface_hub.utils import filter_repo_objects
    gone = set(filter_repo_objects(api.there, allow_patterns=options["delete_patterns"])) - files.keys()
    left = (set(api.there) - gone) | files.keys()
    assert not [name for name in left if "-of-" in name or ".index." in name]
    assert {"notes[1].txt", ".gitattributes", "unet/notes.txt"} <= left and "tokenizer/tokenizer.json" not in left and "unet/diffusion_pytorch_model.fp16.safetensors" not in left
    ours.push_to_hub("me/painter", card=dict(license="mit"), variant="fp16")
    gone = set(filter_repo_objects(api.there, allow_patterns=api.calls[2][2]["delete_patterns"])) - api.calls[2][1].keys()
    assert gone == {"tokenizer/tokenizer.json"}


def test_a_readme_of_ones_own_stays_there(ours, api, monkeypatch):
    monkeypatch.setattr(ModelCard, "validate", lambda self, repo_type=None: None)
    ours.push_to_hub("me/painter")
    assert api.calls[2][2]["ignore_patterns"] == [] and CARD_FILE in api.calls[2][1]
    api.there = [CARD_FILE]
    ours.push_to_hub("me/painter")
    assert api.calls[2][2]["ignore_patterns"] == [CARD_FILE, GRID_FILE]


@pytest.mark.parametrize("name", ["", "a/b/c", "https://example.org/a", 3, None, "a b/c", "../x"])
def test_names_that_are_no_repository(name, ours, api):
    with pytest.raises(ConfigError, match="repo_id: expected owner/name"): ours.push_to_hub(name, card=dict(license="mit"))
    assert not api.calls


def test_errors_on_the_way_are_one_line(ours, api, tmp_path, monkeypatch):
    api.fails = PermissionError("401: not\nlogged in")
    with pytest.raises(LoadError, match="me/painter was not sent to the Hugging Face Hub .PermissionError: 401: not logged in") as error:
        ours.push_to_hub("me/painter", card=dict(license="mit"))
    assert "\n" not in str(error.value)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(LoadError, match="was not sent"): ours.push_to_hub("me/painter", card=dict(license="mit"))
    with pytest.raises(ConfigError, match="'titel'"): ours.push_to_hub("me/painter", card=dict(titel="a"))
    with pytest.raises(ConfigError, match=r'call push_to_hub\("owner/name"\)'): ours.save_pretrained(tmp_path / "p", push_to_hub=True)
    assert not (tmp_path / "p").exists()


def test_the_shipped_card_is_written_by_the_same_code(monkeypatch):
    "scripts/make_weights.py would write it again, to the letter, from what lies there."
    root = Path(__file__).resolve().parent.parent
    monkeypatch.syspath_prepend(str(root / "scripts"))
    import make_weights
    weights = root / "minidiff" / "data" / "weights"
    size = sum(p.stat().st_size for p in weights.rglob("*") if p.is_file() and p.name != CARD_FILE)
    text = make_weights.card(LatentDiffusionPipeline.from_pretrained(weights), read_json(weights / "results.json"), read_json(weights.parent / "results/judge.json"), size)
    assert text == (weights / CARD_FILE).read_text(encoding="utf-8")
    assert ModelCard(text).data.to_dict() == {"license": "apache-2.0", "library_name": "minidiff", "pipeline_tag": "text-to-image"}
