"""The promise, in one place: a tiny random Stable Diffusion 1.x, 2.x or XL paints in ours what it paints in diffusers', to 1/255 + 1e-3 in each number of [0, 1]."""
import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

import test_pipeline
import test_xl
from minidiff.pipeline import SCHEDULERS, LatentDiffusionPipeline
from minidiff.tokenizer import CLIPTokenizer, train_bpe
from test_pipeline import BETAS, OTHER, PROMPT, VAE, seeds

BOUND = 1 / 255 + 1e-3
THIRD = "two yellow triangles"


def second_version(folder):
    "As 2.x differs: GELU, padding of its own, linear projections, heads level by level, predictions of v."
    torch.manual_seed(2)
    CLIPTokenizer(*train_bpe([PROMPT, OTHER, THIRD] * 3, 600)).save_pretrained(folder / "tokenizer")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", pad_token="!")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=3,
                                                                  num_attention_heads=6, hidden_act="gelu", **ids))
    unet = diffusers.UNet2DConditionModel(**{**test_pipeline.UNET, "cross_attention_dim": 48, "attention_head_dim": (2, 4), "use_linear_projection": True,
                                             "layers_per_block": 2})
    return StableDiffusionPipeline(diffusers.AutoencoderKL(**VAE).eval(), text.eval(), tokenizer, unet.eval(),
                                   diffusers.DDIMScheduler(**BETAS, prediction_type="v_prediction"), safety_checker=None, feature_extractor=None, requires_safety_checker=False)


MAKERS = {"1.x": test_pipeline.real_pipeline, "2.x": second_version, "XL": test_xl.real_pipeline}


@pytest.fixture(scope="module", params=MAKERS)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("equal")
    real = MAKERS[request.param](folder)
    real.save_pretrained(folder / "real")
    return LatentDiffusionPipeline.from_pretrained(folder / "real"), real


OPTIONS = {"two unlike prompts": dict(prompt=[PROMPT, OTHER], negative_prompt=[THIRD, ""]), "wide": dict(prompt=PROMPT, negative_prompt=OTHER, height=16, width=40),
           "high": dict(prompt=[OTHER, PROMPT], negative_prompt=["red", THIRD], height=40, width=16), "no negative prompt": dict(prompt=[PROMPT, THIRD, OTHER])}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_the_picture_is_diffusers(name, options, pair):
    ours, real = pair
    config = dict(real.scheduler.config)
    more = {"add_watermarker": False} if isinstance(real, StableDiffusionXLPipeline) else {"requires_safety_checker": False}
    theirs = type(real)(**{**real.components, "scheduler": getattr(diffusers, name).from_config(config)}, **more)
    theirs.set_progress_bar_config(disable=True)
    ours.scheduler = SCHEDULERS[name].from_config(config)
    assert ours.scheduler.config.prediction_type == theirs.scheduler.config.prediction_type
    given = dict(num_inference_steps=6, guidance_scale=7.5, output_type="np", **OPTIONS[options])
    mine, own = ours(generator=seeds(4)[0], **given), theirs(generator=seeds(4)[0], **given).images
    assert mine.shape == own.shape and abs(mine - own).max() <= BOUND
    assert own.std() > 0.03  # there is something to see
    if len(own) > 1: assert abs(own[0] - own[1]).max() > 5 * BOUND  # and each prompt has its own


def test_guidance_and_the_negative_prompt_are_felt(pair):
    ours, _ = pair
    given = dict(prompt=PROMPT, num_inference_steps=6, output_type="np")
    plain, guided, otherwise = (ours(generator=seeds(4)[0], **given, **more) for more in
                                (dict(guidance_scale=1.0), dict(negative_prompt=OTHER), dict(negative_prompt=THIRD)))
    assert abs(plain - guided).max() > BOUND and abs(guided - otherwise).max() > BOUND
