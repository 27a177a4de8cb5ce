"""The fault table: thousands of bad inputs, by family. Each row's id is how to see it by hand.

`families()` gives name -> list of rows. What may be taken is said by a rule for each config key and by the
kind of each bad tensor; everything else must be refused in one clear line. Where diffusers and transformers
take an input and do something sensible, taking it is right here, too.
"""
import json
import math
import pickle
import random
import re
import struct
import zipfile

import numpy as np
import torch
from faults import UNET, Row, anything, finite, spreads, tiny_preset

nan, inf = math.nan, math.inf
WRONG = dict(null=None,
             text="x",
             minus=-1,
             zero=0,
             huge=1e9,
             nan=nan,
             list=[],
             dict={},
             true=True)
MORE = dict(empty="",
            half=0.5,
            seven=7,
            inf=inf,
            big=10**30,
            text_list=["x"],
            numbers=[1, 2, 3],
            strange="ß\n\0",
            long="x" * 10_000)
VALUES = {**WRONG, **MORE}


# --- what each config key may be -------------------------------------------------------------------------------------
def _real(v):
    return isinstance(v, (int, float)) and v == v


def same(v, was):
    return json.dumps(v) == json.dumps(was) or (_real(v) and _real(was) and v == was)


def record(v, was):
    return True


def flag(v, was):
    return v in (None, False, True) or _real(v) and v in (0, 1)


def whole(low, high=2**31):
    return lambda v, was: _real(v) and low <= v <= high and v == v // 1


def real(low=-inf, high=inf, above=None):
    return lambda v, was: _real(v) and abs(v) < 1e300 and low <= v <= high and (
        above is None or v > above)


def choice(*names):
    return lambda v, was: v in names


def maybe(rule):
    return lambda v, was: v is None or rule(v, was)


def either(*rules):
    return lambda v, was: any(rule(v, was) for rule in rules)


def flags(v, was):
    return flag(
        v, was) or isinstance(v, list) and len(v) == 2 and all(flag(x, was) for x in v)


_acts = choice("silu", "swish", "gelu", "mish", "relu")
RULES = dict(unet=dict(sample_size=maybe(whole(1, 256)),
                       flip_sin_to_cos=flag,
                       freq_shift=real(),
                       only_cross_attention=flags,
                       dropout=real(0, 1),
                       act_fn=_acts,
                       norm_num_groups=whole(1, 8),
                       norm_eps=real(0),
                       attention_head_dim=whole(1, 16),
                       use_linear_projection=flag,
                       upcast_attention=flag,
                       class_embed_type=maybe(same),
                       addition_embed_type=maybe(same),
                       addition_time_embed_dim=maybe(whole(0)),
                       num_class_embeds=maybe(whole(0)),
                       time_cond_proj_dim=maybe(whole(0)),
                       projection_class_embeddings_input_dim=maybe(whole(0)),
                       addition_embed_type_num_heads=whole(1),
                       transformer_layers_per_block=whole(1, 1)),
             vae=dict(act_fn=_acts,
                      norm_num_groups=whole(1, 8),
                      sample_size=record,
                      scaling_factor=real(),
                      shift_factor=maybe(real()),
                      latents_mean=record,
                      latents_std=record,
                      force_upcast=record,
                      use_quant_conv=flag,
                      use_post_quant_conv=flag,
                      mid_block_add_attention=flag),
             text_encoder=dict(architectures=record,
                               model_type=record,
                               projection_dim=whole(1),
                               hidden_act=choice("quick_gelu", "gelu"),
                               layer_norm_eps=real(0),
                               attention_dropout=real(0, 1),
                               num_attention_heads=whole(1, 8),
                               pad_token_id=maybe(whole(-1, inf)),
                               bos_token_id=maybe(whole(-1, inf)),
                               eos_token_id=whole(0, 600)),
             scheduler=dict(num_train_timesteps=whole(1, 10**6),
                            beta_start=real(0, 0.9999),
                            beta_end=real(0, 0.9999),
                            trained_betas=maybe(same),
                            beta_schedule=choice("linear", "scaled_linear",
                                                 "squaredcos_cap_v2", "sigmoid"),
                            prediction_type=choice("epsilon", "sample", "v_prediction"),
                            thresholding=flag,
                            dynamic_thresholding_ratio=real(0, 1),
                            sample_max_value=real(above=0),
                            clip_sample=flag,
                            clip_sample_range=real(above=0),
                            solver_order=whole(1, 3),
                            solver_type=choice("midpoint", "heun"),
                            algorithm_type=choice("dpmsolver++", "sde-dpmsolver++"),
                            lower_order_final=flag,
                            euler_at_final=flag,
                            use_karras_sigmas=flag,
                            use_exponential_sigmas=flag,
                            use_beta_sigmas=flag,
                            final_sigmas_type=choice("zero", "sigma_min"),
                            rescale_betas_zero_snr=flag,
                            lambda_min_clipped=lambda v, was: _real(v) and v <= 4,
                            steps_offset=whole(0, inf),
                            variance_type=choice(None, "fixed_small", "fixed_small_log",
                                                 "fixed_large", "fixed_large_log",
                                                 "learned", "learned_range"),
                            timestep_spacing=choice("leading", "linspace", "trailing"),
                            set_alpha_to_one=flag,
                            skip_prk_steps=flag,
                            sigma_min=maybe(real(above=0)),
                            sigma_max=maybe(real(above=0)),
                            shift=real(above=0),
                            use_dynamic_shifting=flag,
                            base_shift=real(),
                            max_shift=real(),
                            base_image_seq_len=whole(1),
                            max_image_seq_len=whole(1),
                            time_shift_type=choice("exponential", "linear"),
                            stochastic_sampling=flag,
                            interpolation_type=choice("linear", "log_linear"),
                            timestep_type=choice("discrete", "continuous")),
             tokenizer=dict(tokenizer_class=record,
                            model_max_length=maybe(whole(3, inf)),
                            bos_token=maybe(same),
                            eos_token=maybe(same),
                            unk_token=maybe(same),
                            pad_token=maybe(same)))
RULES["unet"]["mid_block_type"] = same
PARTS = ("unet", "vae", "text_encoder", "scheduler", "tokenizer")
PLACES = dict(unet="sd_unet",
              vae="vae",
              text_encoder="text_encoder",
              scheduler="samplers",
              tokenizer="tokenizer")
FILES = dict(unet="unet/config.json",
             vae="vae/config.json",
             text_encoder="text_encoder/config.json",
             scheduler="scheduler/scheduler_config.json",
             tokenizer="tokenizer/tokenizer_config.json",
             specials="tokenizer/special_tokens_map.json")
RULES["specials"], PLACES["specials"] = RULES["tokenizer"], "tokenizer"
_SHARED_KEYS = """num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type thresholding
    dynamic_thresholding_ratio sample_max_value clip_sample clip_sample_range timestep_spacing steps_offset
    rescale_betas_zero_snr""".split()


def _where(part, key):
    return "scheduler" if part == "scheduler" and key in _SHARED_KEYS else PLACES[part]


def shorten(v):
    text = repr(v)
    return text if len(text) < 40 else f"{text[:18]}...({len(text)})"


def _edit(bench, file, **changes):
    "A copy of the tiny pipeline with some keys of one JSON file changed."
    folder = bench.copy()
    if file == FILES["tokenizer"]:
        (folder / FILES["specials"]).unlink()  # else its tokens win
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def _painted(bench):
    return lambda images: finite(images) or ("" if images.shape[:2] == (2, 3) else
                                             f"pictures of shape {tuple(images.shape)}")


def _painted_same(bench):
    def fine(images):
        same = images.shape == bench.reference.shape and torch.equal(
            images, bench.reference)
        return "" if same else "a damaged folder was opened, and paints something else"

    return fine


def config_files(bench):
    "Every key of every JSON file of a pipeline's folder, set to every wrong value."
    rows = []
    for part, file in FILES.items():
        config = json.loads((bench.source / file).read_text())
        for key, was in config.items():
            rule = RULES[part].get(key, record if key.startswith("_") else same)
            for value in VALUES.values():
                taken = _painted(bench) if rule(value, was) else None
                rows.append(
                    Row(f"{file}: {json.dumps(key)}: {shorten(value)}",
                        _where(part, key),
                        lambda b, f=file, k=key, v=value: b.paint(_edit(b, f, **{k: v})
                                                                  ),
                        rf"\b{key}\b|do not fit|does not fit|{re.escape(file)}" +
                        "|steps" * (key == "lambda_min_clipped"),
                        taken))
    config = json.loads((bench.source / "model_index.json").read_text())
    for key in config:
        used = key in PARTS
        for value in [
                *VALUES.values(), ["a"], ["a", 5], [None, None],
            ["diffusers", "Nothing"], ["diffusers", "DDPMScheduler", 3]
        ]:
            rows.append(
                Row(f"model_index.json: {json.dumps(key)}: {shorten(value)}",
                    "pipeline",
                    lambda b, k=key, v=value: b.paint(
                        _edit(b, "model_index.json", **{k: v})),
                    rf"\b{key}\b|model_index\.json",
                    None if used else _painted(bench)))
    for key in PARTS:

        def without(b, k=key):
            folder = b.copy()
            index = json.loads((folder / "model_index.json").read_text())
            del index[k]
            (folder / "model_index.json").write_text(json.dumps(index))
            return b.paint(folder)

        rows.append(
            Row(f"model_index.json without {key}", "pipeline", without, rf"\b{key}\b"))
    return rows


# --- damaged files ---------------------------------------------------------------------------------------------------
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 335000000\n"


def _bad_bytes(name, data, chance):
    "How a file can be damaged: label -> its new content, or a function of its path."
    def zipped(path):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a", "b")

    def folder(path):
        path.unlink()
        path.mkdir()

    def loop(path):
        path.unlink()
        path.symlink_to(path.name)

    kinds = {
        "missing": lambda p: p.unlink(), "empty": b"", "a git-lfs pointer": LFS,
        "a pickle": pickle.dumps({"a": 1}), "a zip": zipped, "a folder": folder,
        "a link to itself": loop, "zeros": bytes(4096), "not UTF-8": b"\xff\xfe{\x00",
        "a JSON list": b"[1, 2]", "a JSON text": b'"x"', "a JSON null": b"null",
        "a JSON number": b"5", "an empty JSON object": b"{}", "deep JSON":
        b'{"a": ' * 100_000, "deep JSON lists": b"[" * 100_000, "a long number":
        b'{"a": ' + b"1" * 5000 + b"}", "a web page": b"<!DOCTYPE html><html>404</html>"
    }
    for k in range(6):
        at = chance.randrange(len(data))
        kinds[f"cut at byte {at}"] = data[:at]
    return kinds


def _wants(name, label):
    "What the message must name: the file, or what a part of it is missing."
    stem = name.rsplit("/", 1)[-1]
    return "(?i)lfs" if "lfs" in label else rf"{re.escape(stem)}|do not fit|{name.split('/')[0]}"


def damaged_files(bench):
    "Each file of a pipeline's folder, damaged in every way; what opens paints the same."
    rows, chance = [], random.Random(0)
    for path in sorted(p for p in bench.source.rglob("*") if p.is_file()):
        name, data = path.relative_to(bench.source).as_posix(), path.read_bytes()
        part = name.split("/")[0]
        where = "pipeline" if name == "model_index.json" else "hub" if name.endswith(
            ".safetensors") else PLACES.get(part, "hub")
        where = "tokenizer" if part == "tokenizer" else where
        for label, change in _bad_bytes(name, data, chance).items():

            def call(b, n=name, c=change):
                target = b.copy() / n
                c(target) if callable(c) else target.write_bytes(c)
                return b.paint(b.tmp / "copy")

            whole_lines = name.endswith("merges.txt") or name.endswith(
                "special_tokens_map.json")
            defaults = part == "scheduler" and label == "an empty JSON object"
            fine = _painted(bench) if defaults or whole_lines and label.startswith(
                ("cut", "missing", "empty", "an empty")) else _painted_same(bench)
            rows.append(Row(f"{name}: {label}", where, call, _wants(name, label), fine))
    for target in ("unet", "vae", "text_encoder"):
        files = {
            p:
            f"{p}/{'model' if p == 'text_encoder' else 'diffusion_pytorch_model'}.safetensors"
            for p in ("unet", "vae", "text_encoder")
        }
        for other in files.keys() - {target}:

            def call(b, a=files[target], c=files[other]):
                folder = b.copy()
                (folder / a).write_bytes((b.source / c).read_bytes())
                return b.paint(folder)

            rows.append(
                Row(f"{files[target]}: the {other}'s", "hub", call, "do not fit"))
    return rows


def _header(data):
    return 8 + struct.unpack("<Q", data[:8])[0]


def flipped_bits(bench):
    "One bit of the header of a file of weights, or of any JSON or text file, flipped."
    rows, chance = [], random.Random(1)
    for path in sorted(p for p in bench.source.rglob("*") if p.is_file()):
        name, data = path.relative_to(bench.source).as_posix(), path.read_bytes()
        weights = name.endswith(".safetensors")
        end = _header(data) if weights else len(data)
        places = [*range(8)] * weights + [
            chance.randrange(end) for _ in range(100 if weights else 60)
        ]
        for at in places:
            bit = chance.randrange(8)

            def call(b, n=name, at=at, bit=bit):
                target = b.copy() / n
                content = bytearray(target.read_bytes())
                content[at] ^= 1 << bit
                target.write_bytes(content)
                return b.paint(b.tmp / "copy")

            part = name.split("/")[0]
            where = "hub" if weights else PLACES.get(part, "pipeline")
            fine = _painted_same(bench) if weights else _painted(bench)
            rows.append(
                Row(f"{name}: bit {bit} of byte {at} flipped", where, call, ".", fine))
    return rows


