"""DiT, the MMDiT of Stable Diffusion 3 and Flux, and their pipeline, against diffusers: weights, outputs, gradients, pictures, folders; and what is refused."""
import json

import diffusers
import numpy as np
import pytest
import torch

import flow_folders
from minidiff.checks import ConfigError, LoadError
from minidiff.flow_pipeline import FlowPipeline, resolution_shift
from minidiff.samplers import FlowMatchEulerDiscreteScheduler
from minidiff.transformer import (DiTTransformer2DModel, FluxTransformer2DModel, SD3Transformer2DModel, from_patches, rotary_angles, rotate, to_patches,
                                  zero_init)

DIT = dict(num_attention_heads=2, attention_head_dim=12, num_layers=2, sample_size=8, num_embeds_ada_norm=5)
SD3 = dict(num_attention_heads=2, attention_head_dim=12, caption_projection_dim=24, num_layers=3, sample_size=8, in_channels=4, out_channels=4,
           joint_attention_dim=10, pooled_projection_dim=14, pos_embed_max_size=12)
FLUX = dict(num_attention_heads=2, attention_head_dim=12, num_layers=2, num_single_layers=2, in_channels=16, joint_attention_dim=10,
            pooled_projection_dim=14, axes_dims_rope=(2, 6, 4))
DITS = [{}, dict(out_channels=8), dict(attention_bias=False), dict(activation_fn="gelu"), dict(activation_fn="geglu"), dict(patch_size=4),
        dict(patch_size=1, sample_size=6), dict(norm_elementwise_affine=True, norm_eps=1e-3), dict(num_layers=1, in_channels=3)]
SD3S = [{}, dict(qk_norm="rms_norm"), dict(dual_attention_layers=(0, 1)), dict(dual_attention_layers=(1,), qk_norm="rms_norm"),
        dict(dual_attention_layers=(0, 1, 2), qk_norm="rms_norm"), dict(pos_embed_max_size=6, out_channels=None), dict(patch_size=1, pos_embed_max_size=16),
        dict(out_channels=8, pos_embed_max_size=None), dict(num_layers=1)]
FLUXES = [{}, dict(guidance_embeds=True), dict(patch_size=2), dict(out_channels=8), dict(num_layers=1, num_single_layers=3), dict(num_single_layers=0),
          dict(axes_dims_rope=(4, 4, 4)), dict(axes_dims_rope=(6, 6))]
KINDS = dict(dit=(DiTTransformer2DModel, diffusers.DiTTransformer2DModel, DIT), sd3=(SD3Transformer2DModel, diffusers.SD3Transformer2DModel, SD3),
             flux=(FluxTransformer2DModel, diffusers.FluxTransformer2DModel, FLUX))


def ids(h, w, axes=3):
    grid = torch.meshgrid(torch.arange(float(h)), torch.arange(float(w)), indexing="ij")
    return torch.cat([torch.zeros(h * w, axes - 2), torch.stack(grid, -1).flatten(0, 1)], 1)


