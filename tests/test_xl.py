"""Stable Diffusion XL in the pipeline, against diffusers' own: two text encoders, sizes, zeros for no negative prompt; and what is refused."""
import copy
import inspect
import pickle
import warnings

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers import StableDiffusionXLPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from minidiff.checks import ConfigError, LoadError
from minidiff.conditioning import ControlNetModel
from minidiff.files import read_json, write_json
from minidiff.lora import TEXT_ATTENTION, add_lora, lora_layers, save_lora
from minidiff.pipeline import SCHEDULERS, LatentDiffusionPipeline
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.text_encoder import CLIPTextModel, CLIPTextModelWithProjection
from minidiff.tokenizer import CLIPTokenizer, train_bpe
from minidiff.two_encoders import decode_scaled, in_single, take_sizes, with_sizes
from test_lora import stir
from test_pipeline import BETAS, OTHER, PROMPT, VAE, noise, seeds
from test_pipeline import real_pipeline as elder

UNET = dict(sample_size=8, block_out_channels=(32, 64), layers_per_block=2, cross_attention_dim=56, norm_num_groups=8, attention_head_dim=(2, 4),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
            transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=20 + 6 * 8)


def real_pipeline(folder, zeros=True, vae=()):
    torch.manual_seed(0)
    CLIPTokenizer(*train_bpe([PROMPT, OTHER] * 3, 600)).save_pretrained(folder / "tokenizer")
    first = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    second = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", pad_token="!")
    ids = {f"{name}_token_id": getattr(first, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    both = dict(vocab_size=len(first), num_hidden_layers=3, num_attention_heads=4, **ids)
    one = transformers.CLIPTextModel(transformers.CLIPTextConfig(hidden_size=32, intermediate_size=64, **both))
    two = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(hidden_size=24, intermediate_size=48, hidden_act="gelu", projection_dim=20, **both))
    pipe = StableDiffusionXLPipeline(diffusers.AutoencoderKL(**{**VAE, **dict(vae)}).eval(), one.eval(), two.eval(), first, second, diffusers.UNet2DConditionModel(**UNET).eval(),
                                     diffusers.EulerDiscreteScheduler(**{k: v for k, v in BETAS.items() if k not in ("clip_sample", "set_alpha_to_one")}),
                                     force_zeros_for_empty_prompt=zeros, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("xl")


@pytest.fixture(scope="module")
def real(folder):
    pipe = real_pipeline(folder)
    pipe.save_pretrained(folder / "real")
    return pipe


@pytest.fixture
def ours(real, folder):
    return LatentDiffusionPipeline.from_pretrained(folder / "real")


def equal(ours, real, again=None, **options):
    options = {"num_inference_steps": 3, "output_type": "np", "guidance_scale": 5.0, **options}
    mine, theirs = ours(**options, **(again() if again else {})), real(**options, **(again() if again else {})).images
    assert mine.shape == theirs.shape
    np.testing.assert_allclose(mine, theirs, atol=1e-4, rtol=1e-4)
    return mine


def test_both_encoders_and_what_they_read_are_opened(ours):
    assert list(ours.components) == ["vae", "text_encoder", "tokenizer", "unet", "text_encoder_2", "tokenizer_2", "scheduler"]
    assert type(ours.text_encoder_2) is CLIPTextModelWithProjection and type(ours.text_encoder) is CLIPTextModel
    assert ours.tokenizer("a").input_ids == ours.tokenizer_2("a").input_ids
    first, second = (t("a", padding="max_length", max_length=9).input_ids[0] if isinstance(t("a", padding="max_length", max_length=9).input_ids[0], list)
                     else t("a", padding="max_length", max_length=9).input_ids for t in (ours.tokenizer, ours.tokenizer_2))
    assert first != second  # other padding
    assert ours.force_zeros_for_empty_prompt is True


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("options", [
    dict(prompt=PROMPT), dict(prompt=[PROMPT, OTHER], negative_prompt=["", "a star"]), dict(prompt=PROMPT, negative_prompt=OTHER, height=32, width=16),
    dict(prompt=[PROMPT, OTHER], height=24, width=8, num_images_per_prompt=2)], ids=str)
def test_the_same_picture(name, options, ours, real):
    config = real.scheduler.config
    theirs = StableDiffusionXLPipeline(**{**real.components, "scheduler": getattr(diffusers, name).from_config(config)}, add_watermarker=False)
    theirs.set_progress_bar_config(disable=True)
    ours.scheduler = SCHEDULERS[name].from_config(dict(config))
    equal(ours, theirs, lambda: dict(generator=seeds(5)[0]), num_inference_steps=5, **options)


@pytest.mark.parametrize("options", [
    dict(prompt=PROMPT, prompt_2=OTHER), dict(prompt=PROMPT, prompt_2=OTHER, negative_prompt="a", negative_prompt_2="red"), dict(prompt=PROMPT, negative_prompt=""),
    dict(prompt=PROMPT, negative_prompt_2="red"), dict(prompt=PROMPT, guidance_scale=1.0), dict(prompt=PROMPT, clip_skip=1), dict(prompt=PROMPT, clip_skip=0, negative_prompt=OTHER),
    dict(prompt=PROMPT, guidance_rescale=0.7), dict(prompt=PROMPT, original_size=(512, 384), crops_coords_top_left=(3, 7), target_size=(64, 32)),
    dict(prompt=PROMPT, negative_original_size=(100, 90), negative_target_size=(80, 70)), dict(prompt=PROMPT, negative_original_size=(100, 90), negative_target_size=(80, 70), negative_crops_coords_top_left=(5, 0)),
    dict(prompt=PROMPT, negative_original_size=(100, 90)), dict(prompt="")], ids=str)
def test_what_only_xl_takes(options, ours, real):
    equal(ours, real, lambda: dict(generator=seeds(5)[0]), **options)


def test_another_answer_to_an_empty_negative_prompt(real, folder, tmp_path):
    theirs = real_pipeline(tmp_path, zeros=False)
    theirs.save_pretrained(tmp_path / "real")
    ours = LatentDiffusionPipeline.from_pretrained(tmp_path / "real")
    assert ours.force_zeros_for_empty_prompt is False
    equal(ours, theirs, prompt=[PROMPT, OTHER], latents=noise(2))


def test_vectors_in_place_of_texts(ours, real):
    states, negative, pooled, negative_pooled = real.encode_prompt([PROMPT, OTHER])
    own = dict(prompt_embeds=states, pooled_prompt_embeds=pooled, latents=noise(2))
    plain = equal(ours, real, **own)
    np.testing.assert_allclose(ours(prompt=[PROMPT, OTHER], latents=noise(2), num_inference_steps=3, output_type="np", guidance_scale=5.0), plain, atol=1e-4)
    equal(ours, real, negative_prompt_embeds=states.flip(0), negative_pooled_prompt_embeds=pooled.flip(0), **own)
    equal(ours, real, negative_prompt="a", **own)
    equal(ours, real, guidance_scale=1.0, **own)


def test_between_a_guided_and_an_unguided_loop(ours):
    "A callback may turn guidance off: then one half is asked, of the states and of what is added."
    def off(pipe, i, t, tensors):
        if i == 1: pipe._guidance_scale = 1.0
    a = ours(PROMPT, latents=noise(), num_inference_steps=4, output_type="pt", callback_on_step_end=off)
    assert a.isfinite().all()
    zero = ours(PROMPT, latents=noise(), num_inference_steps=2, output_type="pt", guidance_scale=0)
    same = ours(OTHER, latents=noise(), num_inference_steps=2, output_type="pt", guidance_scale=0)
    assert torch.equal(zero, same)


def test_diffusers_opens_what_is_saved(ours, real, tmp_path):
    ours.save_pretrained(tmp_path)
    index = read_json(tmp_path / "model_index.json")
    assert index["_class_name"] == "StableDiffusionXLPipeline" and index["force_zeros_for_empty_prompt"] is True and "safety_checker" not in index
    back = StableDiffusionXLPipeline.from_pretrained(tmp_path, add_watermarker=False)
    back.set_progress_bar_config(disable=True)
    equal(ours, back, prompt=PROMPT, latents=noise())
    equal(LatentDiffusionPipeline.from_pretrained(tmp_path), real, prompt=PROMPT, latents=noise())


@pytest.mark.parametrize("name", [name for name in inspect.signature(StableDiffusionXLPipeline.__call__).parameters if name not in ("self", "kwargs", "denoising_end", "guidance_scale")])
def test_every_argument_of_diffusers_is_known(name, ours):
    default = inspect.signature(StableDiffusionXLPipeline.__call__).parameters[name].default
    given = {"prompt": PROMPT, "num_inference_steps": 1, "output_type": "latent", "latents": noise(), name: default}
    if name in ("prompt", "latents", "num_inference_steps", "output_type", "return_dict"): return
    assert ours(**given).isfinite().all()


@torch.no_grad()
def test_a_lora_of_both_encoders(ours, tmp_path):
    plain = ours(PROMPT, latents=noise(), num_inference_steps=2, output_type="pt")
    for part, targets in dict(unet=("to_q", "to_v"), text_encoder=TEXT_ATTENTION, text_encoder_2=TEXT_ATTENTION).items():
        add_lora(getattr(ours, part), 2, targets)
        stir(getattr(ours, part))
    changed = ours(PROMPT, latents=noise(), num_inference_steps=2, output_type="pt")
    save_lora(tmp_path, unet=ours.unet, text_encoder=ours.text_encoder, text_encoder_2=ours.text_encoder_2)
    ours.unload_lora_weights()
    assert torch.equal(ours(PROMPT, latents=noise(), num_inference_steps=2, output_type="pt"), plain)
    ours.load_lora_weights(tmp_path)
    assert len(lora_layers(ours.text_encoder_2)) == 12
    torch.testing.assert_close(ours(PROMPT, latents=noise(), num_inference_steps=2, output_type="pt"), changed, atol=1e-5, rtol=1e-4)
    assert (changed - plain).abs().max() > 0.01


@pytest.mark.parametrize("scale", [1.0, -0.4])
def test_a_lora_that_peft_trained_for_all_three(scale, folder, ours, tmp_path):
    "The picture is diffusers', beside the weights and merged into them; and ours opens there."
    theirs = StableDiffusionXLPipeline.from_pretrained(folder / "real", add_watermarker=False)
    theirs.set_progress_bar_config(disable=True)
    g = torch.Generator().manual_seed(9)
    parts = ("unet", "text_encoder", "text_encoder_2")
    for part, r, alpha in zip(parts, (3, 2, 4), (6, 1, 3)):
        network = getattr(theirs, part)
        network.add_adapter(LoraConfig(r=r, lora_alpha=alpha, target_modules=["to_q", "to_v", "ff.net.2", "proj_in"] if part == "unet" else list(TEXT_ATTENTION)))
        with torch.no_grad():
            for key, x in network.named_parameters():
                if "lora_" in key: x.copy_(0.2 * torch.randn(x.shape, generator=g))
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(getattr(theirs, part)) for part in parts}
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, **layers, **_collate_lora_metadata({part: getattr(theirs, part) for part in parts}))
    again = StableDiffusionXLPipeline.from_pretrained(folder / "real", add_watermarker=False)
    again.set_progress_bar_config(disable=True)
    again.load_lora_weights(tmp_path, adapter_name="own")
    again.set_adapters("own", scale)
    options = dict(prompt=[PROMPT, OTHER], negative_prompt=["", "a star"], latents=noise(2))
    plain = ours(num_inference_steps=3, guidance_scale=5.0, output_type="np", **options)
    ours.load_lora_weights(tmp_path, scale=scale)
    assert abs(equal(ours, again, **options) - plain).max() > 0.02
    save_lora(tmp_path / "ours", **{part: getattr(ours, part) for part in parts})
    ours.fuse_lora()
    equal(ours, again, **options)
    again.unload_lora_weights()
    again.load_lora_weights(tmp_path / "ours", adapter_name="back")
    again.set_adapters("back", scale)
    equal(ours, again, **options)


