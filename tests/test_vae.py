"The VAE of chapter 09 beyond its lesson, and the judges of its recipe: what is equal to diffusers, what is refused, what the chapter reads from files."
import importlib.util
import json
import re
import statistics
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from minidiff.checks import ConfigError
from minidiff.losses import FeatureNet, PatchDiscriminator, adaptive_weight, gradient_energy, hinge_loss, perceptual_loss
from minidiff.sketchbook import Sketchbook
from minidiff.vae import AutoencoderKL, DiagonalGaussianDistribution, edge_loss, orthogonal_start, small_vae, vae_batches, vae_loss, vae_training_loss

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "minidiff/data/results"
LEVELS = dict(down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)
NO_QUANT = dict(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5305)


def pictures(*shape, seed=0): return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def both(**config):
    "Theirs with random weights, and ours with the same."
    torch.manual_seed(0)
    real = diffusers.AutoencoderKL(block_out_channels=(8, 16, 16), norm_num_groups=4, sample_size=32, **LEVELS, **config)
    ours = AutoencoderKL.from_config(dict(real.config))
    ours.load_state_dict(real.state_dict(), strict=True)
    return ours.eval(), real.eval()


# --- the cloud -----------------------------------------------------------------------------------------------------------
def test_kl_between_two_clouds_is_that_of_torch():
    cloud, other = (DiagonalGaussianDistribution(torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(seed))) for seed in (0, 1))
    for p, theirs in ((None, Normal(0.0, 1.0)), (other, Normal(other.mean, other.std))):
        torch.testing.assert_close(cloud.kl(p), kl_divergence(Normal(cloud.mean, cloud.std), theirs).flatten(1).sum(1))
    assert (cloud.kl(cloud).abs() < 1e-5).all()


def test_generators_one_for_each_picture():
    cloud = DiagonalGaussianDistribution(torch.randn(2, 8, 3, 3))
    seeds = lambda: [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    drawn = cloud.sample(seeds())
    one = DiagonalGaussianDistribution(cloud.parameters[1:]).sample(seeds()[1])
    torch.testing.assert_close(drawn[1:], one)


# --- equal to diffusers, in pieces ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("config", [{}, NO_QUANT], ids=["SD", "16 channels"])
@pytest.mark.parametrize("side", [(64, 64), (48, 80), (40, 32)])
def test_tiles_and_slices_are_those_of_diffusers(config, side):
    ours, real = both(**config)
    x = pictures(2, 3, *side)
    with torch.no_grad():
        whole = ours(x)[0]
        for model in (ours, real): model.enable_slicing()
        torch.testing.assert_close(ours(x)[0], whole, rtol=1e-5, atol=1e-5)
        for model in (ours, real): model.enable_tiling()
        posterior, theirs = ours.encode(x), real.encode(x).latent_dist
        torch.testing.assert_close(posterior.mean, theirs.mean, rtol=0, atol=1e-4)
        torch.testing.assert_close(ours(x)[0], real(x).sample, rtol=0, atol=1e-4)
        for model in (ours, real): (model.disable_tiling(), model.disable_slicing())
        assert torch.equal(ours(x)[0], whole)


def test_old_names_in_a_file():
    ours, _ = both()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    def old_name(name): return re.sub("|".join(map(re.escape, old)), lambda part: old[part[0]], name)
    as_convs = {old_name(name): t[:, :, None, None] if "attentions" in name and t.ndim == 2 else t for name, t in ours.state_dict().items()}
    found = AutoencoderKL.weights_from_file(as_convs)
    assert "encoder.mid_block.attentions.0.query.weight" in as_convs
    for name, tensor in ours.state_dict().items(): assert torch.equal(found[name], tensor), name


# --- what is refused ------------------------------------------------------------------------------------------------------
WRONG = dict(indivisible=(pictures(1, 3, 30, 32), "multiples of 4, got 30 x 32"), bytes_as_floats=(pictures(1, 3, 32, 32) * 127 + 128, r"\[-1, 1\].*x / 127.5 - 1"),
             bytes=(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"\[-1, 1\].*bytes.*x / 127.5 - 1"), nan=(torch.full((1, 3, 32, 32), float("nan")), r"\[-1, 1\]"),
             channels_last=(pictures(1, 32, 32, 3), r"\(n, 3, H, W\).*\(1, 32, 32, 3\)"), one=(pictures(3, 32, 32), r"\(n, 3, H, W\).*\(3, 32, 32\)"))


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("tiled", [False, True])
def test_a_wrong_picture_is_named(case, tiled):
    vae = small_vae(widths=(8, 8, 8))
    vae.enable_tiling(tiled)
    x, message = WRONG[case]
    for call in (vae.encode, vae):
        with pytest.raises(ValueError, match=f"x: .*{message}") as error: call(x)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 8, 8, 4), (4, 8, 8), (1, 16, 8, 8)])