def given(kind, config, h=8, w=8, n=3, seed=0):
    """Random inputs: several timesteps in a batch."""
    g = torch.Generator().manual_seed(seed)
    def randn(*shape): return torch.randn(*shape, generator=g)
    texts = dict(encoder_hidden_states=randn(n, 5, 10), pooled_projections=randn(n, 14))
    c = {**KINDS[kind][2], **config}
    if kind == "dit":
        return dict(hidden_states=randn(n, c.get("in_channels", 4), h, w), timestep=torch.tensor([0, 400, 999])[:n], class_labels=torch.tensor([0, 5, 2])[:n])
    if kind == "sd3": return dict(hidden_states=randn(n, 4, h, w), timestep=torch.tensor([0.0, 400.5, 999.0])[:n], **texts)
    axes = len(c["axes_dims_rope"])
    more = dict(guidance=torch.tensor([1.0, 3.5, 7.0])[:n]) if c.get("guidance_embeds") else {}
    return dict(hidden_states=randn(n, h * w // 4, 16), timestep=torch.tensor([0.0, 0.4, 1.0])[:n], img_ids=ids(h // 2, w // 2, axes),
                txt_ids=torch.zeros(5, axes), **texts, **more)


def pair(kind, config, stirred=True):
    """Both models with the same weights, drawn so that every input is felt, or as diffusers draws them; loaded strictly both ways."""
    mine, theirs, base = KINDS[kind]
    ours, real = mine(**{**base, **config}).eval(), theirs(**{**base, **config}).eval()
    g = torch.Generator().manual_seed(1)
    for name, p in real.named_parameters():
        if not stirred: break
        spread = 0.1 if p.ndim == 1 else p[0].numel() ** -0.5
        p.data = torch.randn(p.shape, generator=g) * spread + (1.0 if "norm_" in name and p.ndim == 1 else 0)
    ours.load_state_dict(real.state_dict(), strict=True)
    real.load_state_dict(ours.state_dict(), strict=True)
    return ours, real


def run(model, inputs):
    """The answer, and the gradients of all inputs and weights that have one."""
    leaves = {k: v.clone().requires_grad_() for k, v in inputs.items() if k in ("hidden_states", "encoder_hidden_states", "pooled_projections")}
    y = model(**{**inputs, **leaves})
    y = y if torch.is_tensor(y) else y.sample
    (y * torch.sin(torch.arange(y.numel())).view_as(y)).mean().mul(100).backward()
    found = {**{k: v.grad for k, v in leaves.items()}, **{n: p.grad for n, p in model.named_parameters()}}
    return y.detach(), {k: torch.zeros(()) if v is None else v for k, v in found.items()}


def equal(kind, config, stirred=True, atol=1e-5, **size):
    ours, real = pair(kind, config, stirred)
    inputs = given(kind, config, **size)
    (y, grads), (wanted, theirs) = run(ours, inputs), run(real, inputs)
    assert wanted.std() > 0.1
    torch.testing.assert_close(y, wanted, atol=atol, rtol=1e-5)
    assert grads.keys() == theirs.keys()
    for name in grads:  # a weight that nothing depends on has none: zeros
        mine, wanted = torch.broadcast_tensors(grads[name], theirs[name])
        torch.testing.assert_close(mine, wanted, atol=atol, rtol=1e-4, msg=name)


@pytest.mark.parametrize("config", DITS)
def test_dit(config):
    """(Stirred, at t = 999: the clock face of chapter 03 rounds once where diffusers' rounds twice, 1e-5 in an angle.)"""
    side = config.get("sample_size", 8)
    equal("dit", config, stirred=False, h=side, w=side)
    equal("dit", config, h=side, w=side)


@pytest.mark.parametrize("h, w", [(8, 8), (4, 10), (12, 6)])
@pytest.mark.parametrize("config", SD3S)
def test_sd3(config, h, w): equal("sd3", config, h=h, w=w)


@pytest.mark.parametrize("h, w", [(8, 8), (4, 10)])
@pytest.mark.parametrize("config", FLUXES)
def test_flux(config, h, w): equal("flux", config, h=h, w=w)


def test_dit_paints_what_is_not_square_where_diffusers_folds_it_wrongly():
    """diffusers' DiT takes any 16 patches for 4 x 4: the patches are right, and lie in the wrong places."""
    ours, real = pair("dit", {})
    inputs = given("dit", {}, h=4, w=16)
    with torch.no_grad(): mine, theirs = ours(**inputs), real(**inputs).sample
    assert mine.shape == (3, 4, 4, 16) and theirs.shape == (3, 4, 8, 8)
    torch.testing.assert_close(to_patches(mine, 2), to_patches(theirs, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind, config, count", [
    ("dit", {}, 749_808_016),
    ("sd3", dict(num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192), 2_028_328_000),
    ("sd3", dict(num_layers=38, num_attention_heads=38, caption_projection_dim=2432, pos_embed_max_size=192, qk_norm="rms_norm"), 8_056_627_520),
    ("sd3", dict(num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384, qk_norm="rms_norm",
                 dual_attention_layers=tuple(range(13))), 2_243_171_520),
    ("flux", dict(guidance_embeds=True), 11_901_408_320), ("flux", {}, 11_891_178_560)])
def test_the_real_sizes_have_the_same_names_and_shapes(kind, config, count):
    mine, theirs, _ = KINDS[kind]
    with torch.device("meta"): ours, real = mine(**config), theirs(**config)
    shapes = [{name: tuple(x.shape) for name, x in model.state_dict().items()} for model in (ours, real)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours.parameters()) == count == sum(p.numel() for p in real.parameters())


@pytest.mark.parametrize("kind, config", [("dit", {}), ("sd3", dict(dual_attention_layers=(0,), qk_norm="rms_norm")), ("flux", dict(guidance_embeds=True))])
def test_folders_travel_both_ways(kind, config, tmp_path):
    ours, real = pair(kind, config)
    inputs = given(kind, config)
    ours.save_pretrained(tmp_path / "ours")
    real.save_pretrained(tmp_path / "real")
    with torch.no_grad():
        wanted = ours(**inputs)
        back = type(real).from_pretrained(tmp_path / "ours").eval()(**inputs).sample
        again = type(ours).from_pretrained(tmp_path / "real")(**inputs)
    torch.testing.assert_close(back, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(again, wanted)


def test_places_are_as_diffusers_makes_them():
    """The table itself, before any weights are loaded; and stretched, where there is none."""
    mine, theirs = SD3Transformer2DModel(**SD3).pos_embed, diffusers.SD3Transformer2DModel(**SD3).pos_embed
    torch.testing.assert_close(mine.pos_embed, theirs.pos_embed, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="pos_embed_max_size is 12"): SD3Transformer2DModel(**SD3)(**given("sd3", {}, h=26, w=8))


def test_patches_go_back():
    x = torch.randn(2, 3, 6, 8)
    assert torch.equal(from_patches(to_patches(x, 2), 2, (3, 4)), x)
    last = to_patches(x, 2).unflatten(-1, (3, 4)).mT.flatten(-2)
    assert torch.equal(from_patches(last, 2, (3, 4), channels_last=True), x)


def test_only_the_distance_counts_after_rotation():
    q, k = torch.randn(2, 1, 1, 1, 12).double()
    def score(a, b):
        turned = [rotate(x, rotary_angles(torch.tensor([p]).float(), (2, 6, 4))) for x, p in ((q, a), (k, b))]
        return (turned[0] * turned[1]).sum()
    torch.testing.assert_close(score([0, 5, 2], [0, 3, 7]), score([0, 25, 12], [0, 23, 17]), atol=1e-5, rtol=1e-5)
    assert (score([0, 5, 2], [0, 3, 7]) - score([0, 5, 2], [0, 4, 7])).abs() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_with_closed_gates_it_says_zero_and_still_learns(kind):
    model = zero_init(KINDS[kind][0](**KINDS[kind][2]))
    y, grads = run(model, given(kind, {}))
    assert y.abs().max() == 0
    last = "proj_out_2" if kind == "dit" else "proj_out"
    assert grads[f"{last}.weight"].abs().max() > 0
    opened = [name for name, g in grads.items() if g.abs().max() > 0]
    assert all(name.startswith(last) for name in opened)  # the first step moves the last layer alone


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision(half):
    for kind in KINDS:
        ours, _ = pair(kind, {})
        inputs = given(kind, {})
        with torch.no_grad():
            wanted = ours(**inputs)
            cast = {k: v.to(half) if v.is_floating_point() and k not in ("timestep", "img_ids", "txt_ids") else v for k, v in inputs.items()}
            found = ours.to(half)(**cast)
        assert found.dtype == half and (found.float() - wanted).abs().max() < 0.15 * wanted.std()


SHIFTS = [{}, dict(shift=3.0), dict(shift=0.5, use_karras_sigmas=True), dict(use_dynamic_shifting=True), dict(use_dynamic_shifting=True, time_shift_type="linear"),
          dict(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15), dict(use_exponential_sigmas=True), dict(num_train_timesteps=500, shift=2.0)]


@pytest.mark.parametrize("sigmas", [None, [1.0, 0.7, 0.4, 0.25], np.linspace(1, 0.25, 4)])
@pytest.mark.parametrize("config", SHIFTS)
def test_the_scheduler_walks_the_same_steps(config, sigmas):
    ours, real = FlowMatchEulerDiscreteScheduler(**config), diffusers.FlowMatchEulerDiscreteScheduler(**config)
    more = dict(mu=0.8) if config.get("use_dynamic_shifting") else {}
    if sigmas is None: more["num_inference_steps"] = 7
    for scheduler in (ours, real): scheduler.set_timesteps(sigmas=sigmas, **more)
    torch.testing.assert_close(ours.sigmas, real.sigmas.float(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.timesteps, real.timesteps.float(), atol=1e-3, rtol=1e-6)
    g = torch.Generator().manual_seed(0)
    x = y = torch.randn(2, 4, 6, 6, generator=g)
    for mine, theirs in zip(ours.timesteps, real.timesteps):
        said = torch.randn(x.shape, generator=g)
        x, y = ours.step(said, mine, x).prev_sample, real.step(said, theirs, y).prev_sample
    torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


FOLDERS = {"sd3": (flow_folders.sd3, {}), "sd3 in two": (flow_folders.sd3, dict(third=False, qk_norm="rms_norm", dual_attention_layers=(0, 1))),
           "sd3, moved clock": (flow_folders.sd3, dict(scheduler=dict(use_dynamic_shifting=True))), "flux": (flow_folders.flux, dict(guidance_embeds=True)),
           "flux schnell": (flow_folders.flux, dict(scheduler=dict(shift=1.0)))}


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("flow")
    make, options = FOLDERS[request.param]
    real = make(place, **options)
    real.save_pretrained(place / "real")
    return place / "real", real


def seeds(): return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("options", [dict(prompt=flow_folders.PROMPT), dict(prompt=[flow_folders.PROMPT, flow_folders.OTHER], height=32, width=48),
                                     dict(prompt=flow_folders.PROMPT, prompt_2=flow_folders.OTHER, guidance_scale=2.5, num_images_per_prompt=2),
                                     dict(prompt=flow_folders.PROMPT, sigmas=[1.0, 0.6, 0.3])])
def test_the_same_picture(folder, options):
    path, real = folder
    ours = FlowPipeline.from_pretrained(path)
    options = {**dict(height=32, width=32, num_inference_steps=3, output_type="np", max_sequence_length=20), **options}
    mine, theirs = ours(generator=seeds(), **options), real(generator=seeds(), **options).images
    assert mine.shape == theirs.shape and theirs.std() > 0.05
    np.testing.assert_allclose(mine, theirs, atol=1e-4)
    assert np.abs(ours(generator=seeds(), **{**options, "prompt": "a blue square"}) - mine[0]).max() > 1e-3  # words are heard


def test_a_negative_prompt_and_no_guidance(folder):
    path, real = folder
    ours = FlowPipeline.from_pretrained(path)
    if ours.is_flux:  # it was taught guidance, and knows no negative prompt
        with pytest.raises(ValueError, match="negative_prompt"): ours("a star", negative_prompt="a heart")
        with pytest.raises(ValueError, match="prompt_3"): ours("a star", prompt_3="a heart")
        options = dict(prompt="a star", height=32, width=32, num_inference_steps=2, output_type="np", max_sequence_length=20, guidance_scale=0.0)
        np.testing.assert_allclose(ours(generator=seeds(), **options), real(generator=seeds(), **options).images, atol=1e-4)
        return
    base = dict(prompt=[flow_folders.PROMPT] * 2, height=32, width=32, num_inference_steps=2, output_type="np", max_sequence_length=20)
    for options in (dict(negative_prompt=["a star", "a heart"]), dict(guidance_scale=1.0), dict(guidance_scale=0.0)):
        np.testing.assert_allclose(ours(generator=seeds(), **base, **options), real(generator=seeds(), **base, **options).images, atol=1e-4)


def test_our_folder_opens_in_diffusers(folder, tmp_path):
    path, real = folder
    ours = FlowPipeline.from_pretrained(path)
    ours.save_pretrained(tmp_path)
    absent = {name: None for name, part in ours.components.items() if part is None and not ours.is_flux}
    back = type(real).from_pretrained(tmp_path, **absent)
    back.set_progress_bar_config(disable=True)
    options = dict(prompt=flow_folders.PROMPT, height=32, width=32, num_inference_steps=2, output_type="np", max_sequence_length=20)
    np.testing.assert_allclose(ours(generator=seeds(), **options), back(generator=seeds(), **options).images, atol=1e-4)
    again = FlowPipeline.from_pretrained(tmp_path)
    assert np.array_equal(ours(generator=seeds(), **options), again(generator=seeds(), **options))


def test_ready_latents_and_every_kind_of_picture(tmp_path):
    flow_folders.flux(tmp_path).save_pretrained(tmp_path / "real")
    ours = FlowPipeline.from_pretrained(tmp_path / "real")
    options = dict(prompt="a star", height=32, width=32, num_inference_steps=2, max_sequence_length=8)
    start = ours.start_latents(1, 32, 32, seeds())
    one, two = ours(generator=seeds(), output_type="pt", **options), ours(latents=start, output_type="pt", **options)
    assert torch.equal(one, two)
    assert ours(latents=start, output_type="latent", **options).shape == (1, 16, 16, 16)
    assert ours(latents=start, **options)[0].size == (32, 32)
    assert ours(latents=start, return_dict=True, **options).images[0].size == (32, 32)
    assert ours(latents=start, return_dict=False, output_type="pt", **options)[0].shape == (1, 3, 32, 32)


@pytest.mark.parametrize("options, message", [
    (dict(latents=torch.randn(2, 16, 16, 16)), "latents"), (dict(latents=torch.randn(1, 4, 16, 16)), "latents"), (dict(latents=torch.randn(1, 16, 15, 16)), "latents.*multiples of 2"),
    (dict(max_sequence_length=600), "max_sequence_length"), (dict(max_sequence_length=0), "max_sequence_length"), (dict(num_images_per_prompt=0), "num_images_per_prompt"),
    (dict(num_inference_steps=0), "num_inference_steps"), (dict(guidance_scale="a"), "guidance_scale"), (dict(height="a"), "height"), (dict(width=32.5), "width")])
def test_calls_that_cannot_be(folder, options, message):
    ours = FlowPipeline.from_pretrained(folder[0])
    with pytest.raises(ValueError, match=message): ours("a star", **{**dict(height=32, width=32, num_inference_steps=2, max_sequence_length=20), **options})


def test_a_reader_needs_its_tokenizer(tmp_path):
    flow_folders.sd3(tmp_path).save_pretrained(tmp_path / "real")
    with pytest.raises(ConfigError, match="tokenizer_3"): FlowPipeline.from_pretrained(tmp_path / "real", tokenizer_3=None)
    FlowPipeline.from_pretrained(tmp_path / "real", tokenizer_3=None, text_encoder_3=None)


def test_the_shift_is_that_of_both_pipelines():
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift
    c = FlowMatchEulerDiscreteScheduler().config
    for patches in (64, 256, 1000, 4096, 9000): assert abs(resolution_shift(patches, c) - calculate_shift(patches)) < 1e-12


@pytest.mark.parametrize("kind, config, message", [
    ("dit", dict(attention_head_dim=3), "multiple of 4"), ("dit", dict(activation_fn="relu"), "activation_fn"), ("sd3", dict(qk_norm="layer_norm"), "qk_norm"),
    ("sd3", dict(caption_projection_dim=20), "caption_projection_dim must be 24"), ("flux", dict(axes_dims_rope=(4, 4, 6)), "axes_dims_rope"),
    ("flux", dict(axes_dims_rope=(3, 5, 4)), "axes_dims_rope"), ("dit", dict(norm_type="layer_norm"), "ada_norm_zero")])
def test_configs_that_cannot_be(kind, config, message):
    with pytest.raises(ConfigError, match=message): KINDS[kind][0].from_config({**KINDS[kind][2], **config})


@pytest.mark.parametrize("kind, change, message", [
    ("dit", dict(hidden_states=torch.randn(3, 4, 7, 8)), "multiples of 2"), ("dit", dict(class_labels=torch.zeros(3)), "class_labels"),
    ("dit", dict(class_labels=torch.tensor([0, 1, 6])), "class_labels.*0 to 5"), ("sd3", dict(hidden_states=torch.randn(3, 5, 8, 8)), "hidden_states"),
    ("sd3", dict(encoder_hidden_states=torch.randn(3, 5, 9)), "encoder_hidden_states"), ("sd3", dict(pooled_projections=torch.randn(2, 14)), "pooled_projections"),
    ("sd3", dict(timestep=torch.tensor([1.0, 2.0])), "timestep"), ("flux", dict(img_ids=torch.zeros(3, 3)), "img_ids"),
    ("flux", dict(txt_ids=torch.zeros(5, 2)), "txt_ids"), ("flux", dict(guidance=torch.ones(3)), "guidance_embeds is False")])
def test_inputs_that_do_not_fit(kind, change, message):
    model = KINDS[kind][0](**KINDS[kind][2])
    with pytest.raises(ValueError, match=message): model(**{**given(kind, {}), **change})


@pytest.mark.parametrize("kind, config, message", [
    ("dit", dict(num_layers=0), "num_layers"), ("dit", dict(patch_size=0), "patch_size"), ("dit", dict(num_attention_heads=-2, attention_head_dim=-12), "num_attention_heads"),
    ("sd3", dict(pos_embed_max_size=0), "pos_embed_max_size"), ("sd3", dict(out_channels=0), "out_channels"), ("sd3", dict(joint_attention_dim=0), "joint_attention_dim"),
    ("flux", dict(axes_dims_rope=(-2, 10, 4)), "axes_dims_rope"), ("flux", dict(patch_size=0), "patch_size"), ("flux", dict(num_layers=-1), "num_layers")])
def test_counts_that_cannot_be(kind, config, message):
    with pytest.raises(ConfigError, match=message): KINDS[kind][0].from_config({**KINDS[kind][2], **config})


def test_the_config_of_dit_on_the_hub():
    """It was written by diffusers' older `Transformer2DModel`."""
    old = dict(_class_name="Transformer2DModel", activation_fn="gelu-approximate", attention_bias=True, attention_head_dim=72, cross_attention_dim=None,
               double_self_attention=False, dropout=0.0, in_channels=4, norm_elementwise_affine=False, norm_num_groups=32, norm_type="ada_norm_zero",
               num_attention_heads=16, num_embeds_ada_norm=1000, num_layers=28, num_vector_embeds=None, only_cross_attention=False, out_channels=8,
               patch_size=2, sample_size=32, upcast_attention=False, use_linear_projection=False)
    with torch.device("meta"): ours, real = DiTTransformer2DModel.from_config(old), diffusers.DiTTransformer2DModel(out_channels=8)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}
    # the paper's 675 million have time and class embedded once, diffusers' in each of the 28 blocks
    shared = sum(p.numel() for p in ours.transformer_blocks[0].norm1.emb.parameters())
    total = sum(p.numel() for p in ours.parameters())
    assert (total, total - 27 * shared) == (749_826_464, 674_834_720)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_no_gradient(kind):
    model = pair(kind, {})[0].train()
    y, grads = run(model, given(kind, {}))
    model.zero_grad()
    calls = []
    hook = model.transformer_blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    model.enable_gradient_checkpointing()
    again, same = run(model, given(kind, {}))
    assert model.is_gradient_checkpointing and len(calls) == 2  # forward, and once more on the way back
    torch.testing.assert_close(again, y)
    for name in grads: torch.testing.assert_close(same[name], grads[name])
    model.disable_gradient_checkpointing()
    run(model, given(kind, {}))
    hook.remove()
    assert len(calls) == 3


def test_places_may_be_whole_numbers():
    ours, real = pair("flux", {})
    inputs = given("flux", {})
    with torch.no_grad():
        wanted = real(**inputs).sample
        whole = {k: v.long() if k.endswith("_ids") else v for k, v in inputs.items()}
        torch.testing.assert_close(ours(**whole), wanted, atol=1e-5, rtol=1e-5)


def test_guidance_must_be_given_where_it_is_heard():
    model = FluxTransformer2DModel(**FLUX, guidance_embeds=True)
    with pytest.raises(ValueError, match="guidance_embeds is True"): model(**{**given("flux", {})})


@pytest.mark.parametrize("guidance", [torch.ones(2), "a", torch.tensor([1.0, float("nan"), 2.0])])
def test_guidance_that_is_no_good_is_called_by_its_name(guidance):
    model = FluxTransformer2DModel(**FLUX, guidance_embeds=True)
    with pytest.raises(ValueError, match="^guidance: expected"): model(**{**given("flux", {}), "guidance": guidance})


def test_the_clock_needs_two_sizes():
    for change in (dict(base_shift=None), dict(max_shift=None), dict(max_image_seq_len=256)):
        with pytest.raises(ConfigError, match="base_shift"): resolution_shift(64, FlowMatchEulerDiscreteScheduler(**change).config)


def test_folders_that_do_not_fit(tmp_path):
    flow_folders.flux(tmp_path).save_pretrained(tmp_path / "real")
    with pytest.raises(ValueError, match="multiples of 4"): FlowPipeline.from_pretrained(tmp_path / "real")("a", height=30, width=32)
    file = tmp_path / "real/model_index.json"
    index = json.loads(file.read_text())
    file.write_text(json.dumps({**index, "transformer": ["diffusers", "PixArtTransformer2DModel"]}))
    with pytest.raises(LoadError, match="transformer is a 'PixArtTransformer2DModel'"): FlowPipeline.from_pretrained(tmp_path / "real")
    without = {k: v for k, v in index.items() if k != "vae"}
    file.write_text(json.dumps(without))
    with pytest.raises(LoadError, match="vae"): FlowPipeline.from_pretrained(tmp_path / "real")