def odd_weights(bench):
    "Weights of a wrong kind, with values that cannot paint, or with odd headers."
    rows = []

    def row(label, where, change, names, fine=None, part="unet"):
        file = f"{part}/{'model' if part == 'text_encoder' else 'diffusion_pytorch_model'}.safetensors"

        def call(b):
            from safetensors.torch import load_file, save_file
            path = b.copy() / file
            tensors = load_file(path)
            made = change(tensors)
            save_file(tensors if made is None else made, path)
            return b.paint(b.tmp / "copy")

        rows.append(Row(f"{file}: {label}", where, call, names, fine))

    def fill(value):
        def change(tensors):
            next(iter(tensors.values())).view(-1)[0] = value

        return change

    def all_of(kind):
        return lambda tensors: {k: v.to(kind) for k, v in tensors.items()}

    for part in ("unet", "vae", "text_encoder"):
        weights = rf"weights|{part}|safetensors"
        row("a NaN", "hub", fill(nan), weights, part=part)
        row("an inf", "hub", fill(inf), weights, part=part)
        row("a minus inf", "hub", fill(-inf), weights, part=part)
        for kind in (torch.int8, torch.uint8, torch.int64, torch.bool):
            row(f"all {kind}".replace("torch.", ""),
                "hub",
                all_of(kind),
                weights,
                part=part)
        for kind in (torch.float64, torch.float16, torch.bfloat16):
            row(f"all {kind}".replace("torch.", ""),
                "hub",
                all_of(kind),
                weights,
                finite,
                part=part)
        row("one int64",
            "hub",
            lambda t: {**t, min(t): t[min(t)].long()},
            weights,
            part=part)
        row("complex", "hub", all_of(torch.complex64), weights, part=part)
        row("no tensors", "hub", lambda t: {}, "do not fit", part=part)
        row("one missing",
            "hub",
            lambda t: {k: v
                       for k, v in t.items() if k != min(t)},
            "do not fit",
            part=part)
        row("one too many",
            "hub",
            lambda t: {**t, "more": torch.zeros(1)},
            "do not fit",
            part=part)
        row("all flat",
            "hub",
            lambda t: {k: v.flatten()
                       for k, v in t.items()},
            "do not fit",
            part=part)
        row("a scalar",
            "hub",
            lambda t: {**t, min(t): torch.zeros(())},
            "do not fit",
            part=part)
        row("all empty",
            "hub",
            lambda t: {k: v.flatten()[:0]
                       for k, v in t.items()},
            "do not fit",
            part=part)
        row("a name of 100,000 letters",
            "hub",
            lambda t: {**t, "x" * 100_000: torch.zeros(1)},
            "do not fit",
            part=part)

    def sharded(label, index, names="index", fine=None):
        def call(b):
            folder = b.copy() / "unet"
            (folder / "diffusion_pytorch_model.safetensors").rename(folder /
                                                                    "one.safetensors")
            (b.tmp / "outside.safetensors").write_bytes(
                (folder / "one.safetensors").read_bytes())
            from minidiff.files import load_safetensors
            keys = load_safetensors(folder / "one.safetensors").keys()
            made = index(keys, b)
            content = made if isinstance(made, (str, bytes)) else json.dumps(made)
            path = folder / "diffusion_pytorch_model.safetensors.index.json"
            path.write_bytes(
                content if isinstance(content, bytes) else content.encode())
            return b.paint(b.tmp / "copy")

        rows.append(Row(f"unet/...index.json: {label}", "hub", call, names, fine))

    sharded("as it should be",
            lambda keys, b: {"weight_map": dict.fromkeys(keys, "one.safetensors")},
            fine=_painted_same(bench))
    for label, value in VALUES.items():
        sharded(f"weight_map {shorten(value)}",
                lambda keys, b, v=value: {"weight_map": v},
                "index|weight_map|do not fit")
        sharded(f"a file named {shorten(value)}",
                lambda keys, b, v=value: {"weight_map": dict.fromkeys(keys, v)},
                "index|weight_map")
    sharded("{}", lambda keys, b: {}, "index|weight_map")
    sharded("[]", lambda keys, b: [], "index")
    sharded("not JSON", lambda keys, b: "{", "index")
    sharded(
        "outside by ..", lambda keys, b:
        {"weight_map": dict.fromkeys(keys, "../../outside.safetensors")},
        "index|weight_map")
    sharded(
        "outside, absolute", lambda keys, b:
        {"weight_map": dict.fromkeys(keys, str(b.tmp / "outside.safetensors"))},
        "index|weight_map")
    sharded(
        "outside by x/../..", lambda keys, b:
        {"weight_map": dict.fromkeys(keys, "x/../../../outside.safetensors")},
        "index|weight_map")
    sharded("a missing file",
            lambda keys, b: {"weight_map": dict.fromkeys(keys, "two.safetensors")},
            "two|index")
    sharded(
        "half of the names", lambda keys, b:
        {"weight_map": dict.fromkeys(sorted(keys)[::2], "one.safetensors")},
        "index|do not fit", _painted_same(bench))
    return rows


