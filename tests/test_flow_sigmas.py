"""`FlowMatchEulerDiscreteScheduler` with every key that diffusers' has, alone and together: levels, timesteps, steps, files; and what is refused."""
import inspect
import itertools

import diffusers
import numpy as np
import pytest
import torch
from scipy import stats

from minidiff.checks import ConfigError
from minidiff.flow_pipeline import resolution_shift
from minidiff.flow_sigmas import FLOW_KINDS, asked_levels, beta_sigmas, or_none, stretch_sigmas
from minidiff.samplers import FlowMatchEulerDiscreteScheduler
from minidiff.scheduler import sample, training_target

REAL = diffusers.FlowMatchEulerDiscreteScheduler
diffusers.utils.logging.set_verbosity_error()
# as they lie on the Hub
QWEN = dict(base_image_seq_len=256, base_shift=0.5, invert_sigmas=False, max_image_seq_len=8192, max_shift=0.9, num_train_timesteps=1000, shift=1.0,
            shift_terminal=0.02, stochastic_sampling=False, time_shift_type="exponential", use_beta_sigmas=False, use_dynamic_shifting=True,
            use_exponential_sigmas=False, use_karras_sigmas=False)
LTX = dict(base_image_seq_len=1024, max_image_seq_len=4096, base_shift=0.95, max_shift=2.05, shift_terminal=0.1, use_dynamic_shifting=True)
FLUX = dict(base_image_seq_len=256, max_image_seq_len=4096, base_shift=0.5, max_shift=1.15, shift=3.0, use_dynamic_shifting=True)
SHIFTS = [{}, dict(shift=3.0), dict(shift=0.25), FLUX, dict(use_dynamic_shifting=True, time_shift_type="linear")]
ENDS = [{}, dict(shift_terminal=0.1), dict(shift_terminal=0.0)]
RESPACED = [{}, dict(use_karras_sigmas=True), dict(use_exponential_sigmas=True), dict(use_beta_sigmas=True)]
WALKS = [{}, dict(invert_sigmas=True), dict(stochastic_sampling=True), dict(invert_sigmas=True, stochastic_sampling=True)]
ALL = [{k: v for part in parts for k, v in part.items()} for parts in itertools.product(SHIFTS, ENDS, RESPACED, WALKS)]


def draw(*shape, seed=0, dtype=torch.float32): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def walk(scheduler, dtype=torch.float32):
    "The last picture, and those on the way, of a made-up network."
    x, dice, seen = draw(2, 3, 4, 4, dtype=dtype), torch.Generator().manual_seed(1), []
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(draw(2, 3, 4, 4, seed=i + 2, dtype=dtype), t, x, generator=dice).prev_sample
        seen.append(x)
    return torch.stack(seen)


