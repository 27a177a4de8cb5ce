"""The loss on the middle of the U-Net: what it takes, what it leaves alone, and what is refused."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from minidiff.alignment import Aligned, alignment_loss, even_channels
from minidiff.checks import ConfigError
from minidiff.latent_diffusion import PRESETS, SCHEDULER, Job, diffusion_loss, unet_config
from minidiff.scheduler import DDPMScheduler
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.training import Trainer

SMOKE = PRESETS["smoke"]


def made(**more):
    torch.manual_seed(0)
    return UNet2DConditionModel(**(SMOKE.unet | dict(in_channels=4, out_channels=4) | more))


def batches(generator):
    def noise(*shape): return torch.randn(*shape, generator=generator)
    return dict(latents=noise(4, 4, 8, 8), noise=noise(4, 4, 8, 8), maps=noise(4, 16, 4, 4), states=noise(4, 8, 32),
                timesteps=torch.randint(1000, (4,), generator=generator))


def trained(**more):
    loss = diffusion_loss(DDPMScheduler(**SCHEDULER), 1.0)
    return Trainer(Aligned(made(), 16), loss, batches, 2, device="cpu", show_bar=False, **{"precision": "no"} | more).fit()


def job(folder, preset=SMOKE, **more):
    return Job(preset, folder, device="cpu", show_bar=False, **more)


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), True, None, "1", 1001, torch.tensor(1.0)])
@pytest.mark.parametrize("name", ["align", "center", "huber"])
def test_an_odd_weight_or_centre_is_refused_before_the_first_step(tmp_path, name, wrong):
    if name == "center" and wrong == -1: wrong = -21
    with pytest.raises(ConfigError, match=f"^{name} is a number from"): job(tmp_path, replace(SMOKE, **{name: wrong}))


def test_what_results_json_cannot_hold_is_said_before_the_first_step(tmp_path):
    assert type(job(tmp_path, replace(SMOKE, align=np.float32(0.5), scale=3)).preset.align) is float
    preset = replace(SMOKE, unet_training={**SMOKE.unet_training, "lr": np.float32(1e-3)})
    with pytest.raises(ConfigError, match="^preset: results.json cannot hold it: .*float32"): job(tmp_path, preset)


def test_a_unet_without_a_middle_is_refused_before_the_first_step(tmp_path):
    preset = replace(SMOKE, unet=SMOKE.unet | dict(mid_block_type=None))
    with pytest.raises(ConfigError, match="^align=1.0: unet: it has no middle block"): job(tmp_path, preset)
    assert job(tmp_path, replace(preset, align=0)).preset.align == 0
    with pytest.raises(ConfigError, match="middle block"): Aligned(made(mid_block_type=None), 4)


def test_a_unet_of_one_level_has_a_middle_as_fine_as_its_latents():
    unet = made(**unet_config((32,), 8, cross_attention_dim=32, norm_num_groups=8))
    given = torch.randn(2, 4, 16, 16), torch.tensor([3, 4]), torch.randn(2, 8, 32)
    answer, guess = Aligned(unet, 5)(*given)
    assert torch.equal(answer, unet(*given)) and guess.shape == (2, 5, 16, 16)


@pytest.mark.parametrize("theirs", [(1, 1), (3, 5), (4, 4), (9, 2), (16, 16)])
def test_maps_of_any_size_teach(theirs):
    guess = torch.randn(2, 6, 4, 4, requires_grad=True)
    loss = alignment_loss(guess, torch.randn(2, 6, *theirs))
    loss.backward()
    assert 0 <= loss.item() <= 2 and guess.grad.isfinite().all() and guess.grad.abs().max() > 0
    assert alignment_loss(torch.ones(2, 6, 4, 4), torch.ones(2, 6, *theirs)).item() < 1e-6


@pytest.mark.parametrize("most", [0, -1, 2.5, True])
def test_how_many_pictures_are_measured_is_a_number_from_1(most):
    with pytest.raises(ConfigError, match="^most is a whole number, at least 1"): even_channels(torch.randn(3, 2, 2, 2), most)


@pytest.mark.parametrize("most", [1, 2, 4096])
def test_a_channel_that_never_changes_stays_a_number(most):
    maps = torch.cat([torch.full((5, 1, 2, 2), 1000.3), torch.randn(5, 1, 2, 2)], 1)
    even = even_channels(maps, most)
    assert even.shape == maps.shape and even.isfinite().all() and even[:, 0].abs().max() < 1


def test_a_scaler_and_halves_of_a_batch_give_the_same_weights():
    alone = trained()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for more, near in ((dict(scaler=scaler), 1e-6), (dict(accumulate=2), 1e-3)):
        other = trained(**more)
        assert other.losses == pytest.approx(alone.losses, abs=1e-5)
        for a, b in zip(alone.model.state_dict().values(), other.model.state_dict().values()):
            assert (a - b).abs().max() < near


def test_the_compiler_takes_the_head_and_changes_nothing():
    model, x = Aligned(made(), 16), batches(torch.Generator().manual_seed(0))
    given = x["latents"], x["timesteps"], x["states"]
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        for a, b in zip(compiled(*given), model(*given)): assert torch.equal(a, b)


def test_a_run_with_the_loss_cannot_go_on_without_it(tmp_path):
    quick = {k: {**getattr(SMOKE, k), "steps": 2} for k in ("vae_training", "text_training", "unet_training")}
    preset = replace(SMOKE, pictures=16, captions=2, steps=2, **quick)
    job(tmp_path, preset).run()
    with pytest.raises(ConfigError, match="align=1.0, and this run has .*align=0.0"): job(tmp_path, replace(preset, align=0), resume=True).run()
    assert job(tmp_path, replace(preset, align=1), resume=True).run() is not None
