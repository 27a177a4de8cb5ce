"""LoRA: what it computes, whom it changes, and the files of diffusers and of kohya's scripts; against diffusers' own loader, with PEFT."""
import copy
import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from minidiff.checks import ConfigError, LoadError
from minidiff.files import load_safetensors
from minidiff.lora import (ATTENTION, LORA_FILE, TEXT_ATTENTION, LoRAConv2d, LoRALinear, add_lora, fuse_lora, load_lora, load_lora_parts, lora_layers,
                           lora_state_dict, read_lora, save_lora, set_lora_scale, split_key, unload_lora)
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.text_encoder import CLIPTextModel, CLIPTextModelWithProjection
from test_pipeline import OTHER, PROMPT, UNET, noise

TEXT = dict(vocab_size=64, hidden_size=32, intermediate_size=64, projection_dim=16, num_hidden_layers=2, num_attention_heads=4)
MORE = (*ATTENTION, "conv1", "conv_shortcut", "conv", "proj_in", "ff.net.0.proj", "ff.net.2", "time_emb_proj", "conv_in")


def unet():
    torch.manual_seed(1)
    return UNet2DConditionModel(**UNET).eval()


def ask(model):
    "A fixed question to a U-Net or a text encoder."
    if not hasattr(model, "conv_in"): return model(torch.arange(20).view(2, 10)).last_hidden_state
    g = torch.Generator().manual_seed(2)
    return model(torch.randn(2, 4, 8, 8, generator=g), 500, torch.randn(2, 7, 32, generator=g))


def stir(model, seed=3):
    "Make a LoRA say something."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in lora_layers(model).values(): layer.lora_B.weight.copy_(0.2 * torch.randn(layer.lora_B.weight.shape, generator=g))
    return model


def add_and_stir(model):
    add_lora(model, 2)
    stir(model)
    return model


@pytest.fixture
def real(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder / "real", safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# --- the layers -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layer, x", [
    (nn.Linear(6, 5), torch.randn(2, 3, 6)), (nn.Linear(6, 5, bias=False), torch.randn(6)), (nn.Conv2d(4, 5, 3, padding=1), torch.randn(2, 4, 6, 7)),
    (nn.Conv2d(4, 5, (1, 3), stride=2), torch.randn(2, 4, 6, 7)), (nn.Conv2d(4, 5, 3, dilation=2, bias=False), torch.randn(2, 4, 8, 8)), (nn.Conv2d(4, 5, 1), torch.randn(4, 3, 3))], ids=str)
