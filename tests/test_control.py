"""ControlNet against diffusers' own: the same config, the same weights, the same answers and gradients; and what it refuses."""
import diffusers
import pytest
import torch

from minidiff.checks import ConfigError
from minidiff.conditioning import ControlNetModel
from minidiff.sd_unet import UNet2DConditionModel

BASE = dict(block_out_channels=(16, 32), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), layers_per_block=1, norm_num_groups=8,
            cross_attention_dim=24, attention_head_dim=4, conditioning_embedding_out_channels=(8, 16, 24))
CONFIGS = {
    "like SD 1": BASE, "two layers, linear": {**BASE, "layers_per_block": 2, "use_linear_projection": True, "attention_head_dim": (2, 8)},
    "three levels": {**BASE, "block_out_channels": (16, 24, 32), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), "norm_num_groups": 4,
                     "transformer_layers_per_block": (1, 2, 1)},
    "one level": {**BASE, "block_out_channels": (16,), "down_block_types": ("CrossAttnDownBlock2D",)},
    "bgr, one channel wide": {**BASE, "controlnet_conditioning_channel_order": "bgr", "conditioning_embedding_out_channels": (8,)},
    "depth, gelu": {**BASE, "conditioning_channels": 1, "act_fn": "gelu", "flip_sin_to_cos": False, "freq_shift": 1},
    "9 channels": {**BASE, "in_channels": 9}, "self-attention off": {**BASE, "only_cross_attention": (True, False)},
    "pooled text": {**BASE, "addition_embed_type": "text", "addition_embed_type_num_heads": 4},
    "like SDXL": {**BASE, "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64},
    "classes": {**BASE, "num_class_embeds": 5}, "timesteps as classes": {**BASE, "class_embed_type": "timestep", "act_fn": "gelu"},
    "projected classes": {**BASE, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 12}}
EXTRA = {"classes": dict(class_labels=torch.tensor([1, 4])), "timesteps as classes": dict(class_labels=torch.tensor([3.0, 40.0])),
         "projected classes": dict(class_labels=torch.randn(2, 12, generator=torch.Generator().manual_seed(3))),
         "like SDXL": dict(added_cond_kwargs=dict(text_embeds=torch.randn(2, 32, generator=torch.Generator().manual_seed(4)), time_ids=torch.arange(8.0).view(2, 4)))}