def test_latents_of_another_depth_are_named(shape):
    with pytest.raises(ValueError, match=r"z: expected a tensor \(n, 4, h, w\)"): small_vae(widths=(8, 8, 8)).decode(torch.zeros(shape))


@pytest.mark.parametrize("x", [4 * pictures(2, 3, 32, 32), pictures(2, 3, 32, 32) + 2, torch.full((1, 3, 8, 8), 1.5), torch.eye(8).expand(1, 3, 8, 8) * 9], ids=["louder", "moved", "bright", "a few"])
def test_a_picture_too_large_for_its_range_is_named(x):
    with pytest.raises(ValueError, match=r"x: expected pictures in \[-1, 1\], got numbers from"): small_vae(widths=(8, 8, 8)).encode(x)


@pytest.mark.parametrize("x", [pictures(2, 3, 32, 32).sign(), 1.3 * pictures(2, 3, 32, 32).sign(), torch.randn(2, 3, 64, 64), pictures(1, 3, 8, 8) / 2 + 0.5], ids=["black and white", "overshoot", "noise", "from 0 to 1"])
def test_what_may_pass_for_a_picture_passes(x):
    vae, real = both()
    torch.testing.assert_close(vae.encode(x).mean, real.encode(x).latent_dist.mean, rtol=1e-5, atol=1e-5)


def test_no_picture_at_all_is_named():
    with pytest.raises(ValueError, match="x: .*no picture of 32 x 32"): small_vae(widths=(8, 8, 8)).encode(torch.zeros(0, 3, 32, 32))


@pytest.mark.parametrize("overlap", [-0.2, 1.5, float("nan"), "a", None, True])
def test_an_overlap_that_is_no_share_is_named(overlap):
    vae = small_vae(16, widths=(8, 8, 8))
    vae.enable_tiling()
    vae.tile_overlap_factor = overlap
    with pytest.raises(ConfigError, match="^tile_overlap_factor is a number from 0 to 1"): vae.decode(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("tile", [(9, 1), (17, 3), (8, 9), (27, 6), (31, 1)])
@torch.no_grad()
def test_tile_sizes_that_do_not_belong_together_do_as_in_diffusers(tile):
    ours, real = both()
    for model in (ours, real):
        model.enable_tiling()
        model.tile_sample_min_size, model.tile_latent_min_size = tile
    x, z = pictures(1, 3, 36, 52), torch.randn(1, 4, 13, 9)
    if tile[1] > 1: torch.testing.assert_close(ours.decode(z), real.decode(z).sample, rtol=0, atol=1e-4)
    try: theirs = real.encode(x).latent_dist.mean
    except RuntimeError: pytest.raises(ConfigError, ours.encode, x)  # a last tile of less than 4 pixels
    else: torch.testing.assert_close(ours.encode(x).mean, theirs, rtol=0, atol=1e-4)


def test_a_convolution_of_3_x_3_is_no_old_attention():
    name = "encoder.mid_block.attentions.0"
    found = AutoencoderKL.weights_from_file({f"{name}.query.weight": torch.zeros(8, 8, 3, 3), f"{name}.key.weight": torch.zeros(8, 8, 1, 1)})
    assert found[f"{name}.to_q.weight"].ndim == 4 and found[f"{name}.to_k.weight"].ndim == 2


def test_edges_are_differences_of_neighbours():
    x, y = pictures(2, 3, 6, 8), pictures(2, 3, 6, 8) * 0.5
    e = y - x
    want = (e[..., 1:] - e[..., :-1]).square().mean() + (e[..., 1:, :] - e[..., :-1, :]).square().mean()
    torch.testing.assert_close(edge_loss(y, x), want)
    assert edge_loss(x + 0.3, x) < 1e-12 and edge_loss(x.bfloat16(), x).dtype == torch.float32
    with pytest.raises(ValueError, match="^decoded"): edge_loss(x[..., :4], x)
    row = x[..., :1, :]
    torch.testing.assert_close(edge_loss(row, 0 * row), (row[..., 1:] - row[..., :-1]).square().mean())
    assert edge_loss(x[..., :1, :1], 0 * x[..., :1, :1]) == 0  # nobody beside it
    vae = small_vae(widths=(8, 8, 8), groups=4)
    batch = vae_batches(Sketchbook(32), 2)(torch.Generator().manual_seed(0))
    for wrong in (-1, float("nan"), "3", None):
        with pytest.raises(ValueError, match="^edges"): vae_training_loss(vae, batch, edges=wrong)
    plain, more = vae_training_loss(vae, batch, 0.1), vae_training_loss(vae, batch, 0.1, edges=2.0)
    torch.testing.assert_close(more - plain, 2 * edge_loss(vae(batch["images"], batch["noise"])[0], batch["images"]))


def test_a_loss_and_its_batches_name_what_they_cannot_use():
    x, book = pictures(1, 3, 8, 8), Sketchbook(32)
    with pytest.raises(ValueError, match="^posterior: expected a Gaussian, got a tensor"): vae_loss(x, x, x)
    for channels in (0, "4", True):
        with pytest.raises(ConfigError, match="^latent_channels is a whole number"): vae_batches(book, 2, channels)


def test_orthogonal_weights_without_biases():
    weight = orthogonal_start(nn.Conv2d(8, 8, 1, bias=False)).weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(8))