def test_a_vae_that_overflows_in_half_precision(ours):
    vae = ours.vae.half()
    assert vae.config.force_upcast
    picture = decode_scaled(vae, noise().half())
    assert picture.dtype == torch.float32 and next(vae.parameters()).dtype == torch.float16


@torch.no_grad()
@pytest.mark.parametrize("mask", [None, torch.ones(1, 1, 16, 16)], ids=["img2img", "inpaint"])
def test_a_picture_is_encoded_in_single_precision_too(mask, folder, ours, monkeypatch):
    "XL's VAE overflows in half precision, both ways; afterwards it is in half again."
    half = LatentDiffusionPipeline.from_pretrained(folder / "real", dtype=torch.float16)
    encode, seen = half.vae.encode, []
    monkeypatch.setattr(half.vae, "encode", lambda x: seen.append((x.dtype, half.vae.decoder.conv_in.weight.dtype)) or encode(x))
    picture = torch.rand(1, 3, 16, 16, generator=seeds(1)[0]) * 2 - 1
    given = [PROMPT, picture] + ([] if mask is None else [mask])
    options = dict(strength=0.6, num_inference_steps=4, output_type="pt")
    painted, wanted = (getattr(pipe, "img2img" if mask is None else "inpaint")(*given, generator=seeds(5)[0], **options) for pipe in (half, ours))
    assert seen and {*seen} == {(torch.float32, torch.float32)} and {p.dtype for p in half.vae.parameters()} == {torch.float16}
    torch.testing.assert_close(painted, wanted, atol=0.02, rtol=0)
    elder_vae = half.vae
    with in_single(elder_vae, False): assert elder_vae.decoder.conv_in.weight.dtype == torch.float16


