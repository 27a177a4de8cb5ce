"""U-Net, VAE, CLIP and the sketchbooks: against diffusers and transformers on random configs, and at their limits."""
import random
import warnings
from collections import Counter

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from minidiff.hub import ConfigError
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.text import CLIPTextModel, CLIPVisionModel
from minidiff.vae import AutoencoderKL

diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.set_verbosity_error()


@pytest.fixture
def rounds(request):
    "How many random configs of each class: a few, or 300 with `--long`."
    return 300 if request.config.getoption("--long", default=False) else 30


# --- random configs: each is legal for the real library, until one key is made strange --------------------------------
ODD = (None, 0, -1, 1, 2, 3, 2.0, 2.5, True, False, "", "silu", "3", float("nan"), float("inf"), (), (2,), (2, 2, 2, 2, 2),
       [1, 2], {}, 10**9, ("DownBlock2D",), ("a", "b"))


def per_level(r, n, draw):
    "One value for all levels, or one for each, as a list or as a tuple."
    return draw() if r.random() < 0.5 else r.choice([list, tuple])(draw() for _ in range(n))


def unet_config(r):
    n, groups = r.randint(1, 3), r.choice([1, 2, 4])
    attention = [r.random() < 0.6 for _ in range(n)]
    up = [a if r.random() < 0.8 else not a for a in attention]
    layers = r.randint(1, 2) if r.random() < 0.7 else [r.randint(1, 2) for _ in range(n)]
    config = dict(
        sample_size=8, in_channels=r.randint(1, 5), out_channels=r.randint(1, 5), layers_per_block=layers,
        flip_sin_to_cos=r.random() < 0.7, freq_shift=r.choice([0, 0, 1, 0.5]), norm_num_groups=groups,
        block_out_channels=[4 * groups * r.randint(1, 3) for _ in range(n)],
        down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in up[::-1]],
        mid_block_type=r.choice(["UNetMidBlock2DCrossAttn"] * 4 + [None]),
        only_cross_attention=per_level(r, n, lambda: r.random() < 0.3), norm_eps=r.choice([1e-5, 1e-6, 0.1]),
        act_fn=r.choice(["silu", "swish", "gelu", "mish", "relu"]), cross_attention_dim=r.choice([3, 8, 12]),
        transformer_layers_per_block=per_level(r, n, lambda: r.randint(0, 2)),
        attention_head_dim=per_level(r, n, lambda: r.choice([1, 2, 4])), use_linear_projection=r.random() < 0.5,
        upcast_attention=r.choice([None, True, False]), dropout=r.choice([0.0, 0.1]))
    if r.random() < 0.2: config["time_cond_proj_dim"] = 5
    kind = r.choice(["none", "none", "number", "timestep", "projection"])
    if kind == "number": config["num_class_embeds"] = 7
    elif kind != "none": config["class_embed_type"] = kind
    extra = r.choice([None, None, "text", "text_time"])
    if extra: config["addition_embed_type"] = extra
    if extra != "text" and r.random() < 0.2: config["cross_attention_dim"] = [config["cross_attention_dim"]] * n
    if extra == "text": config["addition_embed_type_num_heads"] = 1
    if extra == "text_time": config.update(addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 + 3 * 4)
    elif kind == "projection": config["projection_class_embeddings_input_dim"] = 6
    if extra == "text_time" and kind == "projection": config["class_embed_type"] = "timestep"
    return config


UNSUPPORTED = dict(
    center_input_sample=True, downsample_padding=0, mid_block_scale_factor=2, encoder_hid_dim=4,
    encoder_hid_dim_type="text_proj", num_attention_heads=2, dual_cross_attention=True,
    resnet_time_scale_shift="scale_shift", resnet_skip_time_act=True, resnet_out_scale_factor=2.0,
    time_embedding_type="fourier", time_embedding_dim=24, time_embedding_act_fn="silu", timestep_post_act="silu",
    conv_in_kernel=1, conv_out_kernel=1, attention_type="gated", class_embeddings_concat=True,
    cross_attention_norm="layer_norm", mid_block_only_cross_attention=True,
    reverse_transformer_layers_per_block=[1, 1])