# --- the judges -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return FeatureNet(5, widths=(8, 16)).eval().requires_grad_(False)


def test_its_gradient_is_the_second_pictures(net):
    x, y = pictures(1, 3, 16, 16).requires_grad_(), pictures(1, 3, 16, 16, seed=1).requires_grad_()
    perceptual_loss(net, x, y).sum().backward()
    assert x.grad is None and y.grad.abs().sum() > 0


def test_a_level_that_is_louder_says_no_more(net):
    x, y = pictures(1, 3, 16, 16), pictures(1, 3, 16, 16, seed=1)
    class Loud(nn.Module):
        def features(self, x): return [7 * level for level in net.features(x)]
    torch.testing.assert_close(perceptual_loss(Loud(), x, y), perceptual_loss(net, x, y))


def test_the_adaptive_weight_makes_both_pull_equally():
    torch.manual_seed(0)
    vae, judge = small_vae(widths=(8, 8, 8)), PatchDiscriminator(8)
    x = pictures(2, 3, 32, 32)
    decoded = vae(x)[0]
    loss, fooled = (decoded - x).abs().mean(), -judge(decoded).mean()
    last = vae.decoder.conv_out.weight
    weight = adaptive_weight(loss, fooled, last)
    pulls = [torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (loss, weight * fooled)]
    torch.testing.assert_close(*pulls, rtol=0.05, atol=0)
    assert adaptive_weight(loss, fooled, last, most=1e-3) == pytest.approx(1e-3)


def test_the_discriminator_learns_to_tell_noise_from_pages():
    torch.manual_seed(0)
    judge, book = PatchDiscriminator(8), Sketchbook(32)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, betas=(0.5, 0.9))
    real = book.draw(16, torch.Generator().manual_seed(0))[0]
    losses = []
    for _ in range(60):
        loss = hinge_loss(judge(real), judge((real + 0.3 * torch.randn_like(real)).clamp(-1, 1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert statistics.median(losses[-20:]) < 0.5 * losses[0]  # single steps leap, another way with each way to round


@pytest.mark.parametrize("call", [lambda: FeatureNet(0), lambda: FeatureNet(3, widths=(9,)), lambda: PatchDiscriminator(0), lambda: PatchDiscriminator(5)])
def test_a_judge_that_cannot_be_built_names_the_key(call):
    with pytest.raises(ConfigError, match="^(classes|width|widths)[: ]"): call()


@pytest.mark.parametrize("call", [lambda net: perceptual_loss(net, pictures(1, 3, 8, 8), pictures(1, 3, 8, 9)), lambda net: gradient_energy(pictures(3, 8, 8))])
def test_what_is_no_picture_is_named(net, call):
    with pytest.raises(ValueError, match="^[xy]: expected a tensor"): call(net)


# --- the script, and its result -------------------------------------------------------------------------------------------
def test_memory_is_measured(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("vae_memory", ROOT / "scripts/vae_memory.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(sys, "argv", ["vae_memory", "--side", "512", "--vae", "ours", "--tasks", "decode", "--out", str(tmp_path / "m.json")])
    script.main()
    whole, tiled = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert whole["peak"] > 1.2 * tiled["peak"] > 0 and whole["before"] > 50
    found = json.loads((RESULTS / "vae_memory.json").read_text())["rows"]
    assert {(row["vae"], row["task"]) for row in found} >= {("ours", "encode"), ("ours", "decode"), ("Stable Diffusion's", "decode")}