def tokenizer_files(bench):
    "Vocabularies and merges broken in ways that still are JSON and text."
    rows = []

    def row(label, file, change, names, fine=None):
        def call(b):
            path = b.copy() / "tokenizer" / file
            path.write_bytes(
                change(path.read_bytes().decode()).encode("utf-8", "surrogatepass"))
            return b.paint(b.tmp / "copy")

        rows.append(Row(f"tokenizer/{file}: {label}", "tokenizer", call, names, fine))

    def vocab(change):
        def edit(text):
            content = json.loads(text)
            change(content)
            return json.dumps(content)

        return edit

    vocabulary = r"vocab|token|tokenizer"

    def put(**items):
        return vocab(lambda v: v.update(items))

    for label, value in VALUES.items():
        row(f'"zz": {shorten(value)}', "vocab.json", put(zz=value), vocabulary)
        row(f'"a</w>": {shorten(value)}', "vocab.json", put(**{"a</w>": value}),
            vocabulary, finite if label in ("zero", "seven", "true") else None)
    row("an id twice", "vocab.json", put(zz=5), vocabulary)
    row("an id beyond the text model", "vocab.json",
        vocab(lambda v: v.update({"red</w>": 5000, "r": 5001, "red": 5002})),
        vocabulary + "|input_ids")
    row("a gap in the ids", "vocab.json", vocab(lambda v: v.pop("z")), vocabulary,
        finite)
    row("no end token", "vocab.json", vocab(lambda v: v.pop("<|endoftext|>")),
        r"endoftext")
    row("no start token", "vocab.json", vocab(lambda v: v.pop("<|startoftext|>")),
        r"startoftext")
    row("no letters", "vocab.json",
        vocab(lambda v: [v.pop(k) for k in [*v] if len(k) < 4]), vocabulary, finite)
    row("only the end token", "vocab.json",
        vocab(lambda v: [v.pop(k) for k in [*v] if k != "<|endoftext|>"]),
        "startoftext")
    row("a key twice", "vocab.json", lambda t: t.replace("{", '{"a": 7, ', 1),
        vocabulary, finite)
    merges = r"merges"
    row("three in a line", "merges.txt", lambda t: t + "a b c\n", merges)
    row("one in a line", "merges.txt", lambda t: t + "a\n", merges)
    row("a line of spaces", "merges.txt", lambda t: t + "   \n", merges, finite)
    row("a pair twice", "merges.txt", lambda t: t + t.splitlines()[1] + "\n", merges,
        finite)
    row("unknown symbols", "merges.txt", lambda t: t + "qqqq wwww\n", merges, finite)
    row("a merge that is no token", "merges.txt",
        lambda t: "#version: 0.2\nr e\ne d</w>\nz q\n" + t, merges, finite)
    row("tabs for spaces", "merges.txt", lambda t: t.replace(" ", "\t"), merges)
    row("Windows line ends", "merges.txt", lambda t: t.replace("\n", "\r\n"), merges,
        finite)
    row("a byte-order mark", "merges.txt", lambda t: "\ufeff" + t, merges, finite)
    row("JSON", "merges.txt", lambda t: '{"a": 1}', merges)
    row("a million lines", "merges.txt", lambda t: t + "a b\n" * 10**6, merges, finite)
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        for value in ({"content": 5}, {"content":
                                       None}, {"contents":
                                               "x"}, "nowhere", {"content": "nowhere"}):
            row(f'"{name}": {value}', "special_tokens_map.json",
                vocab(lambda v, n=name, x=value: v.update({n: x})),
                f"{name}|nowhere|content|token")
    for value in (5, "x", [], [5], {"x": "y"}, {"5": 5}, {"5": {"x": "y"}}, {"-1": "x"},
                  {"5": {"content": "a"}}, {"9999999": {"content":
                                                        "zz"}}, {"1.5": "x"}, None, {}):
        row(f'"added_tokens_decoder": {value}', "tokenizer_config.json",
            vocab(lambda v, x=value: v.update(added_tokens_decoder=x)),
            "added_tokens|token",
            finite if value in (None, {}, []) or "9999999" in str(value) else None)

    def added(content, fine=None):
        def call(b):
            (b.copy() / "tokenizer/added_tokens.json").write_text(json.dumps(content))
            return b.paint(b.tmp / "copy")

        rows.append(
            Row(f"tokenizer/added_tokens.json: {shorten(content)}", "tokenizer", call,
                "added_tokens|token", fine))

    for content in ([], 5, {"zz": "x"}, {"zz": -1}, {"zz": None}, {"zz": 1.5},
                    {"zz": []}, {"": 5}, {"zz": 5}, {"zz": nan}, {"zz": True}):
        added(content)

    def whole_file(label, content, names="tokenizer", fine=None):
        def call(b):
            folder = b.copy() / "tokenizer"
            for name in ("vocab.json", "merges.txt"):
                (folder / name).unlink()
            (folder / "tokenizer.json").write_text(json.dumps(content))
            return b.paint(b.tmp / "copy")

        rows.append(Row(f"tokenizer/tokenizer.json: {label}", "tokenizer", call, names,
                        fine))

    model = dict(
        type="BPE",
        end_of_word_suffix="</w>",
        vocab={"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "b": 3, "ab": 4},
        merges=["a b"])
    whole_file("as it should be", dict(model=model), fine=finite)
    for key in ("vocab", "merges", "end_of_word_suffix"):
        for value in WRONG.values():
            whole_file(f"model.{key} {shorten(value)}",
                       dict(model={**model, key: value}), f"tokenizer|{key}",
                       finite if key == "merges" and value == [] else None)
        whole_file(f"without model.{key}",
                   dict(model={k: v
                               for k, v in model.items() if k != key}))
    for value in WRONG.values():
        whole_file(f"model {shorten(value)}", dict(model=value))
        whole_file(f"added_tokens {shorten(value)}",
                   dict(model=model, added_tokens=value),
                   fine=None if value or value == 0 and value is not False else finite)
        whole_file(f"added_tokens [{shorten(value)}]",
                   dict(model=model, added_tokens=[value]))
    return rows


# --- classes built in Python -----------------------------------------------------------------------------------------
def schedulers():
    "All schedulers, as the package has them."
    from minidiff import samplers
    from minidiff.pipeline import SCHEDULERS
    return {
        **SCHEDULERS, "FlowMatchEulerDiscreteScheduler":
        samplers.FlowMatchEulerDiscreteScheduler
    }


def _sampled(scheduler, steps=4):
    "What a scheduler makes of noise, with a network that answers a tenth of its input."
    scheduler.set_timesteps(steps)
    x = torch.ones(2, 3, 4, 4) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        answer = scheduler.scale_model_input(x, t) * 0.1
        if "learned" in str(scheduler.config.get("variance_type")):
            answer = torch.cat([answer, answer], 1)
        x = scheduler.step(answer, t, x).prev_sample
    return x


def scheduler_configs(bench):
    "Every config key of every scheduler, set to every wrong value."
    rows = []
    for name, cls in schedulers().items():
        base = dict(skip_prk_steps=True) if name == "PNDMScheduler" else {}
        for key in cls.config_keys():
            for value in VALUES.values():
                rule = RULES["scheduler"].get(key, same)
                was = json.loads(json.dumps(cls(**base).config.get(key)))
                taken = finite if rule(value, was) else None
                rows.append(
                    Row(f"{name}({key}={shorten(value)})",
                        _where("scheduler", key),
                        lambda b, c=cls, k=key, v=value, base=base: _sampled(
                            c(**{**base, k: v})),
                        rf"\b{key}\b|steps|mu\b",
                        taken))
        rows.append(
            Row(f"{name}(colour=1)", "hub", lambda b, c=cls: c(colour=1), "colour"))
        for value in (None, 5, [], "", "nowhere", b"x", nan):
            rows.append(
                Row(f"{name}.from_config({value!r})",
                    "hub",
                    lambda b, c=cls, v=value: c.from_config(v),
                    "config|folder|file|nowhere"))
    betas = {
        "NaN": [nan] * 10, "texts": ["x"] * 10, "too few": [0.1] * 9, "negative":
        [-0.1] * 10, "two": [2.0] * 10, "nested": [[0.1]] * 10, "ones": [1.0] * 10,
        "a tensor of NaN": torch.full((10, ), nan), "an empty array": np.zeros(0),
        "complex": [1j] * 10, "null": [None] * 10
    }
    for name, cls in schedulers().items():
        if "trained_betas" not in cls.config_keys(): continue
        base = dict(num_train_timesteps=10,
                    **(dict(skip_prk_steps=True) if name == "PNDMScheduler" else {}))
        for label, value in betas.items():
            rows.append(
                Row(f"{name}(num_train_timesteps=10, trained_betas={label})",
                    "scheduler",
                    lambda b, c=cls, v=value, base=base: _sampled(
                        c(**base, trained_betas=v)),
                    "trained_betas"))
    return rows


MODELS = dict(unet=(
    "sd_unet", "UNet2DConditionModel", UNET,
    lambda m: m(torch.zeros(1, m.config.in_channels, 4, 4), 5, torch.zeros(1, 3, 8))),
              vae=("vae", "AutoencoderKL",
                   dict(block_out_channels=(8, 8),
                        down_block_types=("DownEncoderBlock2D", ) * 2,
                        norm_num_groups=4,
                        up_block_types=("UpDecoderBlock2D", ) * 2),
                   lambda m: m(torch.zeros(1, m.config.in_channels, 8, 8))[0]),
              text_encoder=("text_encoder", "CLIPTextModel",
                            dict(vocab_size=50,
                                 hidden_size=8,
                                 intermediate_size=16,
                                 num_hidden_layers=1,
                                 num_attention_heads=2,
                                 max_position_embeddings=8,
                                 eos_token_id=49),
                            lambda m: m(torch.tensor([[1, 2]])).pooler_output),
              vision=("text_encoder", "CLIPVisionModel",
                      dict(hidden_size=8,
                           intermediate_size=16,
                           num_hidden_layers=1,
                           num_attention_heads=2,
                           image_size=8,
                           patch_size=4),
                      lambda m: m(
                          torch.zeros(1, m.config.num_channels, m.config.image_size, m.
                                      config.image_size)).pooler_output))
SIZES = dict(
    unet={
        k: whole(1, 64)
        for k in
        "in_channels out_channels layers_per_block cross_attention_dim".split()
    },
    vae={
        k: whole(1, 64)
        for k in "in_channels out_channels layers_per_block latent_channels".split()
    },
    text_encoder={
        k: whole(1, 4096)
        for k in "vocab_size intermediate_size max_position_embeddings".split()
    },
    vision=dict(intermediate_size=whole(1, 64),
                projection_dim=whole(1),
                num_channels=whole(1, 64),
                image_size=whole(8, 64),
                patch_size=whole(1, 8),
                hidden_size=whole(2, 64)))
SIZES["unet"].update(sample_size=maybe(whole(1)),
                     mid_block_type=maybe(same),
                     only_cross_attention=flags,
                     transformer_layers_per_block=whole(0, 8))
SIZES["vae"].update(layers_per_block=whole(0, 64),
                    scaling_factor=real(),
                    sample_size=record)
SIZES["text_encoder"].update(num_hidden_layers=whole(0, 64),
                             eos_token_id=whole(0, 49),
                             hidden_size=whole(2, 64))
RULES["vision"] = dict(
    num_hidden_layers=whole(0, 64),
    **{
        k: RULES["text_encoder"][k]
        for k in
        "hidden_act layer_norm_eps attention_dropout num_attention_heads".split()
    })


def model_configs(bench):
    "Every config key of every model, set to every wrong value; what is taken must run."
    import importlib
    rows = []
    for part, (module, name, base, run) in MODELS.items():
        cls = getattr(importlib.import_module(f"minidiff.{module}"), name)
        defaults = json.loads(json.dumps(cls(**base).config))
        rules = {**RULES[part], **SIZES[part]}
        for key in cls.config_keys():
            for value in VALUES.values():
                taken = finite if rules.get(key, same)(value, defaults[key]) else None

                def call(b, cls=cls, k=key, v=value, base=base, run=run):
                    with torch.no_grad():
                        return run(cls(**{**base, k: v}).eval())

                more = "|text|class_labels|added_cond_kwargs" if part == "unet" else ""
                rows.append(
                    Row(f"{name}({key}={shorten(value)})", module, call,
                        rf"\b{key}\b{more}", taken))
        rows.append(
            Row(f"{name}(colour=1)", "hub", lambda b, c=cls: c(colour=1), "colour"))
        for value in (None, 5, [], "", "nowhere", b"x"):
            rows.append(
                Row(f"{name}.from_config({value!r})",
                    "hub",
                    lambda b, c=cls, v=value: c.from_config(v),
                    "config|folder|file|nowhere"))
    from minidiff.text_encoder import CLIPModel, CLIPTextModelWithProjection
    small = dict(text_config=dict(MODELS["text_encoder"][2]),
                 vision_config=dict(MODELS["vision"][2]),
                 projection_dim=4)
    for key in small | dict(logit_scale_init_value=1):
        for value in VALUES.values():
            legal = key == "projection_dim" and whole(1, 64)(
                value, 0) or key == "logit_scale_init_value" and real()(value, 0)
            whole_default = key in ("text_config", "vision_config") and value in (
                None, {}) and value is not False
            if whole_default: continue  # the default, which is large

            def call(b, k=key, v=value):
                with torch.no_grad():
                    return CLIPModel(**{**small, k: v})(torch.tensor([[1, 2]]),
                                                        torch.zeros(1, 3, 8,
                                                                    8)).text_embeds

            rows.append(
                Row(f"CLIPModel({key}={shorten(value)})", "text_encoder", call, rf"\b{key}\b",
                    finite if legal else None))
    for value in VALUES.values():
        legal = whole(1, 64)(value, 0)
        rows.append(
            Row(f"CLIPTextModelWithProjection(projection_dim={shorten(value)})",
                "text_encoder",
                lambda b, v=value: CLIPTextModelWithProjection(
                    **{**MODELS["text_encoder"][2], "projection_dim": v})
                (torch.tensor([[1, 2]])).text_embeds,
                "projection_dim",
                finite if legal else None))
    from minidiff.unet import UNet
    for key, values in dict(in_channels=VALUES,
                            out_channels=VALUES,
                            widths=VALUES,
                            how=VALUES,
                            norm=VALUES,
                            skips=VALUES).items():
        for value in values.values():
            rule = dict(in_channels=whole(1, 64),
                        out_channels=whole(1, 64),
                        skips=flag,
                        widths=lambda v, was: v == [1, 2, 3]).get(key, same)

            def call(b, k=key, v=value):
                model = UNet(**{**dict(widths=(4, 8)), k: v}).eval()
                return model(torch.zeros(1, getattr(model, "in_channels", 3), 8, 8))

            rows.append(
                Row(f"UNet({key}={shorten(value)})", "unet", call, rf"\b{key}\b",
                    finite if rule(value, "?") else None))
    return rows


# --- tensors ---------------------------------------------------------------------------------------------------------
def _bad_tensors(x):
    "name -> (a bad tensor made of a good one, what may come of it)."
    other = dict(a_complex=(lambda: x.to(torch.complex64), None),
                 a_bool=(lambda: x > 0, None),
                 flat=(lambda: x.flatten(), None),
                 one_side_more=(lambda: x[None, None], None),
                 a_scalar=(lambda: torch.tensor(1.0), None),
                 none=(lambda: None, None),
                 a_text=(lambda: "x", None),
                 a_number=(lambda: 5, None),
                 an_object=(lambda: object(), None),
                 meta=(lambda: x.to("meta"), on_meta),
                 an_array=(lambda: x.numpy(), finite),
                 nested_lists=(lambda: x.tolist(), finite),
                 a_list_of_tensors=(lambda: list(x), finite),
                 no_pictures=(lambda: x[:0], finite))
    if x.is_floating_point():
        kinds = dict(an_int=(lambda: x.long(), None),
                     a_byte=(lambda: x.byte(), None),
                     a_double=(lambda: x.double(), finite),
                     a_half=(lambda: x.half(), finite),
                     a_bfloat=(lambda: x.bfloat16(), finite),
                     a_nan=(lambda: torch.full_like(x, nan), spreads),
                     an_inf=(lambda: torch.full_like(x, inf), anything))
    else:
        kinds = dict(a_float=(lambda: x.float() + 0.5, None),
                     minus_one=(lambda: x * 0 - 1, None),
                     beyond=(lambda: x + 10**9, None),
                     an_int32=(lambda: x.int(), finite))
    if x.ndim < 2: del other["flat"]  # it is flat already
    if x.ndim == 0:
        del other["a_scalar"], other["no_pictures"], other["a_list_of_tensors"]
    if x.ndim > 1: kinds["channels"] = (lambda: torch.cat([x, x], 1), None)
    if x.ndim > 0: kinds["batch"] = (lambda: torch.cat([x, x, x]), None)
    if x.ndim == 4: kinds["range_255"] = (lambda: x * 0 + 200, None)
    return {**other, **kinds}


def on_meta(result):
    return "" if torch.is_tensor(
        result
    ) and result.device.type == "meta" else "a tensor without numbers gave some"


def tensor_calls(bench):
    "name -> (module, function, good arguments, {argument: kinds that may be left alone})."
    from minidiff import optimizers, parallel, plots, sd_unet, text_encoder, training, vae
    from minidiff import pipeline as pipes
    from minidiff import scheduler as scheduling
    from minidiff.sketchbook import Sketchbook
    from minidiff.stickers import StickerBook
    from minidiff.unet import UNet
    pipe, g = bench.pipe, torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=g) * 2 - 1
    wide = {"range_255"}
    calls = {}
    unet_args = dict(sample=rand(2, 4, 4, 4),
                     timestep=torch.tensor([3, 5]),
                     encoder_hidden_states=rand(2, 3, 8))
    free = {"an_int32", "a_float", "beyond", "minus_one", "a_number", "a_scalar"}
    calls["UNet2DConditionModel()"] = ("sd_unet", pipe.unet, unet_args,
                                       dict(sample=wide,
                                            timestep=free | {"no_pictures"},
                                            encoder_hidden_states=wide))
    calls["UNet2DConditionModel(, mask)"] = (
        "sd_unet", pipe.unet, dict(**unet_args, encoder_attention_mask=torch.ones(2,
                                                                                  3)),
        dict(encoder_attention_mask={"an_int", "a_byte", "a_bool", "none"}))
    classes = sd_unet.UNet2DConditionModel(**UNET, num_class_embeds=5).eval()
    calls["UNet2DConditionModel(num_class_embeds=5)()"] = (
        "sd_unet", classes, dict(**unet_args, class_labels=torch.tensor([1, 2])),
        dict(class_labels=set()))
    cond = sd_unet.UNet2DConditionModel(**UNET, time_cond_proj_dim=6).eval()
    calls["UNet2DConditionModel(time_cond_proj_dim=6)()"] = (
        "sd_unet", cond, dict(**unet_args,
                              timestep_cond=rand(2, 6)), dict(timestep_cond={"none"}))
    pooled = sd_unet.UNet2DConditionModel(**UNET,
                                          addition_embed_type="text_time",
                                          addition_time_embed_dim=4,
                                          projection_class_embeddings_input_dim=8 +
                                          24).eval()

    def extra(text_embeds, time_ids):
        return pooled(**unet_args,
                      added_cond_kwargs=dict(text_embeds=text_embeds,
                                             time_ids=time_ids))

    calls[
        "UNet2DConditionModel(addition_embed_type='text_time')(added_cond_kwargs)"] = (
            "sd_unet", extra, dict(text_embeds=rand(2, 8), time_ids=rand(2, 6)),
            dict(text_embeds=wide, time_ids={"an_int", "a_byte", "a_bool"}))
    shapes = [(2, 8, 4, 4), (2, 8, 4, 4), (2, 8, 2, 2), (2, 16, 2, 2)]

    def down(first):
        return pipe.unet(**unet_args,
                         down_block_additional_residuals=[
                             first, *(torch.zeros(s) for s in shapes[1:])
                         ],
                         mid_block_additional_residual=torch.zeros(2, 16, 2, 2))

    calls["UNet2DConditionModel(, down_block_additional_residuals=[x, ...])"] = (
        "sd_unet",
        lambda down_block_additional_residuals: down(down_block_additional_residuals),
        dict(down_block_additional_residuals=rand(*shapes[0])),
        dict(down_block_additional_residuals=wide))

    def mid(mid_block_additional_residual):
        return pipe.unet(**unet_args,
                         down_block_additional_residuals=[
                             torch.zeros(s) for s in shapes
                         ],
                         mid_block_additional_residual=mid_block_additional_residual)

    calls["UNet2DConditionModel(, mid_block_additional_residual)"] = (
        "sd_unet", mid, dict(mid_block_additional_residual=rand(2, 16, 2, 2)),
        dict(mid_block_additional_residual={*wide, "none"}))
    calls["UNet()"] = ("unet", UNet(widths=(4, 8)).eval(), dict(x=rand(2, 3, 8, 8)),
                       dict(x=wide | {"batch"}))
    v = pipe.vae
    calls["AutoencoderKL.encode"] = ("vae", lambda x: v.encode(x).mean,
                                     dict(x=rand(2, 3, 8, 8)), dict(x={"batch"}))
    calls["AutoencoderKL.decode"] = ("vae", v.decode, dict(z=rand(2, 4, 4, 4)),
                                     dict(z=wide | {"batch"}))
    calls["AutoencoderKL()"] = ("vae", lambda x, noise: v(x, noise)[0],
                                dict(x=rand(2, 3, 8, 8), noise=rand(2, 4, 4, 4)),
                                dict(x={"batch"}, noise=wide | {"none"}))
    calls["AutoencoderKL.scale"] = (
        "vae", v.scale, dict(z=rand(2, 4, 4, 4)),
        dict(z=wide | {"batch", "channels", "flat", "one_side_more", "a_scalar"}))
    calls["AutoencoderKL.unscale"] = (
        "vae", v.unscale, dict(z=rand(2, 4, 4, 4)),
        dict(z=wide | {"batch", "channels", "flat", "one_side_more", "a_scalar"}))
    calls["measure_scaling_factor"] = ("vae", vae.measure_scaling_factor,
                                       dict(vae=v,
                                            images=rand(4, 3, 8,
                                                        8)), dict(images={"batch"}))
    calls["psnr"] = ("vae", vae.psnr, dict(x=rand(2, 3, 8, 8),
                                           y=rand(2, 3, 8, 8)), dict(x=set(), y=wide))
    posterior = v.encode(rand(2, 3, 8, 8))

    def loss(decoded, x):
        return vae.vae_loss(decoded, x, posterior)

    calls["vae_loss"] = ("vae", loss, dict(decoded=rand(2, 3, 8, 8),
                                           x=rand(2, 3, 8,
                                                  8)), dict(decoded=wide, x=wide))
    calls["DiagonalGaussianDistribution"] = (
        "vae", lambda parameters: vae.DiagonalGaussianDistribution(parameters).mean,
        dict(parameters=rand(2, 8, 4, 4)),
        dict(parameters=wide | {"batch", "channels"}))
    calls["DiagonalGaussianDistribution.sample"] = (
        "vae", lambda noise: posterior.sample(noise=noise),
        dict(noise=rand(2, 4, 4, 4)), dict(noise=wide | {"none"}))
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    calls["CLIPTextModel()"] = ("text_encoder",
                                lambda **k: pipe.text_encoder(**k).last_hidden_state,
                                dict(input_ids=ids, attention_mask=torch.ones(2, 3)),
                                dict(input_ids={"channels"},
                                     attention_mask={
                                         "an_int", "a_byte", "a_bool", "none"
                                     }))
    vision = text_encoder.CLIPVisionModel(**MODELS["vision"][2]).eval()
    calls["CLIPVisionModel()"] = (
        "text_encoder", lambda pixel_values: vision(pixel_values).pooler_output,
        dict(pixel_values=rand(2, 3, 8, 8)), dict(pixel_values=wide | {"batch"}))
    both = text_encoder.CLIPModel(text_config=dict(MODELS["text_encoder"][2]),
                          vision_config=dict(MODELS["vision"][2]),
                          projection_dim=4).eval()
    calls["CLIPModel()"] = ("text_encoder", lambda **k: both(**k).logits_per_image,
                            dict(input_ids=ids, pixel_values=rand(2, 3, 8, 8)),
                            dict(input_ids={"channels", "batch"},
                                 pixel_values=wide | {"batch"}))
    calls["clip_loss"] = ("text_encoder", text_encoder.clip_loss,
                          dict(image_embeds=rand(3, 4),
                               text_embeds=rand(3, 4),
                               logit_scale=torch.tensor(2.0)),
                          dict(image_embeds=set(),
                               text_embeds=set(),
                               logit_scale={
                                   "a_number", "flat", "a_scalar", "an_int", "a_byte"
                               }))
    tail = {"one_side_more", "flat", "channels", "batch", "range_255", "a_scalar"}
    for name, cls in schedulers().items():
        base = dict(skip_prk_steps=True) if name == "PNDMScheduler" else {}
        where = "scheduler" if name == "DDPMScheduler" else "samplers"
        made = cls(**base)
        made.set_timesteps(4)
        t, x = made.timesteps[0], rand(2, 3, 4, 4)

        def step(model_output, timestep, sample, cls=cls, base=base):
            scheduler = cls(**base)
            scheduler.set_timesteps(4)
            return scheduler.step(model_output, timestep, sample).prev_sample

        calls[f"{name}.step"] = (where, step, dict(model_output=x, timestep=t,
                                                   sample=x),
                                 dict(model_output=wide,
                                      timestep={
                                          "flat", "one_side_more", "an_array", "an_int",
                                          "a_half", "a_bfloat", "a_list_of_tensors"
                                      },
                                      sample=wide))

        def mix(original_samples, noise, timesteps, cls=cls, base=base):
            scheduler = cls(**base)
            scheduler.set_timesteps(4)
            return scheduler.add_noise(original_samples, noise, timesteps)

        calls[f"{name}.add_noise"] = (where, mix,
                                      dict(original_samples=x,
                                           noise=x * 0.5,
                                           timesteps=made.timesteps[:2]),
                                      dict(original_samples=wide,
                                           noise=wide,
                                           timesteps={"an_int"}))
        if hasattr(made, "get_velocity"):
            train = cls(**base)
            calls[f"{name}.get_velocity"] = (
                where, lambda s=train, **k: s.get_velocity(**k),
                dict(sample=x, noise=x, timesteps=torch.tensor([3, 5]))
                if name != "FlowMatchEulerDiscreteScheduler" else dict(
                    sample=x, noise=x, timesteps=torch.tensor([3., 5.])),
                dict(sample=wide, noise=wide))
    ddpm = scheduling.DDPMScheduler()
    calls["sample"] = ("scheduler", lambda noise: scheduling.sample(
        lambda x, t: x * 0.1, scheduling.DDPMScheduler(), noise, 2),
                       dict(noise=rand(2, 3, 4, 4)), dict(noise=tail))
    calls["training_target"] = ("scheduler", lambda **k: scheduling.training_target(
        scheduling.DDPMScheduler(prediction_type="v_prediction"), **k),
                                dict(x0=rand(2, 3, 4, 4),
                                     noise=rand(2, 3, 4, 4),
                                     timesteps=torch.tensor([3, 5])),
                                dict(x0=wide, noise=wide, timesteps=set()))
    calls["dynamic_threshold"] = ("scheduler", scheduling.dynamic_threshold,
                                  dict(x0=rand(2, 3, 4, 4)), dict(x0=tail))
    calls["rescale_zero_terminal_snr"] = ("scheduler",
                                          scheduling.rescale_zero_terminal_snr,
                                          dict(betas=torch.linspace(0.1, 0.2, 5)),
                                          dict(betas={"flat", "batch"}))
    shown = {"batch", "a_byte"}  # bytes are pictures in 0..255
    calls["guide"] = (
        "pipeline",
        lambda without_text, with_text: pipes.guide(without_text, with_text, 2.0),
        dict(without_text=rand(2, 4, 4, 4),
             with_text=rand(2, 4, 4, 4)), dict(without_text=wide, with_text=wide))
    calls["to_pil"] = ("pipeline", lambda images: pipes.to_pil(images)[0].size[0] / 1.0,
                       dict(images=rand(2, 3, 8, 8)), dict(images=shown))
    calls["LatentDiffusionPipeline(, latents)"] = ("pipeline", lambda latents: pipe(
        ["a", "b"], num_inference_steps=2, output_type="pt", latents=latents),
                                                   dict(latents=rand(2, 4, 4, 4)),
                                                   dict(latents=wide | {"none"}))
    states = rand(2, 16, 8)
    calls["LatentDiffusionPipeline.denoise"] = (
        "pipeline", lambda latents, states: pipe.denoise(latents, states, 2, 1.0),
        dict(latents=rand(2, 4, 4, 4), states=states),
        dict(latents=wide, states=wide | {"channels"}))  # as many tokens as one likes
    for name in ("image_grid", "to_uint8"):
        function = getattr(plots, name)
        calls[name] = ("plots",
                       lambda images, f=function: torch.as_tensor(np.array(f(images))),
                       dict(images=rand(2, 3, 8, 8)), dict(images=shown))
    for book in (Sketchbook(32), StickerBook(32)):
        critic = book.critic()
        name = type(critic).__name__
        pictures, _, scenes = book.draw(2, torch.Generator().manual_seed(0))
        where = "sketchbook" if name == "Critic" else "stickers"
        calls[f"{name}.read"] = (where,
                                 lambda images, c=critic: c.read(images).n_objects,
                                 dict(images=pictures), dict(images={"batch"}))
        calls[f"{name}.score"] = (
            where, lambda images, c=critic, s=scenes: c.score(images, s)["whole"],
            dict(images=pictures), dict(images=set()))
        calls[f"{name}.judge"] = (
            where, lambda images, c=critic, s=scenes: c.judge(images, s)["whole"],
            dict(images=pictures), dict(images=set()))
    calls["orthogonalize"] = ("training", optimizers.orthogonalize,
                              dict(matrices=rand(2, 8, 4)),
                              dict(matrices={"batch", "channels", "one_side_more"}))
    calls["show_images"] = ("plots", plots.show_images, dict(images=rand(2, 3, 8, 8)),
                            dict(images=shown))
    return calls