def unet_inputs(r, config):
    g = torch.Generator().manual_seed(r.randrange(1000))
    randn = lambda *shape: torch.randn(*shape, generator=g)
    width = config.get("cross_attention_dim", 1280)
    width = width[0] if isinstance(width, (list, tuple)) else width
    size = r.choice([(8, 8), (1, 1), (5, 7), (4, 6), (2, 9)])
    args = randn(2, int(config["in_channels"]), *size), r.choice([7, 3.5, torch.tensor([3, 900])]), randn(2, 3, width)
    kw = {}
    if r.random() < 0.3:
        mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
        kw["encoder_attention_mask"] = r.choice([mask, mask.bool(), mask.float()])
    if config.get("class_embed_type") == "timestep": kw["class_labels"] = torch.tensor([3.0, 40.0])
    elif config.get("class_embed_type") == "projection": kw["class_labels"] = randn(2, 6)
    elif config.get("num_class_embeds"): kw["class_labels"] = torch.tensor([0, config["num_class_embeds"] - 1]).long()
    if config.get("time_cond_proj_dim") and r.random() < 0.5: kw["timestep_cond"] = randn(2, 5)
    if config.get("addition_embed_type") == "text_time":
        kw["added_cond_kwargs"] = dict(text_embeds=randn(2, 6), time_ids=torch.arange(6.0).view(2, 3))
    return args, kw


def vae_config(r):
    n, groups, layers = r.randint(1, 4), r.choice([1, 2, 4]), r.randint(0, 2)
    widths = [groups * r.randint(1, 4) for _ in range(n)]
    if not layers: widths = widths[:1] * n
    return dict(
        in_channels=r.randint(1, 4), out_channels=r.randint(1, 4), down_block_types=["DownEncoderBlock2D"] * n,
        up_block_types=["UpDecoderBlock2D"] * n, block_out_channels=widths, layers_per_block=layers,
        act_fn=r.choice(["silu", "swish", "gelu", "mish", "relu"]), latent_channels=r.randint(1, 8),
        norm_num_groups=groups, sample_size=r.choice([16, 32]), scaling_factor=r.choice([0.18, 1.5]),
        shift_factor=r.choice([None, 0.1, -2]), use_quant_conv=r.random() < 0.7, use_post_quant_conv=r.random() < 0.7,
        mid_block_add_attention=r.random() < 0.7, force_upcast=r.random() < 0.5)


def text_config(r):
    heads = r.choice([1, 2, 4])
    return dict(
        vocab_size=r.choice([20, 50]), hidden_size=heads * r.choice([4, 6]), intermediate_size=r.choice([8, 30]),
        projection_dim=r.choice([8, 12]), num_hidden_layers=r.randint(1, 3), num_attention_heads=heads,
        max_position_embeddings=r.choice([7, 12]), hidden_act=r.choice(["quick_gelu", "gelu"]),
        layer_norm_eps=r.choice([1e-5, 1e-3]), attention_dropout=r.choice([0.0, 0.1]), bos_token_id=0,
        eos_token_id=r.choice([1, 2, 19]), pad_token_id=r.choice([1, 2]))


def vision_config(r):
    heads, patch = r.choice([1, 2, 4]), r.choice([4, 5, 8])
    return dict(
        hidden_size=heads * r.choice([4, 6]), intermediate_size=r.choice([8, 30]), projection_dim=8,
        num_hidden_layers=r.randint(1, 3), num_attention_heads=heads, num_channels=r.choice([1, 3]),
        image_size=r.choice([16, 20]), patch_size=patch, hidden_act=r.choice(["quick_gelu", "gelu"]),
        layer_norm_eps=r.choice([1e-5, 1e-3]), attention_dropout=r.choice([0.0, 0.1]))


# --- what both make of one config ---------------------------------------------------------------------------------------
def run_unet(r, config, ours, real):
    (x, t, text), kw = unet_inputs(r, config)
    theirs = lambda: real(x, t, text, **{**kw, "added_cond_kwargs": kw.get("added_cond_kwargs", {})}).sample
    return lambda: [ours(x, t, text, **kw)], lambda: [theirs()]


def run_vae(r, config, ours, real):
    g = torch.Generator().manual_seed(r.randrange(1000))
    side = ours.factor * r.choice([1, 2, 3])
    x = torch.rand(2, ours.config.in_channels, side, 2 * side, generator=g) * 2 - 1
    z = torch.randn(2, ours.config.latent_channels, 3, 2, generator=g)
    parts = lambda p: [p.mean, p.logvar, p.sample(generator=torch.Generator().manual_seed(1))]
    return (lambda: [*parts(ours.encode(x)), ours.decode(z), ours(x)[0]],
            lambda: [*parts(real.encode(x).latent_dist), real.decode(z).sample, real(x).sample])


def run_text(r, config, ours, real):
    length = min(7, ours.config.max_position_embeddings)
    ids = torch.tensor([[r.randrange(ours.config.vocab_size) for _ in range(length)] for _ in range(3)])
    mask = r.choice([None, torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6])[:, :length]])
    seen = slice(None) if mask is None else mask.bool()
    parts = lambda out: [out.last_hidden_state[seen], *([out.pooler_output] if mask is None else []),
                         *(h[seen] for h in out.hidden_states)]
    return lambda: parts(ours(ids, mask)), lambda: parts(real(ids, mask, output_hidden_states=True))


