"""The exact world of bells, the dictionary between noise and score, Langevin's walk and the probability flow."""
import math

import pytest
import torch

from minidiff.checks import ConfigError
from minidiff.dali import Memoriser, add_noise
from minidiff.maths import (GaussianMixture, denoised_from_score, langevin, log_snr, noise_to_score, ode_log_likelihood, probability_flow,
                            score_to_noise)
from minidiff.scheduler import DDPMScheduler

MEANS = torch.tensor([[-1.0, 0.5, 0.0], [1.0, -0.5, 0.3]]).double()
LEVELS = torch.exp(-20 * torch.linspace(0, 1, 161).double()**2)


def seeded(seed=0): return torch.Generator().manual_seed(seed)


@pytest.fixture
def world(): return GaussianMixture(MEANS, [0.3, 0.5], [0.25, 0.75])


@pytest.fixture
def x(): return torch.randn(20, 3, generator=seeded()).double()


def test_the_formulas_are_those_of_torch(world, x):
    one = GaussianMixture(MEANS[:1], 0.7)
    normal = torch.distributions.Normal(0.6**0.5 * MEANS[0], (0.6 * 0.49 + 0.4)**0.5)
    torch.testing.assert_close(one.log_prob(x, 0.6), normal.log_prob(x).sum(1))
    wanted = torch.autograd.functional.jacobian(lambda x: world.log_prob(x, 0.6).sum(), x)
    torch.testing.assert_close(world.score(x, 0.6), wanted)


def test_a_level_for_each_picture(world, x):
    levels = torch.linspace(0.05, 1, 20).double()
    for ask in (world.log_prob, world.score, world.expected_x0):
        torch.testing.assert_close(ask(x, levels), torch.cat([ask(row[None], float(bar)) for row, bar in zip(x, levels)]))


def test_no_noise_and_noise_alone(world, x):
    torch.testing.assert_close(world.expected_x0(x, 1.0), x)
    torch.testing.assert_close(world.expected_x0(x, 0.0), (world.weights @ world.means).expand(20, 3))
    torch.testing.assert_close(world.score(x, 0.0), -x)


def test_mixtures_are_the_same_world_in_other_units(world, x):
    mixed = world.mixed(1, 0.5)
    bar = 1 / 1.25
    torch.testing.assert_close(mixed.log_prob(x), world.log_prob(bar**0.5 * x, bar) + 3 / 2 * math.log(bar))
    torch.testing.assert_close(world.mixed(0.8, 0.6).score(x), world.score(x, 0.64))


def test_single_pictures_are_the_memoriser(x):
    pictures = GaussianMixture(MEANS, 0)
    torch.testing.assert_close(pictures.expected_x0(x, 0.7), Memoriser(MEANS)(x, 0.7))
    with pytest.raises(ValueError, match="under noise"): pictures.score(x)


def test_draws(world):
    draws = world.sample(40_000, seeded())
    assert torch.equal(draws, world.sample(40_000, seeded())) and draws.dtype == torch.float64
    torch.testing.assert_close(draws.mean(0), world.weights @ world.means, rtol=0, atol=0.02)
    assert GaussianMixture(MEANS.float(), 0.3).sample(5, seeded()).dtype == torch.float32


def test_a_bell_of_no_weight_is_not_there(x):
    torch.testing.assert_close(GaussianMixture(MEANS, 0.3, [1, 0]).score(x), GaussianMixture(MEANS[:1], 0.3).score(x))


@pytest.mark.parametrize("given, told", [
    ((MEANS[0], 1.0), "means"), ((MEANS.long(), 1.0), "means"), ((MEANS, -1.0), "stds"), ((MEANS, [1, 2, 3]), "stds"), ((MEANS, "wide"), "stds"),
    ((MEANS, math.inf), "stds"), ((MEANS, 1.0, [0.5, 0.6]), "weights"), ((MEANS, 1.0, [-0.5, 1.5]), "weights")])
def test_what_is_no_mixture(given, told):
    with pytest.raises(ValueError, match=told): GaussianMixture(*given)


def test_what_cannot_be_asked(world, x):
    with pytest.raises(ValueError, match="x: expected"): world.log_prob(x[:, :2])
    with pytest.raises(ValueError, match="alpha_bar"): world.log_prob(x, 1.5)
    with pytest.raises(ValueError, match="alpha_bar"): world.score(x, torch.ones(3))