def tensors(bench):
    "Every tensor argument of the public functions, replaced by every bad tensor."
    rows = []
    for name, (where, function, good, arguments) in tensor_calls(bench).items():
        for argument, allowed in arguments.items():
            for kind, (make, fine) in _bad_tensors(good[argument]).items():

                def call(b, f=function, g=good, a=argument, m=make):
                    with torch.no_grad():
                        return f(**{**g, a: m()})

                if kind in allowed: fine = fine or anything
                looks = name.split(".")[0].split("(")[0] in ("Critic", "StickerCritic",
                                                             "image_grid", "to_uint8",
                                                             "to_pil", "show_images")
                if looks and kind in ("a_nan", "an_inf"):
                    fine = unclear if "Critic" in name else None
                if looks and kind == "no_pictures":
                    fine = anything if "Critic" in name else None
                if argument in ("timestep", "timesteps") and kind in ("a_nan",
                                                                      "an_inf"):
                    fine = None
                if argument == "timesteps" and kind in ("a_number", "a_scalar"):
                    fine = anything  # one for all
                either = kind in ("channels", "batch", "no_pictures", "flat",
                                  "one_side_more", "a_scalar")  # than which other?
                names = "|".join(
                    rf"\b{n}\b" for n in (good if either else [argument])
                ) + r"|\btimesteps?\b" * argument.startswith("timestep") + r"|\bx\b" * (
                    name == "measure_scaling_factor")
                rows.append(Row(f"{name} {argument}={kind}", where, call, names, fine))
    return rows


def unclear(result):
    "A critic that is shown NaN sees nothing."
    return "" if not any(bool(t.any()) for t in tensors_of_(
        result)) else "the critic sees something in a picture of NaN"


def tensors_of_(result):
    from faults import tensors_of
    return tensors_of(result)


# --- the pipeline ----------------------------------------------------------------------------------------------------
PROMPTS = {
    "None": None, "5": 5, "1.5": 1.5, "[]": [], "()": (), "b'x'": b"x", "[['a']]":
    [["a"]], "[None]": [None], "['a', 5]": ["a", 5], "{}": {}, "object()": object(),
    "[b'a']": [b"a"], "{'a': 1}": {"a": 1}, "nan": nan, "True": True, "torch.zeros(3)":
    torch.zeros(3), "np.array(5)": np.array(5), "iter(['a'])": iter(["a"]), "{'a'}":
    {"a"}
}
ODD = {
    "''": "", "[''] * 2": ["", ""], "' '": " ", "1 MB of words":
    "a big red circle " * 60_000, "1 MB in one word": "a" * 1_000_000, "surrogates":
    "\ud800\udfff red", "emoji": "🎨🖌️👩‍🎨", "NUL": "a\0b", "'<|endoftext|>' * 1000":
    "<|endoftext|>" * 1000, "'<|startoftext|>' * 3000": "<|startoftext|>" * 3000,
    "combining marks": "e" + "\u0301" * 10_000, "'\\n' * 1000": "\n" * 1000,
    "right to left": "‮a red circle", "digits": "1234567890" * 1000, "marks":
    "!?" * 10_000, "a bidi mess": "\u202e\u2066" * 100, "1,000 different words":
    " ".join(f"w{i}" for i in range(1000)), "controls": "".join(map(chr, range(32))),
    "U+10FFFF": "\U0010ffff" * 100, "ligatures": "ﬁ ﷺ ĳ Ǆ" * 500
}