def randomize(model, seed=0):
    """Every weight, those that begin as zeros too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters(): p.copy_(torch.randn(p.shape, generator=generator) * (0.3 / max(p[0].numel(), 1) ** 0.5 if p.ndim > 1 else 0.1) + (p.ndim == 1))
    return model


def pair(name):
    torch.manual_seed(0)
    real = randomize(diffusers.ControlNetModel(**CONFIGS[name]))
    ours = ControlNetModel.from_config(dict(real.config))
    ours.load_state_dict(real.state_dict(), strict=True)
    real.load_state_dict(ours.state_dict(), strict=True)
    return ours, real


def inputs(config, seed=1, side=8):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    factor = 2 ** (len(config["conditioning_embedding_out_channels"]) - 1)
    return dict(sample=draw(2, config.get("in_channels", 4), side, side), timestep=torch.tensor([7, 801]), encoder_hidden_states=draw(2, 5, config["cross_attention_dim"]),
                controlnet_cond=draw(2, config.get("conditioning_channels", 3), side * factor, side * factor))


def close(a, b): assert (a - b).abs().max() <= 1e-5 * max(1, b.abs().max()), (a - b).abs().max()


@pytest.mark.parametrize("scale", [1.0, 0.4, 0])
@pytest.mark.parametrize("name", CONFIGS)
def test_answers_and_gradients_equal_diffusers(name, scale):
    ours, real = pair(name)
    given = inputs(CONFIGS[name])
    losses = []
    for model in (ours, real):
        own = {k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in given.items()}
        more = {} if model is ours else dict(return_dict=False)
        down, middle = model(**own, conditioning_scale=scale, **EXTRA.get(name, {}), **more)
        sum(x.square().mean() for x in (*down, middle)).backward()
        losses.append((*down, middle, *(v.grad for v in own.values() if v.requires_grad), *(dict(model.named_parameters())[n].grad for n, _ in ours.named_parameters())))
    assert len(losses[0]) == len(losses[1])
    for a, b in zip(*losses):
        assert (a is None) == (b is None)
        if a is not None: close(a, b)


def test_guess_mode_equals_diffusers():
    ours, real = pair("like SD 1")
    given = inputs(BASE)
    mine, theirs = ours(**given, guess_mode=True, conditioning_scale=0.7), real(**given, guess_mode=True, conditioning_scale=0.7, return_dict=False)
    for a, b in zip((*mine[0], mine[1]), (*theirs[0], theirs[1])): close(a, b)


UNET = {k: v for k, v in BASE.items() if k != "conditioning_embedding_out_channels"} | dict(up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), sample_size=8)
UNETS = {"like SD 1": UNET, "pooled text": {**UNET, "addition_embed_type": "text", "addition_embed_type_num_heads": 4}, "9 channels": {**UNET, "in_channels": 9},
         "linear": {**UNET, "use_linear_projection": True, "attention_head_dim": (2, 8)}, "classes": {**UNET, "num_class_embeds": 5}}


@pytest.mark.parametrize("name", UNETS)
def test_from_unet_and_the_unets_answer(name):
    torch.manual_seed(0)
    real_unet = randomize(diffusers.UNet2DConditionModel(**UNETS[name]))
    unet = UNet2DConditionModel.from_config(dict(real_unet.config))
    unet.load_state_dict(real_unet.state_dict())
    widths = dict(conditioning_embedding_out_channels=(8, 16, 24))
    ours = ControlNetModel.from_unet(unet, **widths)
    assert torch.equal(ours.conv_in.weight, unet.conv_in.weight) and torch.equal(ours.mid_block.resnets[0].conv1.weight, unet.mid_block.resnets[0].conv1.weight)
    given = inputs({**BASE, **UNETS[name]})
    labels = dict(class_labels=torch.tensor([0, 2])) if name == "classes" else {}
    about = {k: given[k] for k in ("sample", "timestep", "encoder_hidden_states")} | labels
    down, middle = ours(**given, **labels)
    assert all((x == 0).all() for x in (*down, middle))
    assert torch.equal(unet(**about), unet(**about, down_block_additional_residuals=down, mid_block_additional_residual=middle))  # the identity at the start
    if name != "pooled text":  # diffusers' from_unet forgets the number of heads
        real = diffusers.ControlNetModel.from_unet(real_unet, **widths)
        assert real.state_dict().keys() == ours.state_dict().keys()
        assert all(torch.equal(v, ours.state_dict()[k]) for k, v in real.state_dict().items() if not k.startswith("controlnet_cond"))
    randomize(ours, 5)
    down, middle = ours(**given, **labels)
    mine = unet(**about, down_block_additional_residuals=down, mid_block_additional_residual=middle)
    theirs = real_unet(**about, down_block_additional_residuals=tuple(down), mid_block_additional_residual=middle).sample
    close(mine, theirs)
    assert (mine - unet(**about)).abs().max() > 1e-3


def test_from_unet_without_weights():
    unet = UNet2DConditionModel.from_config(UNET)
    model = ControlNetModel.from_unet(unet, load_weights_from_unet=False, conditioning_channels=1, controlnet_conditioning_channel_order="bgr", conditioning_embedding_out_channels=(4, 8))
    assert not torch.equal(model.conv_in.weight, unet.conv_in.weight)
    assert model.config.conditioning_channels == 1 and model.config.controlnet_conditioning_channel_order == "bgr" and model.controlnet_cond_embedding.factor == 2
    compiled = ControlNetModel.from_unet(torch.compile(unet), conditioning_embedding_out_channels=(4, 8))  # (nothing is compiled before the first call)
    assert torch.equal(compiled.conv_in.weight, unet.conv_in.weight)
    assert ControlNetModel.from_unet(unet.double(), conditioning_embedding_out_channels=(4, 8)).conv_in.weight.dtype == torch.float64


@pytest.mark.parametrize("name", CONFIGS)
def test_folders_travel_both_ways(name, tmp_path):
    ours, real = pair(name)
    ours.save_pretrained(tmp_path / "ours")
    real.save_pretrained(tmp_path / "real")
    theirs = diffusers.ControlNetModel.from_pretrained(tmp_path / "ours")
    back = ControlNetModel.from_pretrained(tmp_path / "real")
    for key in ControlNetModel.config_keys():
        a, b = theirs.config[key], ours.config[key]
        assert (tuple(a) if isinstance(a, list) else a) == b, key
    for model in (theirs, back):
        assert all(torch.equal(v, ours.state_dict()[k]) for k, v in model.state_dict().items())


def test_names_and_shapes_at_full_size():
    for more in ({}, dict(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True)):
        config = {"cross_attention_dim": 768, **more}
        with torch.device("meta"): ours, real = ControlNetModel(**config), diffusers.ControlNetModel(**config)
        assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}


@pytest.mark.parametrize("reason, changes", [
    ("mid_block_type", dict(mid_block_type="UNetMidBlock2D")), ("global_pool_conditions", dict(global_pool_conditions=True)), ("encoder_hid_dim", dict(encoder_hid_dim=8)),
    ("layers_per_block", dict(layers_per_block=0)), ("layers_per_block", dict(layers_per_block=(1, 1))), ("cross_attention_dim", dict(cross_attention_dim=(24, 24))),
    ("conditioning_channels", dict(conditioning_channels=0)), ("conditioning_embedding_out_channels", dict(conditioning_embedding_out_channels=())),
    ("conditioning_embedding_out_channels", dict(conditioning_embedding_out_channels=(8, 0))), ("conditioning_embedding_out_channels", dict(conditioning_embedding_out_channels=8)),
    ("controlnet_conditioning_channel_order", dict(controlnet_conditioning_channel_order="gbr")), ("down_block_types", dict(down_block_types=("DownBlock2D",))),
    ("norm_num_groups", dict(norm_num_groups=7)), ("block_out_channels", dict(block_out_channels=16)), ("class_embed_type", dict(class_embed_type="identity")),
    ("no config key 'up_block_types'", dict(up_block_types=("UpBlock2D",)))])
def test_configs_that_cannot_be_are_named(reason, changes):
    with pytest.raises(ConfigError, match=reason) as error: ControlNetModel.from_config({**BASE, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("reason, change", [
    ("controlnet_cond", lambda x: dict(controlnet_cond=x["controlnet_cond"][:, :, 1:])), ("controlnet_cond", lambda x: dict(controlnet_cond=x["sample"])),
    ("controlnet_cond", lambda x: dict(controlnet_cond=None)), ("controlnet_cond", lambda x: dict(controlnet_cond=x["controlnet_cond"].byte())),
    ("controlnet_cond", lambda x: dict(controlnet_cond=x["controlnet_cond"].double())), ("controlnet_cond", lambda x: dict(controlnet_cond=torch.cat([x["controlnet_cond"]] * 2))),
    ("sample", lambda x: dict(sample=x["sample"][:, :3])), ("encoder_hidden_states", lambda x: dict(encoder_hidden_states=x["encoder_hidden_states"][:1])),
    ("timestep", lambda x: dict(timestep="late")), ("conditioning_scale", lambda x: dict(conditioning_scale="1")), ("conditioning_scale", lambda x: dict(conditioning_scale=float("nan"))),
    ("class_labels", lambda x: dict(class_labels=torch.tensor([0, 0]))), ("added_cond_kwargs", lambda x: dict(added_cond_kwargs=dict(text_embeds=3)))])
def test_wrong_inputs_are_named(reason, change):
    model, given = ControlNetModel.from_config(BASE), inputs(BASE)
    model(**given)
    with pytest.raises(ValueError, match=reason) as error: model(**{**given, **change(given)})
    assert "\n" not in str(error.value)


def test_one_picture_for_all():
    ours, _ = pair("like SD 1")
    given = inputs(BASE)
    one = given["controlnet_cond"][:1]
    down, middle = ours(**{**given, "controlnet_cond": one})
    again, same = ours(**{**given, "controlnet_cond": one.expand(2, -1, -1, -1)})
    for a, b in zip((*down, middle), (*again, same)): close(a, b)


def test_residuals_that_do_not_fit_the_unet_are_named():
    unet, model = UNet2DConditionModel.from_config(UNET), ControlNetModel.from_config(BASE)
    given = inputs(BASE)
    about = {k: given[k] for k in ("sample", "timestep", "encoder_hidden_states")}
    down, middle = model(**given)
    for options in (dict(down_block_additional_residuals=down[1:], mid_block_additional_residual=middle), dict(down_block_additional_residuals=down),
                    dict(down_block_additional_residuals=down, mid_block_additional_residual=middle[:, 1:])):
        with pytest.raises(ValueError, match="additional_residual"): unet(**about, **options)
    with pytest.raises(ValueError, match="unet: expected a minidiff UNet2DConditionModel"): ControlNetModel.from_unet(diffusers.UNet2DConditionModel)