def test_half_of_what_is_heard_by_a_callback(ours, real):
    "Guidance that ends half way, as diffusers' documentation writes it: here what is added is halved with the states."
    def change(pipe, i, t, tensors):
        if i == 1:
            pipe._guidance_scale = 0.0
            return {name: x.chunk(2)[-1] for name, x in tensors.items()}
        return tensors
    options = dict(prompt=[PROMPT, OTHER], latents=noise(2), num_inference_steps=4, output_type="np", guidance_scale=5.0, callback_on_step_end=change)
    mine = ours(**options, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    theirs = real(**options, callback_on_step_end_tensor_inputs=["prompt_embeds", "add_text_embeds", "add_time_ids"]).images
    np.testing.assert_allclose(mine, theirs, atol=1e-5)
    options.pop("callback_on_step_end")
    assert abs(ours(**options) - mine).max() > 2e-4  # of a random U-Net that hardly listens


@torch.no_grad()
def test_copies_with_a_lora_on(ours):
    plain = ours(PROMPT, latents=noise(), num_inference_steps=2, output_type="pt")
    add_lora(ours.unet, 2)
    stir(ours.unet)
    changed = ours(PROMPT, latents=noise(), num_inference_steps=2, output_type="pt")
    assert not torch.equal(changed, plain)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(PROMPT, latents=noise(), num_inference_steps=2, output_type="pt"), changed)
        other.unload_lora_weights()
        assert torch.equal(other(PROMPT, latents=noise(), num_inference_steps=2, output_type="pt"), plain)
    assert torch.equal(ours(PROMPT, latents=noise(), num_inference_steps=2, output_type="pt"), changed)