def prompts(bench):
    "What may be given as a prompt, to the pipeline, the tokenizer and the command."
    rows = []
    for label, value in PROMPTS.items():
        rows.append(
            Row(f"pipe({label})", "pipeline", lambda b, v=value: b.paint_(v), "prompt"))
        if value is not None:
            rows.append(
                Row(f"pipe('a', negative_prompt={label})",
                    "pipeline",
                    lambda b, v=value: b.paint_("a", negative_prompt=v),
                    "negative_prompt"))
        taken = finite if label in ("[]", "()", "{}", "iter(['a'])", "{'a'}",
                                    "{'a': 1}") else None
        rows.append(
            Row(f"pipe.encode_prompt({label})",
                "pipeline",
                lambda b, v=value: b.pipe.encode_prompt(v),
                "prompt|text",
                taken))
        rows.append(
            Row(f"tokenizer({label})",
                "tokenizer",
                lambda b, v=value: torch.tensor(
                    b.pipe.tokenizer(v, padding="longest").input_ids).float(),
                "text",
                taken))
        rows.append(
            Row(f"tokenizer.tokenize({label})",
                "tokenizer",
                lambda b, v=value: b.pipe.tokenizer.tokenize(v),
                "text"))
    rows.append(
        Row("pipe(['a'] * 3, negative_prompt=['b'] * 2)", "pipeline",
            lambda b: b.paint_(["a"] * 3, negative_prompt=["b"] * 2),
            "negative_prompt"))
    for label, value in ODD.items():
        rows.append(
            Row(f"pipe({label})",
                "pipeline",
                lambda b, v=value: b.paint_(v),
                "prompt",
                finite))
        rows.append(
            Row(f"pipe('a', negative_prompt={label})",
                "pipeline",
                lambda b, v=value: b.paint_("a",
                                            negative_prompt=v
                                            if isinstance(v, str) else v[0]),
                "negative_prompt",
                finite))
        rows.append(
            Row(f"tokenizer({label})",
                "tokenizer",
                lambda b, v=value: torch.tensor(
                    b.pipe.tokenizer(v, padding="longest").input_ids).float(),
                "text",
                finite))
        if isinstance(value, str):
            rows.append(
                Row(f"minidiff_sample {label}",
                    "commands",
                    lambda b, v=value: b.sample(prompt=v),
                    "prompt",
                    _noted(label)))
            rows.append(
                Row(f"minidiff_sample a --negative {label}",
                    "commands",
                    lambda b, v=value: b.sample("--negative", v)
                    if not v.startswith("-") else "",
                    "negative",
                    anything))
    return rows


def _job():
    from minidiff import latent_diffusion
    return latent_diffusion


def _noted(label):
    "The command says in one note what it makes of a strange prompt."
    def fine(said):
        lines = said.strip().splitlines()
        if any(len(line) > 500 for line in lines):
            return f"a note of {max(map(len, lines))} characters"
        if len(lines) > 2: return f"{len(lines)} lines of notes"
        wanted = label not in ("right to left", "NUL")
        return "" if lines or not wanted else "a picture of nothing that was asked for, and no note"

    return fine


def pipeline_arguments(bench):
    "Every argument of the pipeline, and of opening and saving it."
    rows = []
    size = lambda v, was: _real(v) and v > 0 and v % 2 == 0 and v <= 256
    rules = dict(height=maybe(size),
                 width=maybe(size),
                 num_inference_steps=whole(1, 1000),
                 guidance_scale=real(),
                 generator=maybe(same),
                 latents=maybe(same),
                 callback=lambda v, was: not v,
                 output_type=choice("pil", "pt", "latent"),
                 eta=real(0, 1),
                 num_images_per_prompt=whole(1, 64),
                 prompt_embeds=maybe(same),
                 negative_prompt_embeds=maybe(same),
                 callback_on_step_end=lambda v, was: not v,
                 callback_on_step_end_tensor_inputs=maybe(record))
    from inspect import signature
    known = signature(type(bench.pipe).__call__).parameters
    for key, rule in rules.items():
        for value in VALUES.values():
            if key == "eta" and value is None: continue
            unknown = key not in known and key != "eta"
            names = rf"\b{key}\b" if key != "num_inference_steps" else "num_inference_steps|steps"

            def call(b, k=key, v=value):
                if k == "eta": b.pipe.scheduler = schedulers()["DDIMScheduler"]()
                more = dict(num_inference_steps=2) if k != "num_inference_steps" else {}
                return b.pipe("a red circle",
                              **{**dict(output_type="pt"), **more, k: v})

            rows.append(
                Row(
                    f"pipe('a', {key}={shorten(value)})", "pipeline", call, names,
                    None if unknown else (anything if key == "output_type" else finite)
                    if rule(value, "?") else None))
    rows.append(
        Row("pipe('a', colour=1)", "pipeline", lambda b: b.paint_("a", colour=1),
            "colour"))
    rows.append(
        Row("pipe()", "pipeline", lambda b: b.pipe(), "prompt", also=("TypeError", )))
    rows.append(
        Row("pipe('a', generator=[generator] * 2)", "pipeline",
            lambda b: b.paint_("a", generator=[torch.Generator()] * 2), "generator"))
    rows.append(
        Row("pipe('a', generator=[])", "pipeline",
            lambda b: b.paint_("a", generator=[]), "generator"))

    def raising(*_, **__):
        raise KeyboardInterrupt

    for value in VALUES.values():
        for name in ("n", "height", "width"):
            rule = whole(0, 64) if name == "n" else maybe(size)
            rows.append(
                Row(f"pipe.start_latents({name}={shorten(value)})",
                    "pipeline",
                    lambda b, k=name, v=value: b.pipe.start_latents(
                        **{**dict(n=1), k: v}),
                    rf"\b{name}\b",
                    finite if rule(value, 0) else None))
    parts = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    for part in parts:
        for value in (None, 5, "x", object(), torch.nn.Linear(2, 2)):
            rows.append(
                Row(f"LatentDiffusionPipeline({part}={shorten(value)[:20]})",
                    "pipeline",
                    lambda b, p=part, v=value: type(b.pipe)
                    (**{**{k: getattr(b.pipe, k)
                           for k in parts}, p: v}),
                    rf"\b{part}\b"))
    opened = dict(
        name=[
            None, 5, "", b"x", "nowhere", [], {}, nan, "\0", "x" * 300, "/", "a\nb",
            "~nobody/x", "..", True, "x/y", "runs/x"
        ],
        revision=[5, [], "x"],
        variant=[5, "x", "", [], "../x"],
        dtype=["x", "float32", 5, torch.int8, torch.bool, torch.complex64, []],
        device=["x", 5.5, "tpu", [], "cuda:99"])
    from minidiff.sd_unet import UNet2DConditionModel
    for key, values in opened.items():
        for value in values:
            call = lambda b, k=key, v=value: type(b.pipe).from_pretrained(
                **{**dict(name=b.source), k: v})
            legal = key == "dtype" and value == "float32" or key == "revision" or key == "variant" and value == ""
            names = {
                "name": "folder|name|there is|hub|Hub", "variant":
                "variant|there is no file"
            }.get(key, key)
            rows.append(
                Row(f"LatentDiffusionPipeline.from_pretrained({key}={shorten(value)})",
                    "pipeline", call, names, anything if legal else None))
            call = lambda b, k=key, v=value: UNet2DConditionModel.from_pretrained(
                **{**dict(name=b.source / "unet"), k: v})
            rows.append(
                Row(f"UNet2DConditionModel.from_pretrained({key}={shorten(value)})",
                    "hub", call, names, anything if legal else None))
            if key == "name":
                rows.append(
                    Row(f"open_run({shorten(value)})",
                        "latent_diffusion",
                        lambda b, v=value: _job().open_run(v),
                        names,
                        anything if value is None else None))
    for value in (5, "", "x", "..", "a\0", None, b"x"):
        rows.append(
            Row(f"UNet2DConditionModel.from_pretrained(subfolder={value!r})",
                "hub",
                lambda b, v=value: UNet2DConditionModel.from_pretrained(
                    b.source / "unet", subfolder=v),
                "subfolder|folder|file",
                anything if value in ("", None) else None))
    rows.append(
        Row("LatentDiffusionPipeline.from_pretrained(colour=1)", "pipeline",
            lambda b: type(b.pipe).from_pretrained(b.source, colour=1), "colour"))
    for label, where in dict(pipe="pipeline",
                             unet="hub",
                             tokenizer="tokenizer",
                             scheduler="hub").items():
        for value in (None, 5, "", b"x", "a\0b", [], nan, "/dev/null/x", "FILE",
                      "FILE/under", "x" * 300):

            def call(b, label=label, v=value):
                (b.tmp / "file").write_text("x")
                part = b.pipe if label == "pipe" else getattr(b.pipe, label)
                return part.save_pretrained(
                    str(b.tmp / "file") +
                    v[4:] if isinstance(v, str) and v.startswith("FILE") else v)

            rows.append(
                Row(f"{label}.save_pretrained({shorten(value)})",
                    where,
                    call,
                    "folder|file|null|name too long|xxx",
                    anything if value == "" else None,
                    also=("NotADirectoryError", "FileExistsError", "OSError")))
    rows.append(
        Row("pipe.to('x')", "pipeline", lambda b: b.pipe.to("x"), "device|'x'|x"))
    rows.append(
        Row("pipe.to(torch.int8)", "pipeline", lambda b: b.pipe.to(torch.int8),
            "dtype|int8"))
    rows.append(
        Row("pipe.to(None, 5)", "pipeline", lambda b: b.pipe.to([]), "to|device|dtype"))
    return rows


# --- text, files, books, plots ---------------------------------------------------------------------------------------
def text_arguments(bench):
    "The tokenizer in Python."
    rows, tokenizer = [], bench.pipe.tokenizer
    from minidiff.tokenizer import CLIPTokenizer, train_bpe
    rules = dict(padding=choice(True, False, None, "max_length", "longest",
                                "do_not_pad", 0),
                 max_length=maybe(whole(2, 512)),
                 truncation=choice(True, False, None, "longest_first",
                                   "do_not_truncate", "only_first", 0),
                 return_tensors=choice(None, "pt", "np"))
    for key, rule in rules.items():
        for value in [*VALUES.values(), "maxlength", "np", "tf", "pt", 1, 2]:
            legal = not isinstance(value, (list, dict)) and rule(value, 0)

            def call(b, k=key, v=value):
                made = b.pipe.tokenizer(["a red circle"],
                                        **{**dict(padding="max_length"), k: v})
                rows_ = made.input_ids
                longest = max(map(
                    len, rows_)) if not torch.is_tensor(rows_) else rows_.shape[1]
                if k == "max_length" and v is not None and longest != v and not (longest
                                                                                 < v):
                    return nan
                return 1.0

            rows.append(
                Row(f"tokenizer(['a'], {key}={shorten(value)})", "tokenizer", call,
                    rf"\b{key}\b", finite if legal else None))
    for value in [
            *VALUES.values(), [10**9], [-1], [nan], ["x"], [[1]],
            torch.tensor([[1, 2]]),
            torch.tensor([0.5]),
            torch.tensor(5), b"x", [1.0]
    ]:
        one = _real(value) and value in (0, 7)
        legal = one or isinstance(value, list) and value in (
            [], [1, 2, 3],
            [1.0]) or value == {} if not torch.is_tensor(value) else value.ndim == 0
        rows.append(
            Row(f"tokenizer.decode({shorten(value)})",
                "tokenizer",
                lambda b, v=value: b.pipe.tokenizer.decode(v),
                r"\bids?\b",
                anything if legal else None))
        rows.append(
            Row(f"tokenizer.batch_decode({shorten(value)})",
                "tokenizer",
                lambda b, v=value: b.pipe.tokenizer.batch_decode(v),
                r"\bids?\b|rows",
                anything if not torch.is_tensor(value)
                and value in ([], {}, "", [1, 2, 3], [[1]], b"x")
                or torch.is_tensor(value) and value.ndim == 2 else None))
    good = dict(vocab=tokenizer.vocab, merges=tokenizer.merges)
    bad = dict(
        vocab=VALUES.values(),
        merges=[
            *VALUES.values(), [("a", )], [("a", "b", "c")], [5], ["ab"], [(1, 2)],
            [["a", None]]
        ],
        model_max_length=VALUES.values(),
        bos_token=VALUES.values(),
        eos_token=VALUES.values(),
        unk_token=VALUES.values(),
        pad_token=VALUES.values(),
        added_tokens=[*VALUES.values(), {"zz": "x"}, {5: 5}, {"": 600}, {"zz": 1}])
    for key, values in bad.items():
        for value in values:
            legal = key == "merges" and value in ([], {}) or key.endswith(
                "_token"
            ) and value == "x" or key == "model_max_length" and whole(3, inf)(
                value, 0
            ) or key == "added_tokens" and not value or key == "model_max_length" and value is None

            def call(b, k=key, v=value):
                made = CLIPTokenizer(**{**good, k: v})
                return torch.tensor(made("a red circle").input_ids).float()

            rows.append(
                Row(f"CLIPTokenizer({key}={shorten(value)})", "tokenizer", call,
                    rf"\b{key}\b|vocab", finite if legal else None))
    for value in VALUES.values():
        if isinstance(value, (int, float)) and not isinstance(
                value, bool) and value == value and 514 <= value:
            continue
        rows.append(
            Row(f"train_bpe(['a'], vocab_size={shorten(value)})",
                "tokenizer",
                lambda b, v=value: train_bpe(["a"], v),
                "vocab_size"))
    for value in (None, 5, "abc", b"abc", [5], [None], [["a"]], nan, {}):
        rows.append(
            Row(f"train_bpe({value!r}, 600)",
                "tokenizer",
                lambda b, v=value: train_bpe(v, 600),
                "texts?",
                anything if value == {} else None))
    return rows


