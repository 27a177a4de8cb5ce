"""What chapter 05 no longer shows of the samplers: any shape, any way to name a timestep, and folders."""
import pytest
import torch

from minidiff import samplers
from minidiff.samplers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from minidiff.scheduler import DDPMScheduler

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")

SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True)
KINDS = [DDPMScheduler] + [getattr(samplers, name) for name in (
    "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler")]


@pytest.mark.parametrize("shape", [(), (5,), (5, 2), (2, 3, 4, 4, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_data_may_have_any_number_of_axes_and_a_timestep_may_be_a_tensor(kind, shape):
    scheduler = kind.from_config(SD)  # nobody has called `set_timesteps`: all thousand are visited
    t = scheduler.timesteps[0]
    seeded = lambda: torch.Generator().manual_seed(5)
    x = torch.randn(shape, generator=seeded())
    moved = [kind.from_config(scheduler.config).step(x, when, x, generator=seeded()).prev_sample
             for when in (t, t.item(), t[None])]
    assert moved[0].shape == x.shape
    assert all(torch.equal(moved[0], m) for m in moved)


def test_a_saved_scheduler_opens_in_diffusers_and_the_other_way_round(tmp_path):
    ours = DPMSolverMultistepScheduler(use_karras_sigmas=True, beta_schedule="scaled_linear")
    ours.save_pretrained(tmp_path)
    theirs = diffusers.DPMSolverMultistepScheduler.from_pretrained(tmp_path)
    assert DPMSolverMultistepScheduler.from_pretrained(tmp_path).config == ours.config
    assert ours.config.shown().items() <= dict(theirs.config).items()
    diffusers.EulerDiscreteScheduler(use_karras_sigmas=True).save_pretrained(tmp_path)
    assert EulerDiscreteScheduler.from_pretrained(tmp_path).config.use_karras_sigmas


def test_the_step_counts_and_what_it_keeps_have_the_names_of_diffusers():
    made = EulerDiscreteScheduler()
    made.set_timesteps(3)
    assert made.step_index is None and made.begin_index is None and made.model_outputs == []
    made.step(torch.ones(1), made.timesteps[0], torch.ones(1))
    assert made.step_index == 1


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_euler_ancestral_is_finite_however_the_roots_round(steps):
    """With three steps of this schedule a difference of squares that should be nothing rounds below it."""
    scheduler = samplers.EulerAncestralDiscreteScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    x = scheduler.init_noise_sigma * torch.randn(2, 4, 8, 8, generator=generator)
    for t in scheduler.timesteps: x = scheduler.step(torch.zeros_like(x), t, x, generator=generator).prev_sample
    assert x.isfinite().all()