def test_the_dictionary_leads_there_and_back():
    noise = torch.randn(4, 3, 8, 8, generator=seeded())
    levels = torch.tensor([0.1, 0.5, 0.9, 0.99])
    x0 = torch.rand(4, 3, 8, 8, generator=seeded(1))
    xt = add_noise(x0, noise, levels)
    score = noise_to_score(noise, levels)
    torch.testing.assert_close(score_to_noise(score, levels), noise)
    torch.testing.assert_close(denoised_from_score(score, xt, levels), x0)
    with pytest.raises(ValueError, match="less than 1"): noise_to_score(noise, torch.tensor([0.1, 0.5, 0.9, 1.0]))
    with pytest.raises(ValueError, match="more than 0"): denoised_from_score(score, xt, 0)


def test_log_snr():
    bars = torch.tensor([0.0, 1e-12, 0.5, 1.0]).double()
    torch.testing.assert_close(log_snr(bars), torch.tensor([-math.inf, -27.6310211, 0.0, math.inf]).double())
    torch.testing.assert_close(log_snr(bars).sigmoid(), bars)


def test_langevin():
    x = torch.zeros(2, 1, 4, 4)
    still = lambda x: torch.zeros_like(x)
    assert torch.equal(langevin(still, x, 0.1, 0), x)
    assert torch.equal(langevin(still, x, 0.25, 1, seeded()), 0.5 * torch.randn(x.shape, generator=seeded()))
    assert torch.equal(langevin(still, x, 0.1, 3, seeded(1)), langevin(still, x, 0.1, 3, seeded(1)))
    for step, steps, told in ((0, 1, "step"), (-1, 1, "step"), ("a", 1, "step"), (0.1, -1, "steps"), (0.1, 1.5, "steps")):
        with pytest.raises(ConfigError, match=told): langevin(still, x, step, steps)


def test_there_and_back_along_the_road(world, x):
    noise = probability_flow(world.score, x, LEVELS)
    torch.testing.assert_close(probability_flow(world.score, noise, LEVELS.flip(0)), x, rtol=0, atol=1e-3)
    assert not noise.requires_grad


def test_the_road_of_one_bell_is_a_straight_scaling(x):
    bell = GaussianMixture(torch.zeros(1, 3).double(), 0.5)
    spread = (0.2 * 0.25 + 0.8)**0.5
    there = probability_flow(bell.score, x, torch.linspace(1, 0.2, 30).double())
    torch.testing.assert_close(there, x * spread / 0.5, rtol=1e-5, atol=1e-5)


def test_likelihood(world, x):
    draws = world.sample(20, seeded())
    torch.testing.assert_close(ode_log_likelihood(world.score, draws, LEVELS), world.log_prob(draws), rtol=0, atol=1e-3)
    midway = LEVELS[LEVELS < 0.6]
    exact = world.log_prob(x, float(midway[0]))
    torch.testing.assert_close(ode_log_likelihood(world.score, x, midway), exact, rtol=0, atol=1e-3)


def test_likelihood_with_the_levels_of_a_scheduler(world):
    draws = world.sample(8, seeded())
    levels = torch.cat([torch.ones(1), DDPMScheduler().alphas_cumprod])
    torch.testing.assert_close(ode_log_likelihood(world.score, draws, levels), world.log_prob(draws), rtol=0, atol=0.02)


def test_likelihood_of_pictures():
    standard = lambda x, alpha_bar: -x  # of pure noise, at every level
    pictures = torch.randn(3, 2, 4, 4, generator=seeded())
    exact = torch.distributions.Normal(0, 1).log_prob(pictures).flatten(1).sum(1)
    for probes in (0, 1, 5):  # for a multiple of x every direction says the same
        found = ode_log_likelihood(standard, pictures, [1.0, 0.5, 0.1], probes, seeded())
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-3)
        assert not found.requires_grad


@pytest.mark.parametrize("levels", [[], [1.0], [1.0, 1.0], [1.0, 0.0], [1.2, 0.5], [1.0, 0.3, 0.5], [math.nan, 0.5]])
def test_what_are_no_levels(world, x, levels):
    with pytest.raises(ValueError, match="alpha_bars"): probability_flow(world.score, x, levels)
    with pytest.raises(ValueError, match="alpha_bars"): ode_log_likelihood(world.score, x, levels)