def file_functions(bench):
    "Reading and writing single files."
    from minidiff import files, hub
    rows = []

    def row(label, call, names, fine=None, also=()):
        rows.append(Row(label, "files", call, names, fine, also=also))

    paths = [
        None, 5, "", b"x", "nowhere", [], nan, "a\0b", "/dev/null/x", "x" * 300, {},
        True
    ]
    for value in paths:
        for name in ("read_json", "load_safetensors", "load_metadata", "find_folder"):
            row(f"{name}({shorten(value)})",
                lambda b, n=name, v=value: getattr(hub if n == "find_folder" else files, n)(v),
                "path|file|folder|name|there is",
                anything if name == "find_folder" and value == "" else None)
        if value not in ("nowhere", True):
            row(f"save_safetensors({{}}, {shorten(value)})",
                lambda b, v=value: files.save_safetensors({}, v),
                "path|file|null|too long|name|irectory",
                also=("NotADirectoryError", "OSError", "IsADirectoryError",
                      "FileExistsError"))
        if value not in ("nowhere", True):
            row(f"write_json({{}}, {shorten(value)})",
                lambda b, v=value: files.write_json({}, v),
                "path|file|null|too long|name|irectory",
                also=("NotADirectoryError", "OSError", "IsADirectoryError",
                      "FileExistsError"))
    sets = {
        "None": None, "5": 5, "[]": [], "{'a': 5}": {"a": 5}, "{5: tensor}":
        {5: torch.zeros(1)}, "{'a': None}": {"a": None}, "{'a': array}":
        {"a": np.zeros(1)}, "meta": {"a": torch.zeros(1, device="meta")}, "sparse":
        {"a": torch.zeros(2, 2).to_sparse()}, "{'a': {'b': tensor}}":
        {"a": {"b": torch.zeros(1)}}
    }
    for label, value in sets.items():
        row(f"save_safetensors({label})",
            lambda b, v=value: files.save_safetensors(v, b.tmp / "x.safetensors"),
            "tensors?|\\ba\\b|keys?")
    for label, value in {
            "5": 5, "'x'": "x", "[]": [], "{'a': 5}": {"a": 5}, "{5: 'a'}": {5: "a"},
            "{'a': None}": {"a": None}
    }.items():
        row(f"save_safetensors(metadata={label})",
            lambda b, v=value: files.save_safetensors({"a": torch.zeros(1)}, b.tmp /
                                                    "x.safetensors", v),
            "metadata",
            anything if value == [] else None)
    circle = {}
    circle["a"] = circle
    for label, value in {
            "a set": {"a": {1}}, "an object": {"a": object()}, "a tensor":
        {"a": torch.zeros(1)}, "a circle": circle, "bytes": {"a": b"x"}, "tuple keys":
        {(1, 2): 3}, "a surrogate": {"a": "\ud800"}
    }.items():
        row(f"write_json({label})",
            lambda b, v=value: files.write_json(v, b.tmp / "x.json"),
            "content|JSON|json",
            anything if label == "a surrogate" else None)
    overlap = torch.zeros(10)

    def views(b):
        files.save_safetensors({"a": overlap[:6], "b": overlap[4:]},
                             b.tmp / "x.safetensors")
        return files.load_safetensors(b.tmp / "x.safetensors")

    row("save_safetensors(overlapping views)", views, "a", finite)
    return rows


def books(bench):
    "Sketchbooks, stickers, critics, grids."
    from minidiff import plots, sketchbook
    from minidiff.stickers import StickerBook, StickerCritic
    rows = []
    generator = maybe(same)

    def each(label, where, call, key, rule, values=None):
        for value in values or VALUES.values():
            rows.append(
                Row(f"{label}({key}={shorten(value)})",
                    where,
                    lambda b, v=value: call(**{key: v}),
                    rf"\b{key}\b",
                    finite if rule(value, "?") else None))

    book = sketchbook.Sketchbook(32)
    draw = lambda **k: book.draw(**{**dict(n=2), **k})[0]
    stickers = StickerBook(32)
    for label, b, where in (("Sketchbook(32).draw", book, "sketchbook"),
                            ("StickerBook(32).draw", stickers, "stickers")):
        draw = lambda b=b, **k: b.draw(**{**dict(n=2), **k})[0]
        each(label, where, draw, "n", whole(0, 64))
        each(label, where, draw, "n_objects", maybe(choice(1, 2)), [
            *(v for v in VALUES.values() if not isinstance(v, (list, dict))), 3, [], {}
        ])
        each(label, where, draw, "split", choice("train", "heldout", "all"))
        each(label, where, draw, "generator", maybe(same))
    for where, Book, Critic in (("sketchbook", sketchbook.Sketchbook, sketchbook.Critic),
                                ("stickers", StickerBook, StickerCritic)):
        each(Book.__name__, where, lambda Book=Book, **k: Book(**k).draw(1)[0], "size",
             whole(32, 256))
        each(Critic.__name__, where, lambda Critic=Critic, **k: Critic(**k).read(
            torch.zeros(1, 3, k.get("size", 32), 32)).n_objects, "size", choice(32))
    for value in (None, 5, "x", [], {}, object()):
        for name in ("paint", "caption"):
            rows.append(
                Row(f"Sketchbook(32).{name}(scenes={shorten(value)[:18]})",
                    "sketchbook",
                    lambda b, n=name, v=value: getattr(book, n)(v),
                    "scenes"))
        rows.append(
            Row(f"Critic().score(images, scenes={shorten(value)[:18]})",
                "sketchbook",
                lambda b, v=value: sketchbook.Critic().score(torch.zeros(1, 3, 32, 32),
                                                             v),
                "scenes"))
    rows.append(
        Row(
            "Critic().score(2 images, 3 scenes)",
            "sketchbook", lambda b: sketchbook.Critic().score(
                torch.zeros(2, 3, 32, 32), book.sample_scenes(3)), "scenes|images"))
    rows.append(
        Row(
            "Critic().score(images, sticker scenes)", "sketchbook",
            lambda b: sketchbook.Critic().score(torch.zeros(
                2, 3, 32, 32), stickers.sample_scenes(2)), "scenes|colou?r|sticker"))
    rows.append(
        Row("Sketchbook(32).paint(sticker scenes)", "sketchbook",
            lambda b: book.paint(stickers.sample_scenes(50)), "scenes|colou?r|sticker"))
    grid = lambda **k: torch.as_tensor(
        np.array(plots.image_grid(torch.zeros(2, 3, 4, 4), **k)))
    each("image_grid", "plots", grid, "ncols", whole(1, inf))
    each("image_grid", "plots", grid, "pad", whole(0, 64))
    each("image_grid", "plots", grid, "upscale", whole(1, 64))
    for label, images in {
            "two channels": torch.zeros(1, 2, 4,
                                        4), "no pixels": torch.zeros(1, 3, 0, 0),
            "sizes differ": [torch.zeros(3, 4, 4),
                             torch.zeros(3, 5, 5)], "[]": [], "[None]": [None], "['x']":
        ["x"], "channels last": torch.zeros(1, 4, 4, 3), "0..255": torch.full(
            (1, 3, 4, 4), 200.)
    }.items():
        for name in ("image_grid", "to_uint8", "show_images"):
            rows.append(
                Row(f"{name}({label})",
                    "plots",
                    lambda b, n=name, v=images: getattr(plots, n)(v),
                    "images"))
    each("smooth_curve", "plots", lambda **k: plots.smooth_curve([1., 2.], **k),
         "smooth", real(0, 0.999999))
    each("smooth_curve", "plots", lambda **k: plots.smooth_curve(**k), "values",
         lambda v, was: v in ([], [1, 2, 3], {}, ""))
    each("show_images", "plots",
         lambda **k: plots.show_images(torch.zeros(2, 3, 4, 4), **k) or 1.0, "ncols",
         whole(1, inf))
    each("show_images", "plots",
         lambda **k: plots.show_images(torch.zeros(2, 3, 4, 4), **k) or 1.0, "scale",
         real(above=0,
              high=10), [v for v in VALUES.values() if not (_real(v) and v > 10)])
    each("animate", "plots",
         lambda **k: plots.animate([torch.zeros(1, 3, 4, 4)] * 2, **k) or 1.0, "fps",
         real(above=0))
    for value in VALUES.values():
        rows.append(
            Row(f"animate({shorten(value)})",
                "plots",
                lambda b, v=value: plots.animate(v),
                r"\bframes?\b"))
    each("plot_losses", "plots", lambda **k: plots.plot_losses(**k) or 1.0, "losses",
         lambda v, was: v in ([], {}, [1, 2, 3], ""))
    each("illustration", "plots", lambda **k: plots.illustration(**k), "name",
         lambda v, was: False)
    return rows


# --- training --------------------------------------------------------------------------------------------------------
def _trainer(bench, **more):
    from minidiff.training import Trainer
    torch.manual_seed(0)
    settings = dict(model=torch.nn.Sequential(torch.nn.Linear(4, 20),
                                              torch.nn.Linear(20, 4)),
                    loss_fn=_loss,
                    batch_fn=_batch,
                    steps=4,
                    save_every=2,
                    device="cpu",
                    precision="no",
                    show_bar=False,
                    out=bench.tmp / "run")
    return Trainer(**{**settings, **more})


def _loss(model, batch):
    return (model(batch["x"]) - 1).square().mean()


def _batch(generator):
    return dict(x=torch.randn(4, 4, generator=generator))


def _state(trainer):
    states = [trainer.model.state_dict()] + ([trainer.ema_model.state_dict()]
                                             if trainer.ema_model is not None else [])
    return [t.clone() for state in states
            for t in state.values()] + [torch.tensor(trainer.losses)]


def trainer_arguments(bench):
    "Every argument of the trainer, and the small functions around it."
    rows = []
    rules = dict(model=lambda v, was: False,
                 loss_fn=lambda v, was: False,
                 batch_fn=lambda v, was: False,
                 steps=whole(1, 100),
                 lr=real(0),
                 warmup=real(0, 1),
                 min_lr=real(0, 1),
                 decay=maybe(real(0, 1)),
                 optimizer=choice("adamw", "muon"),
                 weight_decay=real(0),
                 betas=lambda v, was: False,
                 clip=maybe(real(0)),
                 accumulate=whole(1, 2),
                 ema=maybe(real(0, 1)),
                 precision=choice("auto", "no", "bf16"),
                 channels_last=flag,
                 compile=lambda v, was: v in (False, None) and v != 0 or v is False,
                 seed=whole(-inf, inf),
                 out=maybe(lambda v, was: isinstance(v, str) and v in ("x", "1")),
                 name=lambda v, was: v in ("x", "1"),
                 save_every=maybe(whole(1)),
                 preview=maybe(same),
                 preview_every=maybe(whole(1)),
                 device=choice(None, "cpu"),
                 show_bar=flag)
    for key, rule in rules.items():
        values = [*VALUES.values()] + dict(
            betas=[(0.9, ), (0.9, 1.0), (-0.1, 0.9), (nan, 0.9), ("x", 0.9),
                   (0.9, 0.9, 0.9), (None, None)],
            name=["../../evil", "a/b", "a\0", ".", "..", "a" * 300, "/etc/x"],
            device=["tpu", "cuda:99", "gpu", "mps"],
            out=[b"x", "a\0b", "/dev/null/x", "x" * 300],
            optimizer=["Adam", "sgd"],
            precision=["fp32", "float16", "fp16"],
            seed=[2**64, -1, 1.5]).get(key, [])
        for value in values:
            if key == "steps" and _real(
                    value) and value > 100 or key == "compile" and value in (True, 1):
                continue  # long jobs, and no mistakes
            try:
                legal = rule(value, "?")
            except TypeError:
                legal = False

            def call(b, k=key, v=value):
                import os
                os.chdir(b.tmp)
                return _state(_trainer(b, **{k: v}).fit())

            allowed = (finite if key != "lr" else anything) if legal else None
            names = "accumul" if key == "accumulate" else rf"\b{key}\b"
            bursts = key in (
                "lr", "weight_decay"
            )  # one that is too large makes the loss NaN, which is said
            names, also = (names + "|the loss",
                           ("FloatingPointError", )) if bursts else (names, ())
            rows.append(
                Row(f"Trainer({key}={shorten(value)})", "training", call, names, allowed,
                    30, also))
    rows.append(
        Row("Trainer(colour=1)", "training", lambda b: _trainer(b, colour=1), "colour"))
    rows.append(
        Row("Trainer() of a model without parameters", "training",
            lambda b: _trainer(b, model=torch.nn.ReLU()).fit(), "model|parameters"))
    rows.append(
        Row(
            "Trainer() of a frozen model", "training", lambda b: _trainer(
                b, model=torch.nn.Linear(4, 4).requires_grad_(False)).fit(),
            "model|parameters"))

    def loss(value):
        return lambda model, batch: value(_loss(model, batch), model, batch)

    losses = {
        "None": lambda l, m, b: None, "a float": lambda l, m, b: 1.0, "a vector":
        lambda l, m, b: m(b["x"]).mean(1), "detached": lambda l, m, b: l.detach(),
        "an int tensor": lambda l, m, b: l.long(), "a complex": lambda l, m, b: l * 1j,
        "a text": lambda l, m, b: "x", "a tuple": lambda l, m, b: (l, l)
    }
    for label, value in losses.items():
        rows.append(
            Row(f"Trainer(loss_fn returns {label})",
                "training",
                lambda b, v=value: _trainer(b, loss_fn=loss(v)).fit(),
                "loss"))
    for label, value in {
            "NaN": lambda l, m, b: l * nan, "inf": lambda l, m, b: l * inf
    }.items():
        rows.append(
            Row(f"Trainer(loss_fn returns {label})",
                "training",
                lambda b, v=value: _trainer(b, loss_fn=loss(v)).fit(),
                "loss",
                also=("FloatingPointError", )))
    batches = {
        "None": None, "a list": [torch.zeros(4, 4)], "{}": {}, "a tensor":
        torch.zeros(4,
                    4), "{'x': None}": {"x":
                                        None}, "another name": {"y": torch.zeros(4, 4)},
        "lengths differ": {"x": torch.zeros(4, 4), "y": torch.zeros(3)}, "a scalar":
        {"x": torch.tensor(1.0)}, "no rows": {"x": torch.zeros(0, 4)}, "a text": "x"
    }
    for label, value in batches.items():
        for parts in (1, 2):
            mine = anything if label == "lengths differ" and parts == 1 else None
            also = ("KeyError", "TypeError", "RuntimeError",
                    "AttributeError") if label == "another name" or label in (
                        "{'x': None}", "a scalar") and parts == 1 else (
                                                   )  # raised in the user's own loss
            names = "." if also else "batch"
            rows.append(
                Row(f"Trainer(batch_fn returns {label}, accumulate={parts})",
                    "training",
                    lambda b, v=value, p=parts: _trainer(
                        b, batch_fn=lambda g: v, accumulate=p).fit(),
                    names if label != "no rows" else "batch|loss",
                    mine,
                    also=also + (("FloatingPointError", ) if label == "no rows" else
                                 ())))
    for value in VALUES.values():
        rows.append(
            Row(f"Trainer.fit(resume={shorten(value)})",
                "training",
                lambda b, v=value: _state(_trainer(b).fit(resume=v)),
                "resume",
                finite if flag(value, 0) else None))
    from minidiff import training
    for value in VALUES.values():
        for key in ("seed", "step"):
            rows.append(
                Row(f"step_generator({key}={shorten(value)})",
                    "training",
                    lambda b, k=key, v=value: training.step_generator(
                        **{**dict(seed=0, step=0), k: v}),
                    rf"\b{key}\b",
                    anything if whole(-inf, inf)(value, 0) else None))
        rows.append(
            Row(f"seed_all({shorten(value)})",
                "training",
                lambda b, v=value: training.seed_all(v),
                r"\bseed\b",
                anything if whole(-inf, inf)(value, 0) else None))
        rows.append(
            Row(f"EMA(decay={shorten(value)})",
                "training",
                lambda b, v=value: _ema(v),
                r"\bdecay\b",
                finite if real(0, 1)(value, 0) else None))
        for key, rule in dict(index=choice(0, 1, False, True), parts=whole(1,
                                                                           2)).items():
            legal = not isinstance(value, (list, dict)) and rule(value, 0)
            rows.append(
                Row(f"shard(batch, {key}={shorten(value)})",
                    "training",
                    lambda b, k=key, v=value: parallel.shard(
                        dict(x=torch.zeros(4)), **{**dict(index=0, parts=2), k: v}),
                    rf"\b{key}\b",
                    finite if legal else None))
    return rows