@pytest.mark.parametrize("rank, alpha, scale", [(1, None, 1.0), (3, 1.5, 1.0), (2, 8, -0.5)])
@torch.no_grad()
def test_beside_and_within_are_equal(layer, x, rank, alpha, scale):
    model = nn.Sequential(copy.deepcopy(layer))
    plain = layer(x)
    add_lora(model, rank, "0", alpha)
    assert torch.equal(model(x), plain)
    stir(model)
    set_lora_scale(model, scale)
    up, down = model[0].lora_B.weight.flatten(1), model[0].lora_A.weight.flatten(1)
    by_hand = copy.deepcopy(layer)
    by_hand.weight += scale * (1 if alpha is None else alpha / rank) * (up @ down).view_as(layer.weight)
    torch.testing.assert_close(model(x), by_hand(x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model(x), plain, atol=1e-3)
    fuse_lora(model)
    assert type(model[0]) is type(layer)
    torch.testing.assert_close(model[0].weight, by_hand.weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("targets", [ATTENTION, MORE, "to_q", ["attn2.to_v"]], ids=str)
def test_a_fresh_lora_changes_nothing_and_alone_is_trained(targets):
    model = unet()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with torch.no_grad(): said = ask(model)
    trained = add_lora(model, 2, targets)
    exact = dict(atol=1e-6, rtol=1e-5) if targets is MORE else dict(atol=0, rtol=0)  # a plain GEGLU is two products, one with a LoRA is one
    with torch.no_grad(): torch.testing.assert_close(ask(model), said, **exact)
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in trained}
    assert len(trained) == 2 * len(lora_layers(model)) > 0
    optimizer = torch.optim.SGD(trained, 1.0)
    for _ in range(2):
        ask(model).square().mean().backward()
        optimizer.step()
    now = model.state_dict()
    assert all(torch.equal(now[name], x) for name, x in before.items())
    assert all(layer.lora_B.weight.abs().sum() > 0 for layer in lora_layers(model).values())
    assert {type(layer) for layer in lora_layers(model).values()} <= {LoRALinear, LoRAConv2d}
    unload_lora(model)
    with torch.no_grad(): assert torch.equal(ask(model), said)
    assert list(model.state_dict()) == list(before)


@torch.no_grad()
def test_fused_in_every_place_a_layer_is_called():
    "Some layers are called by their weights and not as layers (GEGLU, the projections of a transformer): with a LoRA they are not."
    model = unet()
    add_lora(model, 2, MORE)
    assert len(lora_layers(model)) > 40
    with_lora = ask(stir(model))
    fuse_lora(model)
    torch.testing.assert_close(ask(model), with_lora, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
@torch.no_grad()
def test_a_text_encoder(kind):
    torch.manual_seed(0)
    model = kind(**TEXT).eval()
    said = ask(model)
    add_lora(model, 2, (*TEXT_ATTENTION, "fc1", "fc2"))
    assert torch.equal(ask(model), said) and len(lora_layers(model)) == 12
    with_lora = ask(stir(model))
    assert not torch.allclose(with_lora, said, atol=1e-3)
    fuse_lora(model)
    torch.testing.assert_close(ask(model), with_lora, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_half_precision():
    model = nn.Sequential(nn.Linear(16, 16)).to(torch.bfloat16)
    add_lora(model, 2, "0")
    assert model[0].lora_A.weight.dtype == torch.bfloat16
    x = torch.randn(4, 16, dtype=torch.bfloat16)
    with_lora = stir(model)(x)
    fuse_lora(model)
    assert model[0].weight.dtype == torch.bfloat16
    torch.testing.assert_close(model(x), with_lora, atol=0.05, rtol=0.05)


def test_opening_rolls_no_dice():
    state = lora_state_dict_of(unet())
    model = unet()
    torch.manual_seed(5)
    load_lora(model, state)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    assert not any(p.requires_grad != model.conv_in.weight.requires_grad for p in model.parameters())


# --- files ----------------------------------------------------------------------------------------------------------
def lora_state_dict_of(model, targets=ATTENTION, rank=2, alpha=None):
    add_lora(model, rank, targets, alpha)
    return lora_state_dict(stir(model))


def named(state, down, up, prefix="unet."):
    return {prefix + name.replace("lora_A", down).replace("lora_B", up): x for name, x in state.items()}


def processors(state):
    "The oldest names."
    state = {name.replace("to_out.0", "to_out"): x for name, x in named(state, "lora.down", "lora.up").items()}
    return {name.replace(".to_", ".processor.to_").replace(".lora.", "_lora."): x for name, x in state.items()}


def kohya(state, alpha, prefix="lora_unet_"):
    found = {}
    for name, x in state.items():
        path, way = name.removesuffix(".weight").rsplit(".", 1)
        path = prefix + path.replace(".", "_")
        rank = x.shape[0 if way == "lora_A" else 1]
        found[f"{path}.{dict(lora_A='lora_down', lora_B='lora_up')[way]}.weight"] = x if way == "lora_A" else x * rank / alpha
        found[f"{path}.alpha"] = torch.tensor(float(alpha))
    return found


SPELLINGS = {"PEFT": lambda s: named(s, "lora_A", "lora_B"), "PEFT, with its adapter": lambda s: named(s, "lora_A.default", "lora_B.default"),
             "diffusers": lambda s: named(s, "lora.down", "lora.up"), "processors": processors, "kohya": lambda s: kohya(s, 1.5),
             "no prefix": lambda s: named(s, "lora_A", "lora_B", "")}


@pytest.mark.parametrize("spelling", SPELLINGS)
@torch.no_grad()
def test_every_spelling_is_read(spelling, tmp_path):
    model = unet()
    state = {name: x.contiguous() for name, x in SPELLINGS[spelling](lora_state_dict_of(model, alpha=3)).items()}
    save_file(state, tmp_path / "a.safetensors")
    fresh = unet()
    load_lora_parts({"unet": fresh}, read_lora(tmp_path))
    torch.testing.assert_close(ask(fresh), ask(model), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("spelling", ["processors", "kohya", "diffusers"])
def test_the_names_are_read_as_diffusers_reads_them(spelling, tmp_path):
    "`lora_state_dict` of diffusers renames what kohya and the oldest scripts wrote, and needs no PEFT for it."
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
    state = {name: x.contiguous() for name, x in SPELLINGS[spelling](lora_state_dict_of(unet())).items()}
    save_file(state, tmp_path / LORA_FILE)
    theirs, alphas = StableDiffusionPipeline.lora_state_dict(tmp_path)
    theirs = convert_unet_state_dict_to_peft(theirs)
    fresh = unet()
    load_lora_parts({"unet": fresh}, read_lora(tmp_path))
    mine = {f"unet.{path}.{name}.weight": getattr(layer, name).weight for path, layer in lora_layers(fresh).items() for name in ("lora_A", "lora_B")}
    assert mine.keys() == theirs.keys()
    for name, x in theirs.items(): torch.testing.assert_close(mine[name].detach(), x, atol=0, rtol=0)
    if alphas: assert {layer.lora_alpha for layer in lora_layers(fresh).values()} == set(alphas.values())


@pytest.mark.parametrize("kind", [CLIPTextModel, CLIPTextModelWithProjection])
@pytest.mark.parametrize("prefix, down, up", [("text_encoder.text_model.", "lora_A", "lora_B"), ("text_encoder.", "lora_A", "lora_B"),
                                              ("text_encoder.text_model.", "lora_linear_layer.down", "lora_linear_layer.up")])
@torch.no_grad()
def test_a_text_encoders_names(kind, prefix, down, up):
    torch.manual_seed(0)
    model = kind(**TEXT).eval()
    fresh, second = copy.deepcopy(model), copy.deepcopy(model)
    state = lora_state_dict_of(model, TEXT_ATTENTION)
    bare = {name.removeprefix("text_model."): x for name, x in state.items()}
    load_lora(fresh, named(bare, down, up, prefix))
    torch.testing.assert_close(ask(fresh), ask(model), atol=1e-5, rtol=1e-4)
    load_lora(second, kohya(bare, 4, "lora_te_text_model_"))
    torch.testing.assert_close(ask(second), ask(model), atol=1e-5, rtol=1e-4)
    old = "text_encoder.text_model.encoder.layers.1.self_attn.to_out_lora.up.weight"
    assert split_key(old) == ("text_encoder", "text_model.encoder.layers.1.self_attn.out_proj", "up")


@torch.no_grad()
def test_alphas_in_the_header(tmp_path):
    "diffusers writes PEFT's settings there, with a pattern for layers that differ."
    model = unet()
    state = lora_state_dict_of(model, rank=4)
    header = {"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_q": 2}, "unet.rank_pattern": {}, "unet.target_modules": ["to_q"]}
    save_file(named(state, "lora_A", "lora_B"), tmp_path / LORA_FILE, {"lora_adapter_metadata": json.dumps(header)})
    layers = read_lora(tmp_path)["unet"]
    assert {own["alpha"] for path, own in layers.items() if path.endswith("attn2.to_q")} == {2}
    assert {own["alpha"] for path, own in layers.items() if not path.endswith("attn2.to_q")} == {8}
    load_lora_parts({"unet": (fresh := unet())}, {"unet": layers})
    for path, layer in lora_layers(model).items(): layer.lora_scale = 0.5 if path.endswith("attn2.to_q") else 2.0
    torch.testing.assert_close(ask(fresh), ask(model), atol=1e-5, rtol=1e-4)
    header["unet.use_rslora"] = True
    save_file(named(state, "lora_A", "lora_B"), tmp_path / LORA_FILE, {"lora_adapter_metadata": json.dumps(header)})
    assert {own["alpha"] for own in read_lora(tmp_path)["unet"].values()} == {4, 16}


@torch.no_grad()
def test_what_is_written_is_read(tmp_path):
    model = unet()
    lora_state_dict_of(model, MORE, rank=3, alpha=1)
    torch.manual_seed(0)
    text = CLIPTextModel(**TEXT).eval()
    heard = copy.deepcopy(text)
    lora_state_dict_of(text, TEXT_ATTENTION)
    save_lora(tmp_path, unet=model, text_encoder=text)
    assert all(name.startswith(("unet.", "text_encoder.text_model.encoder.")) for name in load_safetensors(tmp_path / LORA_FILE))
    fresh = unet()
    load_lora_parts({"unet": fresh, "text_encoder": heard}, read_lora(tmp_path / LORA_FILE))
    torch.testing.assert_close(ask(fresh), ask(model), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ask(heard), ask(text), atol=1e-5, rtol=1e-4)


# --- the pipeline, and diffusers' -----------------------------------------------------------------------------------
def written_by_diffusers(ours, folder, alpha=None):
    "A LoRA of both networks in diffusers' file; gives the changes by part and path, scaled."
    changes = {}
    for part, targets in dict(unet=MORE, text_encoder=TEXT_ATTENTION).items():
        model = copy.deepcopy(getattr(ours, part))
        state = lora_state_dict_of(model, targets, 3, alpha)
        changes[part] = {path: layer.factor * layer.change().detach() for path, layer in lora_layers(model).items()}
        changes[f"{part} file"] = state if part == "unet" else named(state, "lora_linear_layer.down", "lora_linear_layer.up", "text_model.")
    StableDiffusionPipeline.save_lora_weights(folder, changes.pop("unet file"), changes.pop("text_encoder file"))
    return changes


@pytest.mark.parametrize("scale", [1.0, 0.4])
@torch.no_grad()
def test_the_picture_of_diffusers_with_the_same_change(scale, ours, real, tmp_path):
    "Its file, and its networks with the change added to their weights by hand: no PEFT is needed for that."
    options = dict(prompt=[PROMPT, OTHER], negative_prompt=["", "a star"], num_inference_steps=3, latents=noise(2), output_type="np", guidance_scale=4.0)
    plain = ours(**options)
    changes = written_by_diffusers(ours, tmp_path)
    for part, own in changes.items():
        for path, change in own.items():
            layer = getattr(real, part)
            if part == "text_encoder" and hasattr(layer, "text_model"): layer = layer.text_model
            layer.get_submodule(path).weight += scale * change
    theirs = real(**options).images
    ours.load_lora_weights(tmp_path, scale=scale)
    mine = ours(**options)
    np.testing.assert_allclose(mine, theirs, atol=1e-4, rtol=1e-4)
    assert abs(mine - plain).max() > 0.02
    ours.fuse_lora()
    np.testing.assert_allclose(ours(**options), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_the_picture_of_diffusers_own_loader(scale, ours, real, tmp_path):
    options = dict(prompt=[PROMPT, OTHER], num_inference_steps=3, latents=noise(2), output_type="np")
    written_by_diffusers(ours, tmp_path)
    real.load_lora_weights(tmp_path, adapter_name="own")
    real.set_adapters("own", scale)
    ours.load_lora_weights(tmp_path, scale=scale)
    np.testing.assert_allclose(ours(**options), real(**options).images, atol=1e-4, rtol=1e-4)


def test_diffusers_opens_ours(ours, real, tmp_path):
    for part, targets in dict(unet=ATTENTION, text_encoder=TEXT_ATTENTION).items(): lora_state_dict_of(getattr(ours, part), targets, 2, alpha=5)
    save_lora(tmp_path, unet=ours.unet, text_encoder=ours.text_encoder)
    options = dict(prompt=PROMPT, num_inference_steps=3, latents=noise(), output_type="np")
    real.load_lora_weights(tmp_path)
    np.testing.assert_allclose(ours(**options), real(**options).images, atol=1e-4, rtol=1e-4)


# --- files of PEFT's own making -------------------------------------------------------------------------------------
TRAINED = {"alpha above the rank": (dict(r=3, lora_alpha=12), dict(r=2, lora_alpha=2)), "alpha below": (dict(r=4, lora_alpha=1), dict(r=4, lora_alpha=3)),
           "ranks and alphas layer by layer": (dict(r=4, lora_alpha=6, rank_pattern={"attn1.to_q": 2, "conv_shortcut": 1}, alpha_pattern={"attn1.to_q": 7, "proj_in": 3}),
                                               dict(r=2, lora_alpha=5, rank_pattern={"layers.1.self_attn.v_proj": 3})),
           "the root of the rank": (dict(r=4, lora_alpha=3, use_rslora=True), dict(r=3, lora_alpha=2, use_rslora=True))}


def trained_with_peft(folder, name, destination, convert=None):
    "A LoRA in both networks of a pipeline, random and not small, in the file that diffusers' training scripts write."
    pipe = StableDiffusionPipeline.from_pretrained(folder / "real", safety_checker=None)
    g = torch.Generator().manual_seed(9)
    layers = {}
    for part, targets, options in zip(("unet", "text_encoder"), (MORE, TEXT_ATTENTION), TRAINED[name]):
        network = getattr(pipe, part)
        network.add_adapter(LoraConfig(target_modules=list(targets), init_lora_weights="gaussian", **options))
        with torch.no_grad():
            for key, x in network.named_parameters():
                if "lora_B" in key: x.copy_(0.1 * torch.randn(x.shape, generator=g))
                elif "lora_A" in key: x.copy_(0.3 * torch.randn(x.shape, generator=g))
        layers[part] = get_peft_model_state_dict(network)
        if convert: layers[part] = convert(layers[part])
    StableDiffusionPipeline.save_lora_weights(destination, layers["unet"], layers["text_encoder"], **_collate_lora_metadata({part: getattr(pipe, part) for part in layers}))


@pytest.mark.parametrize("scale", [1.0, 0.3, 0, -0.5])
@pytest.mark.parametrize("name", TRAINED)
def test_what_peft_trains_paints_the_same(name, scale, folder, ours, real, tmp_path):
    options = dict(prompt=[PROMPT, OTHER], negative_prompt=["", "a star"], num_inference_steps=3, latents=noise(2), output_type="np", guidance_scale=4.0)
    plain = ours(**options)
    trained_with_peft(folder, name, tmp_path)
    real.load_lora_weights(tmp_path, adapter_name="own")
    real.set_adapters("own", float(scale))
    theirs = real(**options).images
    ours.load_lora_weights(tmp_path, scale=scale)
    np.testing.assert_allclose(ours(**options), theirs, atol=1e-4, rtol=1e-4)
    if scale: assert abs(theirs - plain).max() > 0.02
    else: np.testing.assert_allclose(ours(**options), plain, atol=1e-5, rtol=1e-5)
    ours.fuse_lora()
    real.set_adapters("own", 1.0)
    real.fuse_lora(lora_scale=float(scale))
    real.unload_lora_weights()
    np.testing.assert_allclose(ours(**options), real(**options).images, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(ours(**options), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spelling", ["diffusers", "processors", "kohya", "PEFT"])
@torch.no_grad()
def test_every_spelling_paints_what_it_paints_in_diffusers(spelling, ours, real, tmp_path):
    options = dict(prompt=PROMPT, num_inference_steps=3, latents=noise(), output_type="np")
    plain = ours(**options)
    state = {name: x.contiguous() for name, x in SPELLINGS[spelling](lora_state_dict_of(copy.deepcopy(ours.unet), alpha=3)).items()}
    if spelling == "kohya":
        text = {name.removeprefix("text_model."): x for name, x in lora_state_dict_of(copy.deepcopy(ours.text_encoder), TEXT_ATTENTION).items()}
        state |= kohya(text, 4, "lora_te_text_model_")
    save_file({name: x.contiguous() for name, x in state.items()}, tmp_path / LORA_FILE)
    real.load_lora_weights(tmp_path)
    ours.load_lora_weights(tmp_path)
    assert bool(lora_layers(ours.text_encoder)) == (spelling == "kohya")
    theirs = real(**options).images
    np.testing.assert_allclose(ours(**options), theirs, atol=1e-4, rtol=1e-4)
    assert abs(theirs - plain).max() > 0.01


@pytest.mark.parametrize("targets, rank, alpha, scale", [(MORE, 3, 1, 1.0), (ATTENTION, 1, None, 0.5), (("conv1", "conv2"), 2, 4, -1.0)], ids=str)
def test_diffusers_paints_the_same_with_ours(targets, rank, alpha, scale, ours, real, tmp_path):
    options = dict(prompt=PROMPT, num_inference_steps=3, latents=noise(), output_type="np")
    plain = ours(**options)
    for part, own in dict(unet=targets, text_encoder=TEXT_ATTENTION).items(): lora_state_dict_of(getattr(ours, part), own, rank, alpha)
    save_lora(tmp_path, unet=ours.unet, text_encoder=ours.text_encoder)
    for part in ("unet", "text_encoder"): set_lora_scale(getattr(ours, part), scale)
    real.load_lora_weights(tmp_path, adapter_name="own")
    real.set_adapters("own", scale)
    theirs = real(**options).images
    np.testing.assert_allclose(ours(**options), theirs, atol=1e-4, rtol=1e-4)
    assert abs(theirs - plain).max() > 0.02


def test_off_again(ours, tmp_path):
    options = dict(prompt=PROMPT, num_inference_steps=2, latents=noise(), output_type="np")
    plain = ours(**options)
    written_by_diffusers(ours, tmp_path)
    ours.load_lora_weights(tmp_path)
    with pytest.raises(ConfigError, match="a LoRA already"): ours.load_lora_weights(tmp_path)
    with pytest.raises(ConfigError, match="LoRA"): ours.save_pretrained(tmp_path / "saved")
    for part in ("unet", "text_encoder"):
        with pytest.raises(ConfigError, match="has a LoRA on; fuse_lora or unload_lora before"): getattr(ours, part).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    for _ in range(2):  # when there is none, there is nothing to take off
        ours.unload_lora_weights()
        np.testing.assert_array_equal(ours(**options), plain)
    ours.save_pretrained(tmp_path / "saved")
    ours.unet.save_pretrained(tmp_path / "saved/unet")


def test_two_one_after_the_other(ours, tmp_path):
    "Fused, the first is part of the weights; and a second time there is nothing to fuse."
    options = dict(prompt=PROMPT, num_inference_steps=2, latents=noise(), output_type="np")
    written_by_diffusers(ours, tmp_path)
    plain = ours(**options)
    with pytest.raises(ConfigError, match="fuse_lora: the pipeline has no LoRA on"): ours.fuse_lora()
    ours.load_lora_weights(tmp_path, scale=0.5)
    ours.fuse_lora()
    with pytest.raises(ConfigError, match="fuse_lora"): ours.fuse_lora()
    half = ours(**options)
    ours.load_lora_weights(tmp_path, scale=-0.5)
    np.testing.assert_allclose(ours(**options), plain, atol=1e-4, rtol=1e-4)
    ours.unload_lora_weights()
    np.testing.assert_array_equal(ours(**options), half)
    assert abs(half - plain).max() > 0.01


def test_the_lora_of_another_base_model(ours, tmp_path):
    "It is refused as a whole, text encoder and U-Net, and nothing has changed."
    options = dict(prompt=PROMPT, num_inference_steps=1, latents=noise(), output_type="np")
    plain = ours(**options)
    torch.manual_seed(1)
    wide = UNet2DConditionModel(**{**UNET, "cross_attention_dim": 48})
    state = named(lora_state_dict_of(wide), "lora_A", "lora_B")
    text = named(lora_state_dict_of(copy.deepcopy(ours.text_encoder), TEXT_ATTENTION), "lora_A", "lora_B", "text_encoder.text_model.")
    save_file({**text, **state}, tmp_path / LORA_FILE)
    with pytest.raises(LoadError, match="attn2.to_k.*its weight is"): ours.load_lora_weights(tmp_path)
    for name, reason in ((f"unet.{B.replace('lora_B.weight', 'lora_magnitude_vector')}", "DoRA"), ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "LoHa"),
                         ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "others are not read"), ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "half|text_encoder_2")):
        save_file({**named(two(), "lora_A", "lora_B"), name: torch.ones(64, 1)}, tmp_path / LORA_FILE)
        with pytest.raises(LoadError, match=reason): ours.load_lora_weights(tmp_path)
    np.testing.assert_array_equal(ours(**options), plain)
    for bad in ("x", float("nan"), None):
        save_file(text, tmp_path / LORA_FILE)
        with pytest.raises(ConfigError, match="scale"): ours.load_lora_weights(tmp_path, scale=bad)
    assert not lora_layers(ours.text_encoder) and not lora_layers(ours.unet)


# --- what is refused ------------------------------------------------------------------------------------------------
A, B = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight"


def two(down=(2, 64), up=(64, 2), a=A, b=B):
    return {a: torch.zeros(down), b: torch.zeros(up)}


@pytest.mark.parametrize("state, reason", [
    (two(down=(2, 63)), "its weight is"), (two(up=(63, 2)), "its weight is"), (two(up=(64, 3)), "its weight is"), (two(down=(0, 64), up=(64, 0)), "its weight is"),
    (two(down=(2,)), "its weight is"), (two(down=()), "its weight is"), (two(down=(2, 64, 3, 3)), "its weight is"), ({A: torch.zeros(2, 64)}, "one half"),
    (two(a=A.replace("to_q", "to_z"), b=B.replace("to_q", "to_z")), "no such layer"), (two(b=B.replace("lora_B", "lora_C")), "no weight of a LoRA"),
    ({**two(), A.replace("lora_A.weight", "dora_scale"): torch.ones(64)}, "DoRA"), ({**two(), A.replace("lora_A", "lora.down"): torch.zeros(2, 64)}, "two weights"),
    ({**two(), A.replace("lora_A.weight", "alpha"): torch.tensor(float("nan"))}, "alpha"), ({**two(), A.replace("lora_A.weight", "alpha"): torch.zeros(2)}, "alpha"),
    ({A: torch.full((2, 64), torch.nan), B: torch.zeros(64, 2)}, "NaN"), ({A: torch.zeros(2, 64, dtype=torch.int64), B: torch.zeros(64, 2)}, "hold torch.int64 numbers"),
    (named(two(), "lora_A", "lora_B", "text_encoder_2."), "text_encoder_2"), ({}, "no weights"),
    (two(a=A.replace("to_q", "norm"), b=B.replace("to_q", "norm")), "no such layer"),
    (two(a="lora_unet_input_blocks_4_1_proj_in.lora_down.weight", b="lora_unet_input_blocks_4_1_proj_in.lora_up.weight"), "no such layer")])
def test_a_lora_that_does_not_fit_changes_nothing(state, reason):
    model = unet()
    good = lora_state_dict_of(unet(), "time_emb_proj")
    with pytest.raises((ConfigError, LoadError), match=reason) as error: load_lora_parts({"unet": model}, read_lora({**good, **state} if state else {}))
    assert "\n" not in str(error.value) and not lora_layers(model) and list(model.state_dict()) == list(unet().state_dict())


@pytest.mark.parametrize("call, reason", [
    (lambda m: add_lora(m, 0), "rank"), (lambda m: add_lora(m, 2.5), "rank"), (lambda m: add_lora(m, 2, "nothing"), "targets"), (lambda m: add_lora(m, 2, ""), "targets"),
    (lambda m: add_lora(m, 2, "attn1"), "attn1 is a Attention"), (lambda m: add_lora(m, 2, "norm1"), "expected a Linear"), (lambda m: add_lora(m, 2, alpha="x"), "alpha"),
    (lambda m: add_lora(m, 2, [3]), "targets"), (lambda m: add_lora(m, 2, None), "targets"), (fuse_lora, "no LoRA"), (lora_state_dict, "no LoRA"), (lambda m: set_lora_scale(m, 1), "no LoRA"), (lambda m: load_lora(m, {}), "state"),
    (lambda m: load_lora(m, None), "state"), (lambda m: load_lora(m, two(), "x"), "scale"), (lambda m: load_lora(m, two(), float("nan")), "scale"),
    (lambda m: save_lora("x"), "models"), (lambda m: save_lora("x", vae=m), "models"), (lambda m: save_lora(3, unet=m), "no LoRA")])
def test_wrong_arguments(call, reason):
    model = unet()
    with pytest.raises(ConfigError, match=reason) as error: call(model)
    assert "\n" not in str(error.value) and not lora_layers(model)


def test_files_that_are_none(tmp_path):
    with pytest.raises(LoadError, match="no folder"): read_lora(tmp_path / "none")
    with pytest.raises(LoadError, match="found none"): read_lora(tmp_path)
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"\x80\x02")
    with pytest.raises(LoadError, match="found none but pytorch_lora_weights.bin, a pickle"): read_lora(tmp_path)
    for name in "ab": save_file(named(two(), "lora_A", "lora_B"), tmp_path / f"{name}.safetensors")
    with pytest.raises(LoadError, match="2 of them"): read_lora(tmp_path)
    assert list(read_lora(tmp_path, weight_name="a.safetensors")) == ["unet"]
    save_file(named(two(), "lora_A", "lora_B"), tmp_path / LORA_FILE)
    assert list(read_lora(tmp_path)) == ["unet"]
    save_file(two(), tmp_path / LORA_FILE, {"lora_adapter_metadata": "[1"})
    with pytest.raises(LoadError, match="no JSON"): read_lora(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"\x80\x02pickle...")
    with pytest.raises(LoadError, match="pickle"): read_lora(tmp_path / "b.safetensors")


def test_paths_and_names_as_people_write_them(ours, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_lora(tmp_path / "a b", unet=add_and_stir(unet()))
    (tmp_path / "a b" / LORA_FILE).rename(tmp_path / "a b" / "my style [v1*].safetensors")
    wanted = read_lora(tmp_path / "a b")["unet"].keys()
    for given in (("~/a b",), ("~/a b/my style [v1*].safetensors",), ("~/a b", "my style [v1*].safetensors"), (str(tmp_path), "a b/my style [v1*].safetensors")):
        assert read_lora(*given)["unet"].keys() == wanted
    for name in (5, "/a.safetensors", "a\0b"):
        with pytest.raises(ConfigError, match="weight_name: expected the name of a file"): read_lora(tmp_path / "a b", name)
    for name in ("*", "**", "no.safetensors"):
        with pytest.raises(LoadError, match="found none"): read_lora(tmp_path / "a b", name)


@pytest.mark.parametrize("given, reason", [({3: torch.zeros(1)}, "tensors by name.* as 3"), ({"unet.x.lora_A.weight": np.zeros((2, 3))}, "tensors by name"), ({"unet.x.alpha": 4.0}, "tensors by name, got 4.0"), ({}, "no weights")])
def test_weights_that_are_none(given, reason):
    with pytest.raises(LoadError, match=reason) as error: read_lora(given)
    assert "\n" not in str(error.value)


def test_a_compiled_model_is_one_too():
    model = torch.compile(unet())
    add_lora(model, 2)
    assert all(not path.startswith("_orig_mod") for path in lora_layers(model))
    assert lora_state_dict(model).keys() == lora_state_dict_of(unet()).keys()
