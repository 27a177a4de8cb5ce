"""The pipeline against diffusers' own, argument by argument; and what it refuses, in one line that names the argument."""
import inspect
import shutil
import warnings

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers import StableDiffusionPipeline

from minidiff.checks import ConfigError, LoadError
from minidiff.files import read_json, write_json
from minidiff.hub import load_weights
from minidiff.pipeline import SCHEDULERS, LatentDiffusionPipeline, PipelineOutput, guide, rescale_guided, to_pil
from minidiff.plots import _look, animate, image_grid, plot_losses, show_images, slider, smooth_curve, to_uint8
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.text_encoder import CLIPTextModel
from minidiff.tokenizer import CLIPTokenizer, train_bpe
from minidiff.vae import AutoencoderKL

PROMPT, OTHER = "a red circle above a blue square", "a small green star"
UNET = dict(sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, norm_num_groups=8, attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
VAE = dict(block_out_channels=(16, 32), latent_channels=4, norm_num_groups=8, sample_size=16, down_block_types=("DownEncoderBlock2D",) * 2,
           up_block_types=("UpDecoderBlock2D",) * 2)
BETAS = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def real_pipeline(folder, unet=(), vae=()):
    torch.manual_seed(0)
    if not (folder / "tokenizer").exists():
        CLIPTokenizer(*train_bpe([PROMPT, OTHER] * 3, 600)).save_pretrained(folder / "tokenizer")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                                                                  num_attention_heads=4, **ids))
    pipe = StableDiffusionPipeline(diffusers.AutoencoderKL(**{**VAE, **dict(vae)}).eval(), text.eval(), tokenizer,
                                   diffusers.UNet2DConditionModel(**{**UNET, **dict(unet)}).eval(), diffusers.DDIMScheduler(**BETAS),
                                   safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pipe")


@pytest.fixture(scope="module")
def real(folder):
    pipe = real_pipeline(folder)
    pipe.save_pretrained(folder / "real")
    return pipe


@pytest.fixture(scope="module")
def loaded(real, folder):
    return LatentDiffusionPipeline.from_pretrained(folder / "real")


@pytest.fixture
def ours(loaded):
    "With the parts that are opened, whatever a test has exchanged."
    return LatentDiffusionPipeline(**loaded.components)


def seeds(*numbers):
    return [torch.Generator().manual_seed(n) for n in numbers]


def noise(n=1, seed=0, side=8):
    return torch.randn(n, 4, side, side, generator=torch.Generator().manual_seed(seed))


def equal(ours, real, again=None, **options):
    "The same arguments, the same pictures; `again` gives those that are used up, such as generators."
    options = {"num_inference_steps": 3, "output_type": "np", **options}
    mine, theirs = ours(**options, **(again() if again else {})), real(**options, **(again() if again else {})).images
    np.testing.assert_allclose(mine, theirs, atol=1e-4, rtol=1e-4)
    return mine


def exchange(name, ours, real, folder):
    "Another scheduler for both, from the config in the folder."
    more = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    ours.scheduler = SCHEDULERS[name].from_config(folder / "real/scheduler", **more)
    config = diffusers.DDIMScheduler.from_pretrained(folder / "real", subfolder="scheduler").config
    theirs = StableDiffusionPipeline(**{**real.components, "scheduler": getattr(diffusers, name).from_config(config, **more)}, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    return theirs


# --- what diffusers' pipeline takes ---------------------------------------------------------------------------------
def test_a_generator_for_each_picture(ours, real):
    two = equal(ours, real, lambda: dict(generator=seeds(1, 2)), prompt=[PROMPT, OTHER])
    one = equal(ours, real, lambda: dict(generator=seeds(2)), prompt=OTHER)
    np.testing.assert_allclose(two[1:], one, atol=1e-4, rtol=1e-4)


def test_a_generator_for_each_picture_and_fresh_noise(ours, real):
    equal(ours, real, lambda: dict(generator=seeds(1, 2)), prompt=[PROMPT, OTHER], eta=0.7)
    equal(ours, real, lambda: dict(generator=seeds(1)[0]), prompt=[PROMPT, OTHER], eta=1.0)


@pytest.mark.parametrize("options", [
    dict(prompt=PROMPT, num_images_per_prompt=2), dict(prompt=[PROMPT, OTHER], num_images_per_prompt=2, negative_prompt=["", "a star"]),
    dict(prompt=PROMPT, negative_prompt=None), dict(prompt=PROMPT, negative_prompt=OTHER), dict(prompt=[PROMPT, OTHER], negative_prompt=[OTHER, PROMPT]),
    dict(prompt=PROMPT, guidance_rescale=0.7), dict(prompt=PROMPT, guidance_rescale=1.0, guidance_scale=12.0), dict(prompt=PROMPT, guidance_rescale=0.0),
    dict(prompt=PROMPT, clip_skip=1), dict(prompt=[PROMPT, OTHER], clip_skip=2, negative_prompt=[OTHER, ""]), dict(prompt=PROMPT, clip_skip=0),
    dict(prompt=PROMPT, guidance_scale=1.0), dict(prompt=PROMPT, guidance_scale=1), dict(prompt=PROMPT, eta=0), dict(prompt=PROMPT, height=24, width=8),
    dict(prompt=PROMPT, height=32.0, width=16.0), dict(prompt=PROMPT, cross_attention_kwargs=None, ip_adapter_image=None), dict(prompt=""),
    dict(prompt=PROMPT, num_inference_steps=1)], ids=str)
def test_the_same_arguments_give_the_same_picture(options, ours, real, monkeypatch):
    if "clip_skip" in options and not hasattr(real.text_encoder, "text_model"):  # diffusers looks for it, and transformers 5 has it no more
        monkeypatch.setattr(transformers.CLIPTextModel, "text_model", property(lambda self: self), raising=False)
    equal(ours, real, lambda: dict(generator=seeds(5)[0]), **options)


def test_vectors_in_place_of_texts(ours, real):
    states = ours.encode_prompt([PROMPT, OTHER])
    equal(ours, real, prompt_embeds=states, latents=noise(2))
    equal(ours, real, prompt_embeds=states, negative_prompt_embeds=states.flip(0), latents=noise(2))
    equal(ours, real, prompt_embeds=states[:, :20], latents=noise(2))
    equal(ours, real, prompt_embeds=states, latents=noise(4), num_images_per_prompt=2, guidance_scale=3.0)
    equal(ours, real, prompt_embeds=states, guidance_scale=1.0, latents=noise(2))
    equal(ours, real, prompt=PROMPT, negative_prompt_embeds=states[1:], latents=noise())
    long = torch.cat([states, states], 1)  # more than the text encoder reads: both are given
    equal(ours, real, prompt_embeds=long, negative_prompt_embeds=long.flip(1), latents=noise(2))
    with pytest.raises(ValueError, match="give negative_prompt_embeds"): ours(prompt_embeds=long, num_inference_steps=1)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "PNDMScheduler"])