MEAN, STD = [-1.6, 2.2, 0.1, 0.2], [8.4, 6.0, 5.2, 4.4]


def test_the_mean_and_spread_of_each_channel(real, tmp_path):
    "As Playground 2.5 has them; and a folder of ours keeps them."
    theirs = real_pipeline(tmp_path, vae=dict(latents_mean=MEAN, latents_std=STD, scaling_factor=0.5))
    theirs.save_pretrained(tmp_path / "real")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ours = LatentDiffusionPipeline.from_pretrained(tmp_path / "real")
    painted = equal(ours, theirs, prompt=[PROMPT, OTHER], negative_prompt=["", "a"], latents=noise(2))
    latents = ours(prompt=[PROMPT, OTHER], negative_prompt=["", "a"], latents=noise(2), num_inference_steps=3, guidance_scale=5.0, output_type="latent")
    with torch.no_grad(): plain = ours.vae.decode(latents / 0.5)
    assert abs((plain / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() - painted).max() > 0.05  # it is no small matter
    ours.save_pretrained(tmp_path / "ours")
    equal(LatentDiffusionPipeline.from_pretrained(tmp_path / "ours"), theirs, prompt=PROMPT, latents=noise())
    picture = torch.zeros(1, 3, 16, 16)
    for call in (lambda: ours.img2img(PROMPT, picture), lambda: ours.inpaint(PROMPT, picture, torch.ones(1, 1, 16, 16))):
        with pytest.raises(ConfigError, match="image: .*latents_mean and latents_std.*expected latents"): call()
    assert ours.img2img(PROMPT, latents[:1], num_inference_steps=2, output_type="pt").isfinite().all()


def test_one_of_both_is_not_used_and_said(tmp_path):
    theirs = real_pipeline(tmp_path, vae=dict(latents_mean=MEAN))
    theirs.save_pretrained(tmp_path / "real")
    with pytest.warns(UserWarning, match="latents_mean=.*not used"): ours = LatentDiffusionPipeline.from_pretrained(tmp_path / "real")
    equal(ours, theirs, prompt=PROMPT, latents=noise())


def test_the_elders_do_not_use_them_and_it_is_said(tmp_path):
    theirs = elder(tmp_path, vae=dict(latents_mean=MEAN, latents_std=STD))
    theirs.save_pretrained(tmp_path / "real")
    with pytest.warns(UserWarning) as told: ours = LatentDiffusionPipeline.from_pretrained(tmp_path / "real")
    assert [str(one.message).split("=")[0] for one in told if "is not used" in str(one.message)] == ["the VAE's latents_mean", "the VAE's latents_std"]
    equal(ours, theirs, prompt=PROMPT, latents=noise())


# --- what is refused ------------------------------------------------------------------------------------------------
STATES, POOLED = torch.zeros(1, 77, 56), torch.zeros(1, 20)


@pytest.mark.parametrize("options, reason", [
    (dict(prompt_embeds=STATES), "pooled_prompt_embeds together"), (dict(pooled_prompt_embeds=POOLED, prompt=PROMPT), "together"), (dict(), "give a prompt"),
    (dict(prompt=PROMPT, prompt_embeds=STATES, pooled_prompt_embeds=POOLED), "not both"), (dict(prompt=PROMPT, prompt_2=[OTHER, OTHER]), "prompt_2"),
    (dict(prompt=PROMPT, prompt_2=3), "prompt_2"), (dict(prompt=PROMPT, negative_prompt=5, guidance_scale=1), "negative_prompt must"),
    (dict(prompt=PROMPT, negative_prompt_2=["a"] * 3, guidance_scale=1), "negative_prompt_2 has 3"), (dict(prompt=PROMPT, negative_prompt_embeds=STATES), "negative_pooled_prompt_embeds together"),
    (dict(prompt=PROMPT, original_size=512), "original_size"), (dict(prompt=PROMPT, target_size=(1, 2, 3)), "target_size"), (dict(prompt=PROMPT, target_size=(1.5, 2)), "target_size"),
    (dict(prompt=PROMPT, crops_coords_top_left=(-1, 0)), "crops_coords_top_left"), (dict(prompt=PROMPT, clip_skip=3), "clip_skip"), (dict(prompt=PROMPT, clip_skip=-1), "clip_skip"),
    (dict(prompt_embeds=STATES, pooled_prompt_embeds=POOLED[:, :3]), "text_embeds"), (dict(prompt_embeds=STATES[..., :3], pooled_prompt_embeds=POOLED), "encoder_hidden_states")], ids=str)
def test_wrong_arguments(options, reason, ours):
    with pytest.raises((ValueError, ConfigError), match=reason) as error: ours(**{"num_inference_steps": 1, "output_type": "latent", **options})
    assert "\n" not in str(error.value)


def test_parts_that_do_not_fit(ours, real, folder):
    parts = ours.components
    one = {**parts, "text_encoder_2": None, "tokenizer_2": None}
    with pytest.raises(ConfigError, match="width 56"): LatentDiffusionPipeline(**one)
    with pytest.raises(ConfigError, match="text_encoder_2: expected a minidiff CLIPTextModelWithProjection"): LatentDiffusionPipeline(**{**parts, "text_encoder_2": parts["text_encoder"]})
    with pytest.raises(ConfigError, match="tokenizer_2"): LatentDiffusionPipeline(**{**parts, "tokenizer_2": None})
    with pytest.raises(ConfigError, match="add_embedding takes"):
        LatentDiffusionPipeline(**{**parts, "unet": UNet2DConditionModel(**{**UNET, "projection_class_embeddings_input_dim": 70})})
    plain = {k: v for k, v in UNET.items() if not k.startswith(("addition", "projection"))}
    with pytest.raises(ConfigError, match="two text encoders"): LatentDiffusionPipeline(**{**parts, "unet": UNet2DConditionModel(**plain)})
    index = read_json(folder / "real/model_index.json")
    try:
        write_json({**index, "text_encoder_2": ["transformers", "T5EncoderModel"]}, folder / "real/model_index.json")
        with pytest.raises(LoadError, match="the text_encoder_2 is a T5EncoderModel"): LatentDiffusionPipeline.from_pretrained(folder / "real")
        write_json({**index, "text_encoder": [None, None]}, folder / "real/model_index.json")  # as the refiner's
        with pytest.raises(LoadError, match="names no text_encoder"): LatentDiffusionPipeline.from_pretrained(folder / "real")
    finally: write_json(index, folder / "real/model_index.json")


def test_a_controlnet_of_xls_own(ours):
    net = ControlNetModel.from_unet(ours.unet, conditioning_embedding_out_channels=(8, 16))
    with pytest.raises(ConfigError, match="controlnet: .*text_time.*expected one without"): ours(PROMPT, controlnet=net, image=torch.zeros(1, 3, 16, 16), num_inference_steps=1)


def test_other_sizes_for_each_half_in_a_batch():
    "diffusers interleaves these rows where there are several prompts, and the states not; ours keeps them beside their states."
    added = dict(text_embeds=torch.zeros(4, 3), sizes=take_sizes(dict(negative_original_size=(9, 8), negative_target_size=(7, 6))))
    assert with_sizes(added, torch.zeros(2, 4, 1, 1), 8)["time_ids"].tolist() == [[9, 8, 0, 0, 7, 6]] * 2 + [[8, 8, 0, 0, 8, 8]] * 2