def _ema(decay):
    from minidiff.optimizers import EMA
    module = torch.nn.Linear(2, 2)
    made = EMA(module, decay)
    for _ in range(3):
        made.update(module)
    return list(made.module.state_dict().values())


def job_arguments(bench):
    "A job and its preset; what is taken must train to the end and give finite weights."
    from dataclasses import fields, replace
    rows, job = [], _job()
    rules = dict(preset=lambda v, was: False,
                 out=lambda v, was: v in (None, "x", "1"),
                 seed=whole(-2**63, 2**63),
                 resume=flag,
                 device=choice(None, "cpu"),
                 show_bar=flag)

    def run(b, preset=None, **more):
        import os
        os.chdir(b.tmp)
        made = job.Job(
            **{
                **dict(preset=preset or tiny_preset(),
                       out=b.tmp / "run",
                       device="cpu",
                       show_bar=False), **more
            })
        pipe = made.run()
        return [
            list(m.state_dict().values())
            for m in (pipe.unet, pipe.vae, pipe.text_encoder)
        ]

    for key, rule in rules.items():
        for value in VALUES.values():
            call = lambda b, k=key, v=value: run(
                b, **{k: v}) if k != "preset" else job.Job(
                    v, b.tmp / "run", device="cpu", show_bar=False).run()
            rows.append(
                Row(f"Job({key}={shorten(value)})", "latent_diffusion", call,
                    rf"\b{key}\b", finite if rule(value, "?") else None, 60))
    choices = dict(size=choice(32),
                   vae=choice({}),
                   vae_training=choice(),
                   text=choice({}),
                   text_training=choice(),
                   unet=choice(),
                   unet_training=choice(),
                   pictures=whole(2, 64),
                   two_objects=real(0, 1),
                   drop=real(0, 1),
                   captions=whole(2, 64),
                   steps=whole(1, 100),
                   scale=real())
    for field in fields(job.Preset):
        for value in VALUES.values():
            legal = choices.get(field.name, same)(value, "?")
            if field.name in ("vae", "text") and value == {}:
                continue  # the default, which is larger
            if field.name in ("pictures", "captions") and _real(value) and value > 100:
                continue  # a long job, and no mistake
            rows.append(
                Row(f"Job(Preset({field.name}={shorten(value)}))",
                    "latent_diffusion",
                    lambda b, n=field.name, v=value: run(
                        b, replace(tiny_preset(), **{n: v})),
                    rf"\b{field.name}\b|batch_size|steps",
                    finite if legal else None,
                    60))
    for name in ("vae_training", "text_training", "unet_training"):
        for key in ("batch_size", "steps", "lr", "colour"):
            for value in (None, "x", -1, 0, nan, 1.5, []):
                legal = key == "lr" and value in (0, 1.5)
                rows.append(
                    Row(f"Job(Preset({name}=dict(..., {key}={shorten(value)})))",
                        "latent_diffusion",
                        lambda b, n=name, k=key, v=value: run(
                            b,
                            replace(tiny_preset(), **
                                    {n: {**getattr(tiny_preset(), n), k: v}})),
                        rf"\b{key}\b",
                        finite if legal else None,
                        60))
        rows.append(
            Row(f"Job(Preset({name} without batch_size))",
                "latent_diffusion",
                lambda b, n=name: run(
                    b,
                    replace(
                        tiny_preset(), **{
                            n: {
                                k: v
                                for k, v in getattr(tiny_preset(), n).items()
                                if k != "batch_size"
                            }
                        })),
                "batch_size",
                finite,
                60))
        rows.append(
            Row(f"Job(Preset({name} without steps))",
                "latent_diffusion",
                lambda b, n=name: run(
                    b,
                    replace(
                        tiny_preset(), **{
                            n: {
                                k: v
                                for k, v in getattr(tiny_preset(), n).items()
                                if k != "steps"
                            }
                        })),
                "steps",
                finite,
                60))
    for part, key in (("vae", "colour"), ("text", "colour"), ("unet", "colour"),
                      ("vae", "widths"), ("text", "widths"), ("text", "width"),
                      ("text", "layers"), ("text", "heads"), ("vae", "groups"),
                      ("unet", "block_out_channels"), ("unet", "sample_size"),
                      ("unet", "cross_attention_dim"), ("unet", "in_channels")):
        for value in (None, "x", -1, 0, [], 1.5, nan):
            legal = value == 0 and key == "layers" or value is None and key == "sample_size"
            rows.append(
                Row(f"Job(Preset({part}=dict(..., {key}={shorten(value)})))",
                    "latent_diffusion",
                    lambda b, p=part, k=key, v=value: run(
                        b,
                        replace(tiny_preset(), **
                                {p: {**getattr(tiny_preset(), p), k: v}})),
                    rf"\b{key}\b|norm_num_groups|block_out_channels|size|hidden_size|num_attention_heads|num_hidden_layers|channels",
                    finite if legal else None,
                    60))
    return rows


def _damaged_checkpoint(bench, damage, every=False, **more):
    """Train to the middle, damage the newest checkpoint (or every one), and go on to the end.

    The state at the end: the same as without damage, where the checkpoint before was taken."""
    first = _trainer(bench, steps=8, save_every=2)
    first.preview, first.preview_every = _stop, 6
    try:
        first.fit()
    except KeyboardInterrupt:
        pass
    files = sorted((bench.tmp / "run").rglob("*.safetensors"),
                   key=lambda p: p.stat().st_mtime_ns)
    newest = [first.checkpoint] if first.checkpoint in files else files[-1:]
    for path in files if every else newest:
        damage(path)
    return _state(_trainer(bench, steps=8, save_every=2, **more).fit(resume=True))


def _stop(trainer):
    raise KeyboardInterrupt


def _unharmed(bench):
    wanted = []

    def fine(state):
        if not wanted:
            bench.tmp = bench.tmp / "whole"
            wanted.append(_state(
                _trainer(bench, steps=8, save_every=2, out=None).fit()))
        same = len(state) == len(wanted[0]) and all(
            torch.equal(a, b) for a, b in zip(state, wanted[0]))
        return "" if same else "a damaged checkpoint was loaded: other weights"

    return fine


def checkpoints(bench):
    "Checkpoints of a training run, damaged; the one before is taken, or one line says so."
    rows, chance = [], random.Random(2)

    def row(label, damage, names="checkpoint", every=False, fine=True, **more):
        rows.append(
            Row(f"resume: {label}{', every one' if every else ''}", "training",
                lambda b: _damaged_checkpoint(b, damage, every, **more), names,
                _unharmed(bench) if fine else None))

    def flip(share, bit):
        def damage(path):
            data = bytearray(path.read_bytes())
            data[int(share * len(data))] ^= 1 << bit
            path.write_bytes(data)

        return damage

    def cut(share):
        return lambda path: path.write_bytes(path.read_bytes()[:int(share * path.stat().
                                                                    st_size)])

    row("an undamaged checkpoint", lambda path: None)
    for k in range(80):
        share, bit = chance.random(), chance.randrange(8)
        row(f"bit {bit} flipped at {share:.4f} of the file", flip(share, bit))
    for at in range(8):  # the length of the header
        row(f"bit 0 of byte {at} flipped",
            lambda path, at=at: path.write_bytes(
                bytes(b ^ (i == at) for i, b in enumerate(path.read_bytes()))))
    for k in range(12):
        share = chance.random()
        row(f"cut at {share:.4f} of the file", cut(share), every=k % 3 == 0)
    for label, content in {
            "empty": b"", "zeros": bytes(5000), "a pickle": pickle.dumps({}), "text":
            b"hello", "a git-lfs pointer": LFS
    }.items():
        for every in (False, True):
            row(label,
                lambda path, c=content: path.write_bytes(c),
                "checkpoint|lfs",
                every)

    def folder(path):
        path.unlink()
        path.mkdir()

    row("a folder", folder)

    def header(change):
        def damage(path):
            from minidiff.files import load_metadata, load_safetensors, save_safetensors
            tensors, metadata = load_safetensors(path), load_metadata(path)
            content = json.loads(metadata.get("minidiff", "{}"))
            made = change(content)
            metadata["minidiff"] = made if isinstance(
                made, str) else json.dumps(content if made is None else made)
            save_safetensors(tensors, path, metadata)

        return damage

    for key in ("step", "settings", "updates", "seconds", "scaler"):
        for every in (False, True):
            row(f"a header without {key}",
                header(lambda h, k=key: (h.pop(k, None), None)[1]),
                every=every)
        for value in WRONG.values():
            if key == "seconds" and value in (0, True, 1e9): continue
            row(f"a header with {key} {shorten(value)}",
                header(lambda h, k=key, v=value: h.update({k: v})),
                every=True)
    for label, value in {
            "not JSON": "{", "a list": "[]", "a number": "5", "null": "null", "text":
            '"x"'
    }.items():
        row(f"a header that is {label}", header(lambda h, v=value: v), every=True)

    def tensors(change):
        def damage(path):
            from minidiff.files import load_metadata, load_safetensors, save_safetensors
            loaded = load_safetensors(path)
            change(loaded)
            save_safetensors(loaded, path, load_metadata(path))

        return damage

    row("no losses", tensors(lambda t: t.pop("losses")), every=True)
    row("no weights",
        tensors(lambda t: [t.pop(k) for k in [*t] if k.startswith("model.")]),
        every=True)
    row("no ema",
        tensors(lambda t: [t.pop(k) for k in [*t] if k.startswith("ema.")]),
        every=True)
    row("no optimiser",
        tensors(lambda t: [t.pop(k) for k in [*t] if k.startswith("optimizer.")]),
        every=True)
    row("one optimiser state missing",
        tensors(lambda t: t.pop(next(k for k in t if k.startswith("optimizer.")))),
        every=True)
    row("an optimiser state named x.y",
        tensors(lambda t: t.update({"optimizer.x.y": torch.zeros(1)})),
        every=True)
    row("weights of another shape",
        tensors(lambda t: t.update(
            {k: v[:1]
             for k, v in t.items() if k.startswith("model.")})),
        every=True)
    row("optimiser of another shape",
        tensors(lambda t: t.update(
            {k: v.flatten()[:1]
             for k, v in t.items() if "exp_avg" in k})),
        every=True)
    row("weights of NaN",
        tensors(lambda t: t.update(
            {k: v * nan
             for k, v in t.items() if k.startswith("model.")})),
        every=True)
    other = dict(seed=5,
                 lr=1e-2,
                 steps=9,
                 optimizer="muon",
                 ema=0.5,
                 weight_decay=0.5,
                 betas=(0.8, 0.9),
                 clip=0.5,
                 accumulate=2,
                 warmup=0.5,
                 min_lr=0.5,
                 decay=0.5)
    for key, value in other.items():

        def call(b, k=key, v=value):
            _trainer(b).fit()
            return _trainer(b, **{k: v}).fit(resume=True)

        rows.append(
            Row(f"resume with {key}={value!r} another run's checkpoint", "training",
                call, rf"\b{key}\b"))

    def other_model(b):
        _trainer(b).fit()
        return _trainer(b, model=torch.nn.Linear(4, 4)).fit(resume=True)

    rows.append(
        Row("resume with another model", "training", other_model,
            "checkpoint|model|do not fit"))
    return rows