def test_callbacks_see_and_change_the_same(name, ours, real, folder):
    theirs = exchange(name, ours, real, folder)
    seen = []
    def change(pipe, i, t, tensors):
        seen.append((i, float(t), sorted(tensors)))
        return {"latents": tensors["latents"] * 0.9, "prompt_embeds": tensors["prompt_embeds"] * 1.1}
    equal(ours, theirs, prompt=PROMPT, latents=noise(), callback_on_step_end=change, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    assert len(seen) % 2 == 0 and seen[:len(seen) // 2] == seen[len(seen) // 2:]


def test_guidance_that_ends_half_way(ours, real):
    def end(pipe, i, t, tensors):
        if i == 1:
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
            pipe._guidance_scale = 0.0
        return tensors
    options = dict(prompt=PROMPT, latents=noise(), num_inference_steps=5)
    ended = equal(ours, real, **options, callback_on_step_end=end, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert not np.allclose(ended, ours(output_type="np", **options), atol=1e-3)


def test_a_callback_can_stop(ours, real):
    def stop(pipe, i, t, tensors):
        pipe._interrupt = i == 1
        return tensors
    equal(ours, real, prompt=PROMPT, latents=noise(), num_inference_steps=6, callback_on_step_end=stop)
    steps = []
    ours(PROMPT, num_inference_steps=6, callback_on_step_end=stop, callback=lambda i, t, x: steps.append((i, x.shape)))
    assert [i for i, _ in steps] == [0, 1]
    ours(PROMPT, num_inference_steps=2, callback_on_step_end=lambda *_: None)


def test_a_unet_that_is_told_the_guidance(folder):
    theirs = real_pipeline(folder, unet=dict(time_cond_proj_dim=17))
    theirs.save_pretrained(folder / "lcm")
    ours = LatentDiffusionPipeline.from_pretrained(folder / "lcm")
    with torch.no_grad():  # it starts at zero
        for net in (ours.unet, theirs.unet): net.time_embedding.cond_proj.weight.copy_(torch.linspace(-1, 1, 32 * 17).view(32, 17))
    shapes = []
    hook = ours.unet.register_forward_pre_hook(lambda module, args: shapes.append(len(args[0])))
    pictures = [equal(ours, theirs, prompt=[PROMPT, OTHER], latents=noise(2), guidance_scale=scale) for scale in (7.5, 3.0, 1.0)]
    hook.remove()
    assert set(shapes) == {2} and not np.allclose(pictures[0], pictures[1], atol=1e-3)
    ours.scheduler = SCHEDULERS["DPMSolverMultistepScheduler"].from_config(ours.scheduler.config)
    assert ours(PROMPT, num_inference_steps=2, output_type="pt").isfinite().all()


def test_a_shift_of_the_vae_is_ignored_with_a_warning(folder):
    theirs = real_pipeline(folder, vae=dict(shift_factor=0.4))
    theirs.save_pretrained(folder / "shift")
    with pytest.warns(UserWarning, match="shift_factor=0.4"): ours = LatentDiffusionPipeline.from_pretrained(folder / "shift")
    equal(ours, theirs, prompt=PROMPT, latents=noise())


def test_guidance_follows_its_formula_below_one(ours):
    options = dict(latents=noise(), num_inference_steps=2, output_type="latent")
    at = {scale: ours(PROMPT, guidance_scale=scale, **options) for scale in (-1, 0, 0.5, 1)}
    torch.testing.assert_close(at[0], ours(OTHER, guidance_scale=0, **options))
    torch.testing.assert_close(at[0], ours("", guidance_scale=1, **options))
    assert not any(torch.allclose(at[a], at[b], atol=1e-4) for a in at for b in at if a < b)


def test_an_eta_that_a_sampler_has_no_use_for(ours):
    ours.scheduler = SCHEDULERS["EulerDiscreteScheduler"].from_config(ours.scheduler.config)
    options = dict(prompt=PROMPT, latents=noise(), num_inference_steps=2, output_type="latent")
    with pytest.warns(UserWarning, match="eta is not used: EulerDiscreteScheduler") as said: told = ours(eta=0.5, **options)
    assert len(said) == 1 and torch.equal(told, ours(**options))


@pytest.mark.parametrize("given", [dict(timesteps=[900, 500, 100]), dict(sigmas=[10.0, 2.0, 0.5])])
def test_timesteps_and_sigmas_go_to_the_scheduler(given, ours):
    asked = {}

    class Planned(type(ours.scheduler)):
        def set_timesteps(self, num_inference_steps=None, device=None, timesteps=None, sigmas=None):
            asked.update(num_inference_steps=num_inference_steps, timesteps=timesteps, sigmas=sigmas)
            super().set_timesteps(3, device)

    ours.scheduler = Planned.from_config(ours.scheduler.config)
    ours(PROMPT, **given, output_type="latent")
    assert asked == {"num_inference_steps": None, "timesteps": None, "sigmas": None, **given}
    with pytest.raises(ValueError, match="not both"): ours(PROMPT, timesteps=[1], sigmas=[1.0])

    class Fixed(type(ours.scheduler)):
        def set_timesteps(self, num_inference_steps, device=None): super().set_timesteps(num_inference_steps, device)

    ours.scheduler = Fixed.from_config(ours.scheduler.config)
    with pytest.raises(ValueError, match=f"{next(iter(given))}: Fixed takes none"): ours(PROMPT, **given)


@pytest.mark.parametrize("name", [n for n in SCHEDULERS if n != "PNDMScheduler"])
def test_the_timesteps_of_ones_own_choice(name, ours, real, folder):
    theirs = exchange(name, ours, real, folder)
    chosen = [999, 700, 400, 50]
    if not {"timesteps"} <= inspect.signature(theirs.scheduler.set_timesteps).parameters.keys() & inspect.signature(ours.scheduler.set_timesteps).parameters.keys():
        with pytest.raises(ValueError, match="timesteps"): ours(PROMPT, timesteps=chosen)
        return
    equal(ours, theirs, lambda: dict(generator=seeds(1)[0]), prompt=PROMPT, timesteps=chosen)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_one_loop_is_the_loop_written_out(name, ours):
    more = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    ours.scheduler = scheduler = SCHEDULERS[name].from_config(ours.scheduler.config, **more)
    states = ours.encode_prompt(["", PROMPT])
    painted = ours.denoise(noise(), states, 5, generator=seeds(1)[0])
    scheduler.set_timesteps(5)
    x, generator = noise() * scheduler.init_noise_sigma, seeds(1)[0]
    more = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    with torch.no_grad():
        for t in scheduler.timesteps:
            both = torch.cat([scheduler.scale_model_input(x, t)] * 2)
            answer = guide(*ours.unet(both, t, states).chunk(2), 7.5)
            x = scheduler.step(answer, t, x, **more).prev_sample
    assert torch.equal(painted, x)


@pytest.mark.parametrize("name", ["steps", "scale", "states"])
def test_names_of_the_loop_are_no_names_of_the_call(name, ours):
    with pytest.raises(TypeError, match=f"knows no '{name}'"): ours(PROMPT, **{name: 3})


def test_what_is_returned(ours):
    options = dict(prompt=[PROMPT, OTHER], latents=noise(2), num_inference_steps=1)
    pil, pt = ours(**options), ours(output_type="pt", **options)
    assert [p.size for p in pil] == [(16, 16)] * 2 and pt.shape == (2, 3, 16, 16)
    np.testing.assert_allclose(ours(output_type="np", **options), (pt / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())
    output = ours(return_dict=True, **options)
    assert isinstance(output, PipelineOutput) and output.images[0].size == (16, 16) and output.nsfw_content_detected is None
    images, flags = ours(return_dict=False, output_type="latent", **options)
    assert images.shape == (2, 4, 8, 8) and flags is None


def test_every_argument_of_diffusers_is_known(ours):
    names = inspect.signature(StableDiffusionPipeline.__call__).parameters.keys() - {"self", "kwargs", "num_inference_steps", "output_type", "prompt"}
    defaults = {name: p.default for name, p in inspect.signature(StableDiffusionPipeline.__call__).parameters.items() if name in names}
    defaults.update(return_dict=None, latents=noise())
    assert torch.equal(ours(PROMPT, num_inference_steps=1, output_type="latent", **defaults),
                       ours(PROMPT, num_inference_steps=1, output_type="latent", latents=noise()))


# --- precisions -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_parts_in_different_precisions(part, dtype, folder, ours):
    mixed = LatentDiffusionPipeline.from_pretrained(folder / "real")
    getattr(mixed, part).to(dtype)
    options = dict(prompt=PROMPT, latents=noise(), num_inference_steps=2, output_type="pt", guidance_scale=2.0)
    gap = (mixed(**options) - ours(**options)).abs().mean()
    assert mixed(**options).dtype == torch.float32 and gap < (0.05 if dtype == torch.bfloat16 else 1e-5)


def test_the_dtype_under_either_name(folder):
    for options in (dict(dtype=torch.bfloat16), dict(torch_dtype=torch.bfloat16), dict(torch_dtype="bfloat16")):
        assert LatentDiffusionPipeline.from_pretrained(folder / "real", **options, safety_checker=None, requires_safety_checker=False,
                                                       use_safetensors=True, feature_extractor=None, image_encoder=None).dtype == torch.bfloat16


# --- parts ----------------------------------------------------------------------------------------------------------
def test_parts_given_in_place_of_the_folders(ours, folder):
    other = SCHEDULERS["EulerDiscreteScheduler"].from_config(ours.scheduler.config)
    mixed = LatentDiffusionPipeline.from_pretrained(folder / "real", scheduler=other, unet=ours.unet)
    assert mixed.scheduler is other and mixed.unet is ours.unet and mixed.vae is not ours.vae
    assert mixed.components.keys() == {"vae", "text_encoder", "tokenizer", "unet", "scheduler"}
    by_class = LatentDiffusionPipeline.from_pretrained(folder / "real", scheduler=type(other))
    assert type(by_class.scheduler) is type(other) and by_class.scheduler.config.beta_end == 0.012


def test_a_folder_with_a_strange_scheduler_opens_with_one_of_ours(real, folder):
    index = read_json(folder / "real/model_index.json")
    write_json({**index, "scheduler": ["diffusers", "UniPCMultistepScheduler"]}, folder / "real/model_index.json")
    try:
        with pytest.raises(LoadError, match="UniPC.*scheduler= takes"): LatentDiffusionPipeline.from_pretrained(folder / "real")
        pipe = LatentDiffusionPipeline.from_pretrained(folder / "real", scheduler=SCHEDULERS["DPMSolverMultistepScheduler"])
        assert pipe(PROMPT, num_inference_steps=2, output_type="pt").isfinite().all()
    finally: write_json(index, folder / "real/model_index.json")


@pytest.mark.parametrize("variant,size", [(None, "100KB"), ("fp16", "100KB"), ("fp16", "1GB")])
def test_diffusers_opens_what_is_saved(variant, size, ours, real, tmp_path):
    ours.save_pretrained(tmp_path, variant=variant, max_shard_size=size)
    back = StableDiffusionPipeline.from_pretrained(tmp_path, variant=variant, safety_checker=None)
    back.set_progress_bar_config(disable=True)
    equal(ours, back, prompt=PROMPT, latents=noise())
    assert LatentDiffusionPipeline.from_pretrained(tmp_path, variant=variant)(PROMPT, latents=noise(), num_inference_steps=1, output_type="pt").isfinite().all()


def test_an_older_tokenizer_does_not_survive_a_save(ours, folder, tmp_path):
    shutil.copytree(folder / "real", tmp_path / "p")
    assert (tmp_path / "p/tokenizer/tokenizer.json").exists()
    vocab, merges = train_bpe(["quite other words"] * 3, 600)
    ours.tokenizer = CLIPTokenizer(vocab, merges)
    ours.save_pretrained(tmp_path / "p")
    assert LatentDiffusionPipeline.from_pretrained(tmp_path / "p").tokenizer.vocab == ours.tokenizer.vocab


def unfit(**changes):
    parts = dict(vae=AutoencoderKL(**VAE), text_encoder=CLIPTextModel(vocab_size=600, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4),
                 tokenizer=CLIPTokenizer(*train_bpe([PROMPT], 520)), unet=UNet2DConditionModel(**UNET), scheduler=SCHEDULERS["DDIMScheduler"]())
    return LatentDiffusionPipeline(**{**parts, **changes})


@pytest.mark.parametrize("changes,reason", [
    (lambda: dict(unet=UNet2DConditionModel(**UNET, in_channels=8)), "a picture to edit"),
    (lambda: dict(unet=UNet2DConditionModel(**UNET, in_channels=5)), "a depth map"),
    (lambda: dict(unet=UNet2DConditionModel(**UNET, in_channels=6)), "6 channels, and the VAE's latents have 4$"),
    (lambda: dict(unet=UNet2DConditionModel(**UNET, out_channels=3)), "answers in 3 channels"),
    (lambda: dict(unet=UNet2DConditionModel(**UNET, num_class_embeds=4)), "more than a text"),
    (lambda: dict(unet=UNet2DConditionModel(**{**UNET, "cross_attention_dim": 24})), "width 24.* 32 wide"),
    (lambda: dict(unet=None), "unet: expected a minidiff UNet2DConditionModel, got a builtins.NoneType"),
    (lambda: dict(vae=diffusers.AutoencoderKL(**VAE)), "vae: expected a minidiff AutoencoderKL, got a diffusers"),
    (lambda: dict(tokenizer="clip"), "tokenizer"), (lambda: dict(scheduler="ddim"), "scheduler"),
    (lambda: dict(safety_checker=object()), "safety_checker"),
    (lambda: dict(image_encoder=object()), "image_encoder")])
def test_parts_that_do_not_fit_are_refused_with_the_reason(changes, reason):
    unfit()
    with pytest.raises(ConfigError, match=reason): unfit(**changes())


def test_a_compiled_unet_is_still_one(ours):
    class Compiled(torch.nn.Module):  # as torch.compile wraps a module, without the wait
        def __init__(self, module):
            super().__init__()
            self._orig_mod = module
        def __getattr__(self, name): return super().__getattr__(name) if name == "_orig_mod" else getattr(self._orig_mod, name)
        def forward(self, *args, **kwargs): return self._orig_mod(*args, **kwargs)

    options = dict(prompt=PROMPT, latents=noise(), num_inference_steps=1, output_type="latent")
    plain = ours(**options)
    ours.unet = Compiled(ours.unet)
    assert torch.equal(ours(**options), plain)


def test_more_tokens_than_the_text_encoder_knows(ours):
    ours.tokenizer.vocab["<new>"] = len(ours.tokenizer)
    try:
        with pytest.raises(ConfigError, match="tokens, and the text encoder knows"): ours(PROMPT)
    finally: del ours.tokenizer.vocab["<new>"]


def test_a_width_given_level_by_level(ours):
    width = ours.unet.config.cross_attention_dim
    try:
        dict.__setitem__(ours.unet.config, "cross_attention_dim", (32, 32))
        ours.check_parts()
        dict.__setitem__(ours.unet.config, "cross_attention_dim", (32, 64))
        with pytest.raises(ConfigError, match="width"): ours.check_parts()
    finally: dict.__setitem__(ours.unet.config, "cross_attention_dim", width)


def test_a_tokenizer_of_another_length(ours):
    length = ours.tokenizer.model_max_length
    try:
        for own, expected in ((10**30, 77), (20, 20), (77, 77)):
            ours.tokenizer.model_max_length = own
            assert ours.encode_prompt([PROMPT]).shape == (1, expected, 32)
    finally: ours.tokenizer.model_max_length = length


def test_a_tokenizer_that_names_no_length(ours):
    class Limitless:
        inner, model_max_length = ours.tokenizer, None
        def __len__(self): return len(self.inner)
        def __call__(self, *args, **kwargs): return self.inner(*args, **kwargs)

    expected = ours.encode_prompt([PROMPT])
    ours.tokenizer = Limitless()
    assert torch.equal(ours.encode_prompt([PROMPT]), expected)


def test_exchanged_parts_are_checked_at_the_call(ours):
    ours.unet = UNet2DConditionModel(**UNET, in_channels=9)
    with pytest.raises(ConfigError, match="a mask"): ours(PROMPT)


# --- what is refused ------------------------------------------------------------------------------------------------
NAN, INF = float("nan"), float("inf")
REFUSED = [
    ("prompt", dict(prompt=3)), ("prompt", dict(prompt=[])), ("prompt", dict(prompt=[PROMPT, 3])), ("prompt", dict(prompt=b"a")), ("prompt", dict()),
    ("prompt", dict(prompt={PROMPT})), ("prompt or prompt_embeds, not both", dict(prompt=PROMPT, prompt_embeds=torch.ones(1, 77, 32))),
    ("negative_prompt", dict(prompt=PROMPT, negative_prompt=5)), ("negative_prompt has 2", dict(prompt=[PROMPT] * 3, negative_prompt=["", ""])),
    ("negative_prompt or", dict(prompt=PROMPT, negative_prompt="", negative_prompt_embeds=torch.ones(1, 77, 32))),
    ("prompt_embeds", dict(prompt_embeds=torch.ones(1, 77, 31))), ("prompt_embeds", dict(prompt_embeds=torch.ones(77, 32))), ("prompt_embeds", dict(prompt_embeds=[1])),
    ("prompt_embeds", dict(prompt_embeds=torch.full((1, 77, 32), NAN))), ("prompt_embeds", dict(prompt_embeds=torch.ones(1, 77, 32).long())),
    ("negative_prompt_embeds", dict(prompt=PROMPT, negative_prompt_embeds=torch.ones(2, 77, 32))),
    ("negative_prompt_embeds", dict(prompt=PROMPT, negative_prompt_embeds=torch.ones(1, 20, 32))),
    ("guidance_scale", dict(prompt=PROMPT, guidance_scale=NAN)), ("guidance_scale", dict(prompt=PROMPT, guidance_scale=INF)),
    ("guidance_scale", dict(prompt=PROMPT, guidance_scale="7.5")), ("guidance_scale", dict(prompt=PROMPT, guidance_scale=None)),
    ("guidance_rescale", dict(prompt=PROMPT, guidance_rescale=1.5)), ("guidance_rescale", dict(prompt=PROMPT, guidance_rescale=NAN)),
    ("num_inference_steps", dict(prompt=PROMPT, num_inference_steps=0)), ("num_inference_steps", dict(prompt=PROMPT, num_inference_steps=2.5)),
    ("num_inference_steps", dict(prompt=PROMPT, num_inference_steps="20")), ("num_inference_steps", dict(prompt=PROMPT, num_inference_steps=True)),
    ("num_inference_steps", dict(prompt=PROMPT, num_inference_steps=None)), ("num_images_per_prompt", dict(prompt=PROMPT, num_images_per_prompt=0)),
    ("num_images_per_prompt", dict(prompt=PROMPT, num_images_per_prompt=1.5)), ("height", dict(prompt=PROMPT, height=512.5)),
    ("height", dict(prompt=PROMPT, height=0)), ("height", dict(prompt=PROMPT, height=-16)), ("height", dict(prompt=PROMPT, height="16")),
    ("width", dict(prompt=PROMPT, width=NAN)), ("width", dict(prompt=PROMPT, width=10**9)), ("multiples of 2", dict(prompt=PROMPT, width=17)),
    ("width is 32", dict(prompt=PROMPT, width=32, latents=noise())), ("latents", dict(prompt=PROMPT, latents=noise(2))), ("latents", dict(prompt=PROMPT, latents=noise()[0])),
    ("latents", dict(prompt=PROMPT, latents=noise()[:, :3])), ("latents", dict(prompt=PROMPT, latents=noise().long())), ("latents", dict(prompt=PROMPT, latents=[0.0])),
    ("latents", dict(prompt=PROMPT, latents=noise() * NAN)), ("generator", dict(prompt=PROMPT, generator=3)), ("generator", dict(prompt=[PROMPT] * 2, generator=seeds(1))),
    ("generator", dict(prompt=PROMPT, generator=seeds(1, 2))), ("generator", dict(prompt=PROMPT, generator=["a"])), ("generator", dict(prompt=PROMPT, latents=noise(), generator="x")),
    ("output_type", dict(prompt=PROMPT, output_type="jpg")), ("output_type", dict(prompt=PROMPT, output_type=None)), ("eta", dict(prompt=PROMPT, eta=2)),
    ("eta", dict(prompt=PROMPT, eta="x")), ("clip_skip", dict(prompt=PROMPT, clip_skip=4)), ("clip_skip", dict(prompt=PROMPT, clip_skip=-1)),
    ("clip_skip", dict(prompt=PROMPT, clip_skip=1.5)), ("callback_on_step_end_tensor_inputs", dict(prompt=PROMPT, callback_on_step_end_tensor_inputs=["noise"]))]


@pytest.mark.parametrize("name,options", REFUSED, ids=lambda x: x if isinstance(x, str) else "-")
def test_wrong_arguments_are_refused_by_name(name, options, ours):
    with pytest.raises(ValueError, match=name) as error: ours(**{"num_inference_steps": 1, "output_type": "latent", **options})
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("options", [dict(etta=1.0), dict(strength=0.5), dict(image=None), dict(sample=noise()), dict(ip_adapter_image=3), dict(cross_attention_kwargs={"scale": 1})])
def test_unknown_arguments_are_the_pipelines_matter(options, ours):
    with pytest.raises(TypeError, match=f"LatentDiffusionPipeline knows no '{next(iter(options))}'"): ours(PROMPT, num_inference_steps=1, **options)


def test_unknown_arguments_of_opening(ours, folder):
    with pytest.raises(TypeError, match="knows no 'controlnet'"): LatentDiffusionPipeline.from_pretrained(folder / "real", controlnet=None)
    with pytest.raises(ConfigError, match="safety_checker"): LatentDiffusionPipeline.from_pretrained(folder / "real", safety_checker="x")
    with pytest.raises(ConfigError, match="use_safetensors"): LatentDiffusionPipeline.from_pretrained(folder / "real", use_safetensors=False)
    with pytest.raises(ConfigError, match="text_encoder"): LatentDiffusionPipeline.from_pretrained(folder / "real", text_encoder=None)


@pytest.mark.parametrize("name", ["enable_attention_slicing", "enable_model_cpu_offload", "set_adapters", "set_progress_bar_config", "config", "safety_checker"])
def test_what_diffusers_pipeline_has_and_ours_has_not(name, ours):
    with pytest.raises(AttributeError, match=f"LatentDiffusionPipeline has no '{name}'.*it keeps"): getattr(ours, name)
    assert not hasattr(ours, name)


@pytest.mark.parametrize("place", ["tpu", torch.int8])
def test_places_where_a_pipeline_cannot_go(place, ours):
    with pytest.raises(ConfigError, match="to: "): ours.to(place)
    assert ours.to("cpu", torch.float32) is ours


@pytest.mark.parametrize("name, given", [("over", 3), ("over", "a.png"), ("control", 3), ("control", torch.zeros(1, 3, 16, 16))], ids=str)
def test_a_loop_over_what_is_no_picture(name, given, ours):
    with pytest.raises(ConfigError, match=f"{name}: expected a (PaintOver|ControlHint), got"): ours.denoise(noise(), torch.zeros(2, 77, 32), 2, **{name: given})


def test_an_eye_that_shrinks_by_another_factor(ours):
    from minidiff.conditioning import ControlNetModel
    net = ControlNetModel.from_unet(ours.unet, conditioning_embedding_out_channels=(16, 32, 32, 64))
    assert net.controlnet_cond_embedding.factor == 8 and ours.vae.factor == 2
    for size in (16, 64):
        with pytest.raises(ConfigError, match="controlnet: its eye makes a picture 8 times smaller, and the VAE 2 times"):
            ours(PROMPT, controlnet=net, image=torch.zeros(1, 3, size, size), num_inference_steps=1)
    with pytest.raises(ConfigError, match="controlnet: expected"): ours(PROMPT, controlnet=3, image=torch.zeros(1, 3, 16, 16))


def test_a_denoise_with_too_few_states(ours):
    states = ours.encode_prompt(["", PROMPT])
    with pytest.raises(ValueError, match="states: expected 2, two for each canvas, got 1"): ours.denoise(noise(), states[1:], steps=1)
    torch.testing.assert_close(ours.denoise(noise(), states, 2, scale=1), ours.denoise(noise(), states[1:], 2, scale=1), atol=1e-5, rtol=1e-5)


def test_a_rescaled_answer_has_the_spread_of_the_answer_with_text():
    a, b = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    guided = guide(a, b, 7.5)
    sides = (1, 2, 3)
    torch.testing.assert_close(rescale_guided(guided, b, 1.0).std(sides), b.std(sides))
    assert torch.equal(rescale_guided(guided, b, 0.0), guided)


# --- pictures -------------------------------------------------------------------------------------------------------
def test_a_broken_model_paints_nothing_in_silence(ours):
    ours.vae = AutoencoderKL(**VAE).eval()
    with torch.no_grad(): ours.vae.decoder.conv_out.bias.fill_(NAN)
    for kind in ("pil", "np"):
        with pytest.raises(ValueError, match="NaN"): ours(PROMPT, num_inference_steps=1, output_type=kind)


def test_pictures_of_any_kind():
    ramp = torch.linspace(-1, 1, 48).view(1, 3, 4, 4)
    bytes_ = torch.from_numpy(to_uint8(ramp)).permute(0, 3, 1, 2)
    for same in (ramp, ramp.double(), bytes_, ramp.numpy(), list(ramp), ramp[0], bytes_.numpy()):
        assert np.array_equal(to_uint8(same), to_uint8(ramp)) and np.array_equal(np.asarray(to_pil(same)[0]), to_uint8(ramp)[0])
    assert np.abs(to_uint8(ramp.half()).astype(int) - to_uint8(ramp)).max() <= 1 and np.abs(to_uint8(ramp.bfloat16()).astype(int) - to_uint8(ramp)).max() <= 1
    gray = to_pil(ramp[:, :1])[0]
    assert gray.mode == "L" and np.array_equal(np.asarray(gray), to_uint8(ramp)[0, :, :, 0])
    assert image_grid(ramp[:, :1]).size == image_grid(bytes_).size == (8, 8)


@pytest.mark.parametrize("images", [torch.full((1, 3, 4, 4), NAN), torch.full((1, 3, 4, 4), INF).half(), torch.zeros(1, 3, 4, 4).long(), torch.zeros(1, 3, 4, 4).bool(),
                                    torch.zeros(1, 2, 4, 4), torch.zeros(4, 4), torch.zeros(0, 3, 4, 4), torch.zeros(1, 3, 0, 4), [], None, "picture", 3,
                                    [torch.zeros(3, 4, 4), torch.zeros(3, 5, 5)], torch.zeros(1, 3, 4, 4, dtype=torch.complex64), np.array(["a"])],
                         ids=lambda x: str(getattr(x, "dtype", x))[:20])
def test_what_is_no_picture_is_refused(images):
    for take in (to_uint8, to_pil, image_grid, show_images):
        with pytest.raises(ValueError, match="images") as error: take(images)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name,call", [
    ("ncols", lambda x: image_grid(x, ncols=0)), ("ncols", lambda x: image_grid(x, ncols=1.5)), ("pad", lambda x: image_grid(x, pad=-1)), ("upscale", lambda x: image_grid(x, upscale=0)),
    ("upscale=100000", lambda x: image_grid(x, upscale=100_000)), ("ncols", lambda x: show_images(x, ncols="8")), ("scale", lambda x: show_images(x, scale=0)),
    ("titles", lambda x: show_images(x, titles=["a"] * 3)), ("titles", lambda x: show_images(x, titles="ab")), ("titles", lambda x: animate([x], titles=["a", "b"])),
    ("fps", lambda x: animate([x], fps=0)), ("frames", lambda x: animate([])), ("images", lambda x: animate([x, x * NAN])), ("frame", lambda x: animate([3])),
    ("values", lambda x: slider(lambda v: x, [])), ("value: expected one of 1, 2, got 3", lambda x: slider(lambda v: x, [1, 2], value=3)),
    ("smooth", lambda x: smooth_curve([1.0], smooth=1)), ("smooth", lambda x: smooth_curve([1.0], smooth=-0.1)), ("smooth", lambda x: smooth_curve([1.0], smooth=NAN)),
    ("losses", lambda x: plot_losses(["a", "b"])), ("losses", lambda x: plot_losses(5)), ("losses", lambda x: plot_losses({"loss": None}))], ids=lambda x: x if isinstance(x, str) else "-")
def test_figures_with_wrong_arguments(name, call):
    with pytest.raises(ValueError, match=name): call(torch.zeros(2, 3, 4, 4))


def test_curves_with_holes_are_drawn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for losses in ([1.0, NAN, 2.0], [], {"a": [], "b": [1.0]}, torch.tensor([1.0, 2.0]), {"a": np.array([3.0, INF])}):
            assert _look(lambda _: plot_losses(losses), None).width > 100