def same(config, dtype=torch.float32, **asked):
    "Both schedulers with this config, after these `set_timesteps`: all of it is equal."
    ours, real = FlowMatchEulerDiscreteScheduler(**config), REAL(**config)
    for scheduler in (ours, real): scheduler.set_timesteps(**asked)
    assert real.sigmas.isfinite().all()  # else there is nothing to compare
    torch.testing.assert_close(ours.sigmas, real.sigmas.float(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.timesteps, real.timesteps.float(), atol=1e-3, rtol=1e-6)
    torch.testing.assert_close(walk(ours, dtype), walk(real, dtype), atol=1e-5, rtol=1e-5)
    return ours, real


@pytest.mark.parametrize("config", ALL, ids=lambda c: " ".join(f"{k}={v}" for k, v in c.items() if k not in ("base_shift", "max_shift")))
def test_every_key_with_every_other(config):
    mu = dict(mu=0.8) if config.get("use_dynamic_shifting") else {}
    for asked in (dict(num_inference_steps=7), dict(sigmas=[1.0, 0.7, 0.4, 0.25]), dict(num_inference_steps=3, sigmas=np.linspace(0.9, 1 / 3, 3)),
                  dict(timesteps=[999.0, 500, 20.5]), dict(sigmas=[1.0, 0.5], timesteps=[900.0, 40])):
        same(config, **asked, **mu)


@pytest.mark.parametrize("config", [FLUX, QWEN, LTX, FLUX | dict(time_shift_type="linear"), QWEN | dict(use_beta_sigmas=True)])
@pytest.mark.parametrize("height, width", [(256, 256), (512, 768), (1024, 1024), (1664, 928), (64, 2048)])
def test_the_levels_of_pictures_of_many_sizes(config, height, width):
    """As the pipelines do: `mu` from the number of patches, own even levels."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift
    patches = (height // 16) * (width // 16)
    mu = resolution_shift(patches, FlowMatchEulerDiscreteScheduler(**config).config)
    theirs = calculate_shift(patches, *(config[k] for k in ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")))
    assert abs(mu - theirs) < 1e-12
    for n in (2, 4, 28): same(config, sigmas=np.linspace(1.0, 1 / n, n), mu=mu)
    ours, _ = same(config, num_inference_steps=20, mu=mu)
    if config["use_dynamic_shifting"] and "shift_terminal" in config: assert abs(float(ours.sigmas[-2]) - config["shift_terminal"]) < 1e-6


@pytest.mark.parametrize("config", [{}, dict(shift=2.0), dict(invert_sigmas=True), dict(use_beta_sigmas=True), dict(shift_terminal=0.1)])
@pytest.mark.parametrize("T", [1, 2, 50, 1000, 4000])
def test_any_number_of_training_timesteps(T, config):
    config = config | dict(num_train_timesteps=T)
    same(config, sigmas=[1.0, 0.6, 0.2])
    same(config, timesteps=[T, T / 2])
    if not config.get("shift_terminal"): same(config, num_inference_steps=1)
    for n in (2, 9, 60):  # more than T as well
        if T > 1: same(config, num_inference_steps=n)
        else:  # all levels are 1: diffusers takes them, and fails at the last step
            with pytest.raises(ValueError, match="num_train_timesteps=1"): FlowMatchEulerDiscreteScheduler(**config).set_timesteps(n)
            real = REAL(**config)
            with pytest.raises((IndexError, AssertionError)):
                real.set_timesteps(n)
                assert real.sigmas.isfinite().all()
                walk(real)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("config", WALKS)
def test_half_precision_draws_the_same_noise(config, dtype):
    ours, real = FlowMatchEulerDiscreteScheduler(**config), REAL(**config)
    for scheduler in (ours, real): scheduler.set_timesteps(5)
    mine, theirs = walk(ours, dtype), walk(real, dtype)
    assert mine.dtype == theirs.dtype == dtype
    torch.testing.assert_close(mine, theirs, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("config", [{}, dict(shift=3.0), dict(shift_terminal=0.1), dict(use_beta_sigmas=True), dict(invert_sigmas=True)])
def test_a_start_from_a_picture(config):
    ours, real = same(config, num_inference_steps=6)
    x, noise = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=9)
    for begin in (None, 2):
        for scheduler in (ours, real):
            scheduler.set_timesteps(6)
            if begin is not None: scheduler.set_begin_index(begin)
        mixed = [s.scale_noise(x, s.timesteps[[2, 2]], noise) for s in (ours, real)]
        torch.testing.assert_close(*mixed)
        after = [s.step(noise, s.timesteps[2], m).prev_sample for s, m in zip((ours, real), mixed)]
        torch.testing.assert_close(*after, atol=1e-6, rtol=1e-5)


def test_another_shift():
    ours, real = FlowMatchEulerDiscreteScheduler(shift=2.0), REAL(shift=2.0)
    for shift in (5.0, 0.5):
        for scheduler in (ours, real):
            scheduler.set_shift(shift)
            scheduler.set_timesteps(5)
        assert ours.shift == real.shift == shift
        torch.testing.assert_close(ours.sigmas, real.sigmas)
    assert abs(ours.sigma_min - real.sigma_min) < 1e-9 and ours.sigma_max == real.sigma_max
    with pytest.raises(ConfigError, match="shift"): ours.set_shift(0)


def test_the_keys_and_the_arguments_are_diffusers():
    mine, theirs = (inspect.signature(cls.__init__).parameters for cls in (FlowMatchEulerDiscreteScheduler, REAL))
    assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in theirs.values()]
    mine, theirs = (inspect.signature(cls.set_timesteps).parameters for cls in (FlowMatchEulerDiscreteScheduler, REAL))
    assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in theirs.values()]


@pytest.mark.parametrize("config", [QWEN, LTX, dict(use_beta_sigmas=True, invert_sigmas=True), dict(base_shift=None, max_shift=None, shift_terminal=None)])
def test_configs_travel_both_ways(config, tmp_path):
    ours, real = FlowMatchEulerDiscreteScheduler(**config), REAL(**config)
    ours.save_pretrained(tmp_path / "ours")
    real.save_pretrained(tmp_path / "real")
    back, again = REAL.from_pretrained(tmp_path / "ours"), FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "real")
    for key in inspect.signature(REAL.__init__).parameters:
        if key != "self": assert back.config[key] == again.config[key] == real.config[key], key


@pytest.mark.parametrize("config, message", [
    (dict(use_beta_sigmas=True, use_karras_sigmas=True), "use_karras_sigmas and use_beta_sigmas"),
    (dict(use_beta_sigmas=True, use_exponential_sigmas=True), "use_beta_sigmas and use_exponential_sigmas"), (dict(shift_terminal=1.0), "shift_terminal"),
    (dict(shift_terminal=-0.1), "shift_terminal"), (dict(shift_terminal="a"), "shift_terminal"), (dict(shift=None), "shift"), (dict(base_shift="a"), "base_shift"),
    (dict(invert_sigmas=1), "invert_sigmas"), (dict(time_shift_type="cubic"), "time_shift_type"), (dict(num_train_timesteps=0), "num_train_timesteps")])
def test_configs_that_cannot_be(config, message):
    with pytest.raises(ConfigError, match=message): FlowMatchEulerDiscreteScheduler(**config)


def test_what_cannot_be_walked():
    """Where diffusers makes levels of NaN, an error."""
    real = REAL(shift_terminal=0.1)
    with np.errstate(all="ignore"): real.set_timesteps(1)
    assert real.sigmas.isnan().any()
    for asked in (dict(num_inference_steps=1), dict(sigmas=[1.0])):
        with pytest.raises(ValueError, match="shift_terminal"): FlowMatchEulerDiscreteScheduler(shift_terminal=0.1).set_timesteps(**asked)
    same(dict(shift_terminal=0.1), sigmas=[0.6])
    inverted = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    x, t = draw(2, 3, 4, 4), torch.tensor([10.0, 700.0])
    for call in (lambda: inverted.add_noise(x, x, t), lambda: training_target(inverted, x, x, t)):
        with pytest.raises(ValueError, match="invert_sigmas=True is for sampling"): call()
    inverted.set_timesteps(3)
    for bad in (None, x[:1], x.long()):
        with pytest.raises(ValueError, match="model_output"): inverted.step(bad, inverted.timesteps[0], x)


def test_upside_down_is_the_same_walk():
    """The net that answers with picture minus noise, asked at one minus the level, ends in the same picture."""
    target = draw(2, 3, 4, 4, seed=5)
    def velocity(x, level): return (x - target) / level  # of the straight road to one picture
    plain, inverted = FlowMatchEulerDiscreteScheduler(shift=2.0), FlowMatchEulerDiscreteScheduler(shift=2.0, invert_sigmas=True)
    noise = draw(2, 3, 4, 4)
    one = sample(lambda x, t: velocity(x, t / 1000), plain, noise, 6)
    two = sample(lambda x, t: -velocity(x, 1 - t / 1000), inverted, noise, 6)
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(two, target, atol=1e-3, rtol=1e-3)
    seen = []
    inverted.set_timesteps(4)
    x = noise
    for t in inverted.timesteps:
        output = inverted.step(-velocity(x, 1 - t / 1000), t, x)
        seen.append(output.pred_original_sample)
        x = output.prev_sample
    for x0 in seen: torch.testing.assert_close(x0, target, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("a", [0.3, 0.6, 1.0, 2.5])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 333])
def test_quantiles_of_a_beta_distribution(n, a):
    wanted = 0.02 + 0.9 * stats.beta.ppf(1 - np.linspace(0, 1, n), a, a)
    np.testing.assert_allclose(beta_sigmas(0.92, 0.02, n, a), wanted, atol=1e-10)


def test_the_small_parts():
    even = np.linspace(1, 0.1, 5)
    moved = stretch_sigmas(even, 0.3)
    assert moved[0] == 1 and abs(moved[-1] - 0.3) < 1e-12 and np.ptp(np.diff(moved)) < 1e-12
    assert or_none(FLOW_KINDS["shift"])("shift", None) is None
    with pytest.raises(ConfigError): or_none(FLOW_KINDS["shift"])("shift", -1)
    n, sigmas, told = asked_levels(None, [1, 0.5], [7, 3], 10)
    assert n == 2 and sigmas.dtype == np.float32 and told.tolist() == [7, 3]
    for asked in ((None, None, None, 10), (3, [1, 0.5], None, 10), (None, [1, 0.5], [3], 10), (None, [1, 0], None, 10), (None, [2, 1], None, 10), (2.5, None, None, 10)):
        with pytest.raises(ValueError): asked_levels(*asked)


@pytest.mark.parametrize("config, mu, name", [(dict(shift=1e-17), None, "shift"), (dict(use_dynamic_shifting=True), -40, "mu"),
                                              (dict(use_dynamic_shifting=True, time_shift_type="linear"), 1e-17, "mu")])
def test_a_shift_so_small_that_a_level_would_be_infinite_is_refused(config, mu, name):
    with pytest.raises(ConfigError, match=f"{name} is a number"): FlowMatchEulerDiscreteScheduler(**config).set_timesteps(3, mu=mu)


@pytest.mark.parametrize("config, mu", [(dict(shift=0.01), None), (dict(shift=1e20), None), (dict(use_dynamic_shifting=True), -20),
                                        (dict(use_dynamic_shifting=True), 700), (dict(use_dynamic_shifting=True, time_shift_type="linear"), 1e-9)])
def test_levels_of_the_smallest_and_largest_shift_are_numbers(config, mu):
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    scheduler.set_timesteps(3, mu=mu)
    assert scheduler.sigmas.isfinite().all() and abs(scheduler.sigmas[0].item() - 1) < 1e-3 and scheduler.sigmas[-1] == 0