# --- the commands ----------------------------------------------------------------------------------------------------
def _said(text):
    "For commands that may go on: at most two short notes."
    lines = text.strip().splitlines()
    return "" if len(lines) <= 2 and all(
        len(line) <= 500 for line in lines) else f"{len(lines)} lines of notes"


def commands(bench):
    "All options of both commands."
    rows = []

    def sample(label, *argv, names, fine=None, seconds=20, **more):
        rows.append(
            Row(f"minidiff_sample {label}", "commands",
                lambda b: b.sample(*argv, **more), names, fine, seconds))

    numbers = {
        "--n": [
            "0", "-1", "1.5", "nan", "x", "", "1e3", "1000000000", "1" + "0" * 30, "٣",
            "1_0"
        ], "--steps": [
            "0", "-1", "1.5", "nan", "x", "", "1001", "1000000000", "1" + "0" * 30,
            "0x10"
        ], "--scale": ["nan", "inf", "-inf", "x", "", "1e40", "1e400",
                       "--"], "--seed": [
                           "1.5", "nan", "x", "",
                           str(2**64),
                           str(2**64 - 1), "-1", "-9223372036854775808", "1" + "0" * 30
                       ], "--enlarge":
        ["0", "-1", "1.5", "nan", "x", "", "10000", "1000000000", "1" + "0" * 30]
    }
    legal = {("--seed", "-1"), ("--seed", str(2**64 - 1)),
             ("--seed", "-9223372036854775808"), ("--n", "٣"), ("--n", "1_0"),
             ("--n", "1e3"), ("--steps", "0x10"), ("--seed", "1" + "0" * 30)}
    for option, values in numbers.items():
        for value in values:
            sample(f"{option} {value[:14]!r}", f"{option}={value}", names=rf"{option}\b", fine=_said if (option, value) in legal else None) if option != "--steps" else \
                rows.append(Row(f"minidiff_sample --steps {value[:14]!r}", "commands", lambda b, v=value: b.command("sample_command", "a red circle", "--from", str(b.source), "--out", str(b.tmp / "picture.png"), f"--steps={v}", out=b.tmp / "picture.png"), r"--steps\b", _said if (option, value) in legal else None))
    for option in ("--n", "--scale", "--seed", "--enlarge", "--negative", "--out",
                   "--from", "--steps"):
        rows.append(
            Row(f"minidiff_sample a {option}",
                "commands",
                lambda b, o=option: b.command("sample_command", "a", o),
                option))
    rows.append(
        Row("minidiff_sample", "commands", lambda b: b.command("sample_command"),
            "prompt"))
    rows.append(
        Row("minidiff_sample a b", "commands",
            lambda b: b.command("sample_command", "a", "b"), r"\bb\b"))
    for option in ("--colour", "--colour=1", "-x", "--resume", "--device"):
        rows.append(
            Row(f"minidiff_sample a {option}",
                "commands",
                lambda b, o=option: b.command("sample_command", "a", o),
                option.split("=")[0]))
    sample("--n 300 (in batches)",
           "--n",
           "300",
           "--enlarge",
           "1",
           names="--n",
           fine=_said,
           seconds=60)

    def out(label, make, names="--out|folder|file|extension|name", fine=None):
        def call(b):
            target = make(b)
            kept = b.tmp / "keep.png"
            kept.write_bytes(b"old")
            return b.sample("--out", target, out=b.tmp / "none")

        rows.append(
            Row(f"minidiff_sample a --out {label}", "commands", call, names, fine))

    def file(b):
        (b.tmp / "file").write_text("x")
        return b.tmp / "file"

    out("FOLDER", lambda b: str(b.tmp))
    out("FOLDER/", lambda b: str(b.tmp) + "/")
    out(".", lambda b: ".")
    out("/", lambda b: "/")
    out("''", lambda b: "")
    out("NUL", lambda b: str(b.tmp / "a\0.png"))
    out("a.xyz", lambda b: str(b.tmp / "a.xyz"))
    out("a.txt", lambda b: str(b.tmp / "a.txt"))
    out("a (no extension)", lambda b: str(b.tmp / "a"))
    out("a.PNG", lambda b: str(b.tmp / "a.PNG"), fine=_said)
    out("a.safetensors", lambda b: str(b.tmp / "a.safetensors"))
    out("FILE/x.png", lambda b: str(file(b) / "x.png"))
    out("FILE/x/y.png", lambda b: str(file(b) / "x/y.png"))
    out("a name of 300 letters", lambda b: str(b.tmp / ("a" * 300 + ".png")))
    out("/proc/x.png", lambda b: "/proc/x.png")
    out("/dev/null/x.png", lambda b: "/dev/null/x.png")
    out("a surrogate", lambda b: str(b.tmp / "a\udcff.png"), fine=_said)
    out("a\\nb.png", lambda b: str(b.tmp / "a\nb.png"), fine=_said)

    def link(b):
        (b.tmp / "l.png").symlink_to("l.png")
        return str(b.tmp / "l.png")

    out("a link to itself", link, fine=_said)

    def early(b):
        "A bad --out is found before anything is painted."
        from minidiff.pipeline import LatentDiffusionPipeline as P
        keep = P.__call__

        def call(self, *a, **k):
            raise RuntimeError("painted before --out was looked at")

        P.__call__ = call
        return b.sample("--out", str(b.tmp / "a.xyz"), out=b.tmp / "none")

    rows.append(
        Row("minidiff_sample a --out a.xyz (before painting)", "commands", early,
            "--out|extension"))

    def full(b):
        import resource
        import signal
        target = b.tmp / "old.png"
        target.write_bytes(b"old")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            return b.sample("--out", str(target), out=b.tmp / "none")
        except ValueError:
            if target.read_bytes() != b"old":
                raise RuntimeError(
                    "a failed painting destroyed the old picture") from None
            raise

    rows.append(
        Row("minidiff_sample a --out old.png (disk full)", "commands", full,
            "old\\.png|[Ff]ile too large|space|--out|write"))

    def full_training(b):
        import resource
        import signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return b.train()

    rows.append(
        Row("minidiff_train (disk full)",
            "commands",
            full_training,
            "[Ff]ile too large|space|write|--out|checkpoint|run",
            seconds=60))

    def save_full(b):
        import resource
        import signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return b.pipe.save_pretrained(b.tmp / "p")

    rows.append(
        Row("pipe.save_pretrained (disk full)",
            "hub",
            save_full,
            "[Ff]ile too large|space|write|safetensors|json",
            also=("OSError", )))

    def where(label, value, names="there is no|folder|--from|file|Hub|hub", fine=None):
        def call(b):
            return b.command("sample_command",
                             "a red circle",
                             f"--from={value(b) if callable(value) else value}",
                             "--out",
                             str(b.tmp / "p.png"),
                             "--steps",
                             "1",
                             out=b.tmp / "p.png")

        rows.append(
            Row(f"minidiff_sample a --from {label}", "commands", call, names, fine))

    for value in ("nowhere", "", "x/y", "hub:x/y", "hub:", "hub:..", "hub:x",
                  "hub:x/y/z", "hub:../..", "~nobody/x", "/", "/dev/null", "a\nb",
                  "x/y/z", "runs/nowhere", "./x/y", "C:\\x", "-",
                  "http://example.com/x", "x" * 300, "a\0b", "\udcff"):
        where(repr(value)[:30], value)
    where("FILE", lambda b: file(b))
    where("an empty folder", lambda b: b.tmp)
    where("one part's folder", lambda b: b.source / "unet")
    where("a folder of notes", lambda b: (b.tmp / "x.txt").write_text("x") and b.tmp)

    def asked(b):
        "--from x/y, where there is no such folder, must not ask the Hub."
        import huggingface_hub

        def fetch(*a, **k):
            raise RuntimeError("the Hub was asked")

        huggingface_hub.snapshot_download = fetch
        try:
            return b.command("sample_command", "a", "--from", "x/y", "--out",
                             str(b.tmp / "p.png"))
        except ValueError as error:
            if "Hub was asked" in str(error):
                raise RuntimeError("the Hub was asked") from None
            raise

    rows.append(
        Row("minidiff_sample a --from x/y (asks no Hub)", "commands", asked,
            "there is no folder|folder"))

    def train(label, *argv, names, fine=None, seconds=60):
        rows.append(
            Row(f"minidiff_train {label}", "commands",
                lambda b: b.train(*(a(b) if callable(a) else a for a in argv)), names,
                fine, seconds))

    for value in ("x", "", "CPU", "smoke "):
        train(f"--preset {value!r}", f"--preset={value}",
              names="--preset") if False else rows.append(
                  Row(f"minidiff_train --preset {value!r}",
                      "commands",
                      lambda b, v=value: b.command("train_command", f"--preset={v}"),
                      "--preset"))
    for value in ("x", "1.5", "nan", "", "1" + "0" * 30, str(2**64), "-1"):
        train(f"--seed {value[:12]!r}",
              f"--seed={value}",
              names="--seed|seed",
              fine=_said if value in ("-1", "1" + "0" * 30, str(2**64)) else None)
    for value in ("tpu", "", "gpu", "cuda:99"):
        rows.append(
            Row(f"minidiff_train --device {value!r}",
                "commands",
                lambda b, v=value: b.train(f"--device={v}"),
                "--device"))
    for option in ("--preset", "--seed", "--device", "--out"):
        rows.append(
            Row(f"minidiff_train {option}",
                "commands",
                lambda b, o=option: b.command("train_command", o),
                option))
    for option in ("--colour", "-x", "extra", "--steps=5", "--resume=1"):
        rows.append(
            Row(f"minidiff_train {option}",
                "commands",
                lambda b, o=option: b.command("train_command", o),
                option.split("=")[0]))
    for label, make in {
            "FILE": lambda b: str(file(b)), "FILE/x": lambda b: str(file(b) / "x"),
            "''": lambda b: "", "/dev/null/x": lambda b: "/dev/null/x", "NUL":
            lambda b: str(b.tmp / "a\0"), "300 letters":
            lambda b: str(b.tmp / ("a" * 300)), "/proc/x": lambda b: "/proc/x"
    }.items():
        rows.append(
            Row(f"minidiff_train --out {label}",
                "commands",
                lambda b, m=make: b.train(f"--out={m(b)}"),
                "--out|folder|file|name|irectory",
                None,
                60))

    def again(*argv):
        def call(b):
            b.train()
            before = {
                p.name: p.read_bytes()
                for p in (b.tmp / "run").rglob("*.safetensors")
            }
            try:
                return b.train(*argv)
            except ValueError:
                after = {
                    p.name: p.read_bytes()
                    for p in (b.tmp / "run").rglob("*.safetensors")
                }
                if before != after:
                    raise RuntimeError(
                        "refused, and yet it changed the folder") from None
                raise

        return call

    rows.append(
        Row("minidiff_train twice into a folder, without --resume", "commands", again(),
            "--resume|another folder", None, 90))
    rows.append(
        Row("minidiff_train --resume --seed 5 into another run's folder", "commands",
            again("--resume", "--seed", "5"), "seed", None, 90))

    def mixed(b):
        b.train()
        from minidiff import latent_diffusion as job
        from dataclasses import replace
        made = tiny_preset()
        job.PRESETS["other"] = replace(
            made, unet_training={**made.unet_training, "batch_size": 4})
        return b.train("--resume", "--preset", "other")

    rows.append(
        Row("minidiff_train --resume with another batch size", "commands", mixed,
            "batch_size", None, 90))
    return rows


FAMILIES = dict(prompts=prompts,
                pipeline=pipeline_arguments,
                commands=commands,
                config_files=config_files,
                damaged_files=damaged_files,
                flipped_bits=flipped_bits,
                weights=odd_weights,
                tokenizer_files=tokenizer_files,
                scheduler_configs=scheduler_configs,
                model_configs=model_configs,
                tensors=tensors,
                text=text_arguments,
                files=file_functions,
                books=books,
                trainer=trainer_arguments,
                job=job_arguments,
                checkpoints=checkpoints)


def families(bench):
    "All rows: name of the family -> its rows."
    made = {name: make(bench) for name, make in FAMILIES.items()}
    return {
        name: list({row.id: row
                    for row in rows}.values())
        for name, rows in made.items()
    }