def test_likelihood_goes_from_pictures_to_noise(world, x):
    with pytest.raises(ValueError, match="falling"): ode_log_likelihood(world.score, x, [0.1, 1.0])
    with pytest.raises(ConfigError, match="probes"): ode_log_likelihood(world.score, x, LEVELS, probes=-1)


def test_what_a_score_says_is_shaped_like_x():
    """An answer that is only as long as x would broadcast: (n, 1) and (n,) to (n, n)."""
    x = torch.randn(4, 1, generator=seeded())
    for short in (lambda x, *level: -x[:, 0], lambda x, *level: None, lambda x, *level: -x[:1]):
        for call in (lambda: langevin(short, x, 0.1), lambda: probability_flow(short, x, [1.0, 0.5]), lambda: ode_log_likelihood(short, x, [1.0, 0.5])):
            with pytest.raises(ValueError, match=r"score\(x\): expected a tensor \(4, 1\)"): call()


@pytest.mark.parametrize("wrong", [torch.zeros(3, 2).long(), [[0.0, 1.0]], None, 0.5])
def test_pictures_are_real_tensors(wrong):
    """Whole numbers would round alpha_bar to 0 or 1 without a word."""
    still = lambda x, *level: -x
    fine = torch.zeros(3, 2)
    for call in (lambda: langevin(still, wrong, 0.1), lambda: probability_flow(still, wrong, [1.0, 0.5]), lambda: ode_log_likelihood(still, wrong, [1.0, 0.5]),
                 lambda: noise_to_score(wrong, 0.5), lambda: score_to_noise(wrong, 0.5), lambda: denoised_from_score(wrong, fine, 0.5),
                 lambda: denoised_from_score(fine, wrong, 0.5)):
        with pytest.raises(ValueError, match="^(x|noise|score): expected") as caught: call()
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="score: expected"): denoised_from_score(fine[:1], fine, 0.5)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan, "half", None])
def test_the_log_snr_of_what_is_no_share(wrong):
    with pytest.raises(ValueError, match="^alpha_bar: "): log_snr(wrong)


@pytest.mark.parametrize("wrong", [torch.zeros(0, 2), torch.zeros(2, 2) + math.nan, torch.tensor([[math.inf, 0.0]])])
def test_bells_are_somewhere(wrong):
    with pytest.raises(ValueError, match="^means: "): GaussianMixture(wrong, 1.0)


def test_how_many_draws_and_what_mixtures(world):
    assert world.sample(2.0, seeded()).shape == (2, 3)
    for n in (0, -1, 2.5, "3", None):
        with pytest.raises(ConfigError, match="^n is"): world.sample(n)
    for alpha, sigma, told in (("a", 1, "alpha"), (1, None, "sigma"), (torch.ones(2), 1, "alpha"), (1, math.nan, "sigma")):
        with pytest.raises(ConfigError, match=f"^{told} is"): world.mixed(alpha, sigma)


def test_likelihood_of_no_pictures_and_of_leaves_of_a_graph(world, x):
    assert ode_log_likelihood(world.score, x[:0], [1.0, 0.1]).shape == (0,)
    found = ode_log_likelihood(world.score, x.clone().requires_grad_(), [1.0, 0.1])
    assert not found.requires_grad  # what it held was the slope of a part of the formula only
    assert torch.equal(found, ode_log_likelihood(world.score, x, [1.0, 0.1]))
    with pytest.raises(ValueError, match=r"x: expected a tensor \(n, \.\.\.\)"): ode_log_likelihood(lambda x, level: -x, x[0], [1.0, 0.1])


def test_probes_are_counted_and_may_have_a_generator_for_each_picture(world, x):
    one = ode_log_likelihood(world.score, x, [1.0, 0.1], 2.0, seeded())
    assert torch.equal(one, ode_log_likelihood(world.score, x, [1.0, 0.1], 2, seeded()))
    each = ode_log_likelihood(world.score, x[:2], [1.0, 0.1], 3, [seeded(1), seeded(2)])
    torch.testing.assert_close(each[1:], ode_log_likelihood(world.score, x[1:2], [1.0, 0.1], 3, [seeded(2)]))


@pytest.mark.parametrize("levels", ["low", None])
def test_levels_that_are_no_numbers(world, x, levels):
    with pytest.raises(ValueError, match="alpha_bars: expected"): probability_flow(world.score, x, levels)
    with pytest.raises(ValueError, match="alpha_bars: expected"): ode_log_likelihood(world.score, x, levels)