def run_vision(r, config, ours, real):
    size = ours.config.image_size
    x = torch.randn(2, ours.config.num_channels, size, size, generator=torch.Generator().manual_seed(r.randrange(1000)))
    parts = lambda out: [out.last_hidden_state, out.pooler_output]
    return lambda: parts(ours(x)), lambda: parts(real(x))


REAL = {
    UNet2DConditionModel: lambda config: diffusers.UNet2DConditionModel(**config),
    AutoencoderKL: lambda config: diffusers.AutoencoderKL(**config),
    CLIPTextModel: lambda config: transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)),
    CLIPVisionModel: lambda config: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**config))}
FUZZ = dict(unet=(UNet2DConditionModel, unet_config, run_unet, UNSUPPORTED),
            vae=(AutoencoderKL, vae_config, run_vae, {}),
            text=(CLIPTextModel, text_config, run_text, {}),
            vision=(CLIPVisionModel, vision_config, run_vision, {}))


def mutate(r, config, unsupported):
    "One key gets a value that is seldom or never right."
    if unsupported and r.random() < 0.4:
        key = r.choice(sorted(unsupported))
        return key, {**config, key: unsupported[key]}
    key = r.choice(sorted(config))
    return key, {**config, key: r.choice(ODD)}


def is_huge(config):
    "Would the real library hang, or fill the memory?"
    flat = lambda v: [w for x in v for w in flat(x)] if isinstance(v, (list, tuple)) else [v]
    return any(isinstance(v, (int, float)) and abs(v) > 10**6 for v in flat(list(config.values())))


@pytest.fixture(autouse=True)
def double():
    "In float64, since a GroupNorm over a handful of equal numbers makes large errors of small ones."
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@torch.no_grad()
def compare(r, cls, config, run):
    "'equal', 'both refuse', 'only ours refuses', 'only theirs refuses' or 'different', with the reason."
    torch.manual_seed(r.randrange(1000))
    try: ours = cls.from_config(config).eval()
    except ConfigError as error: ours = error
    try:
        if is_huge(config): raise ValueError("huge")
        real = REAL[cls](config).eval()
    except Exception as error: real = error
    if isinstance(ours, Exception):
        reason = str(ours)
        assert "\n" not in reason and any(key in reason for key in config), f"{config}: {reason}"
        return "both refuse" if isinstance(real, Exception) else "only ours refuses", reason
    if isinstance(real, Exception): return "only theirs refuses", repr(real)
    try: ours.load_state_dict(cls.weights_from_file(real.state_dict()), strict=True)
    except RuntimeError as error: return "different", f"other weights: {error}"
    mine, theirs = run(r, config, ours, real)
    mine = mine()
    try: theirs = theirs()
    except Exception as error: return "only theirs refuses", f"{type(error).__name__} in the forward pass: {error}"
    for a, b in zip(mine, theirs, strict=True):
        if a.shape != b.shape: return "different", f"shapes {a.shape}, {b.shape}"
        gap = (a - b).abs().max().item() / max(1.0, b.abs().max().item())
        if not gap < 1e-4: return "different", f"off by {gap}"
    return "equal", ""


@pytest.mark.parametrize("name", FUZZ)
def test_legal_configs_give_the_same_numbers_as_the_real_class(name, rounds):
    cls, draw, run, _ = FUZZ[name]
    for seed in range(rounds):
        r = random.Random(f"{name} {seed}")
        config = draw(r)
        result, reason = compare(r, cls, config, run)
        assert result in ("equal", "both refuse"), f"seed {seed}: {result}, {reason}, {config}"


@pytest.mark.parametrize("name", FUZZ)
def test_strange_configs_are_equal_or_refused_with_a_reason(name, rounds):
    cls, draw, run, unsupported = FUZZ[name]
    counts = Counter()
    for seed in range(rounds):
        r = random.Random(f"strange {name} {seed}")
        key, config = mutate(r, draw(r), unsupported)
        result, reason = compare(r, cls, config, run)
        assert result != "different", f"seed {seed}, {key}={config[key]!r}: {reason}, {config}"
        if "ours refuses" in result or result == "both refuse": assert "billion" in reason or key in reason or result == "both refuse", (key, reason)
        counts[result] += 1
    print(name, dict(counts))
    assert counts["both refuse"] + counts["only ours refuses"] > rounds / 5
