"""What the chapter of VAE, guidance and flow exports: bounds, water-filling, and the straight path."""
import math

import pytest
import torch

from minidiff.checks import ConfigError
from minidiff.maths import (contrastive_bound, flow_to_score, importance_bound, path_velocity, score_to_flow, straight_path,
                            water_filling)
from minidiff.scheduler import prediction_target, split_mixture


def dice(seed): return torch.Generator().manual_seed(seed)


@pytest.fixture
def pair():
    return torch.randn(2, 5, 3, 4, 4, generator=dice(0), dtype=torch.float64)


def test_one_latent_is_the_elbo_and_more_are_closer():
    log_joint, log_q = torch.randn(2, 1000, 16, generator=dice(1))
    torch.testing.assert_close(importance_bound(log_joint[:, :1], log_q[:, :1]), (log_joint - log_q)[:, 0])
    means = [importance_bound(log_joint[:, :k], log_q[:, :k]).mean() for k in (1, 4, 16)]
    assert means[0] < means[1] < means[2]
    assert importance_bound(log_joint + 800, log_q).isfinite().all()  # no overflow


def test_a_perfect_encoder_has_the_same_weight_everywhere():
    log_q = torch.randn(7, 9, generator=dice(2))
    torch.testing.assert_close(importance_bound(log_q - 3, log_q), torch.full((7,), -3.0))


def test_water_is_as_high_as_half_the_weight():
    variances = torch.tensor([4.0, 1.0, 0.5, 0.0])
    rate, distortion = water_filling(variances, 1.0)
    torch.testing.assert_close(distortion, torch.tensor([0.5, 0.5, 0.5, 0.0]))
    torch.testing.assert_close(rate, torch.tensor([math.log(8) / 2, math.log(2) / 2, 0, 0]))
    assert water_filling(variances, 8.0)[0].sum() == 0
    h = 1e-4  # its slope is the exchange rate
    (R1, D1), (R2, D2) = ((part.sum() for part in water_filling(variances.double(), w)) for w in (0.6, 0.6 + h))
    assert 0.6 <= (D2 - D1) / (R1 - R2) <= 0.6 + h
    for weight in (0, -1, None, math.nan):
        with pytest.raises(ConfigError, match="kl_weight"): water_filling(variances, weight)


def test_the_contrastive_bound_lies_between_chance_and_log_n():
    for n in (1, 2, 9):
        assert contrastive_bound(torch.zeros(n, n)).abs() < 1e-6
        torch.testing.assert_close(contrastive_bound(1000 * torch.eye(n)), torch.tensor(math.log(n)))
    scores = torch.randn(6, 6, generator=dice(3))
    shifted = scores + torch.randn(6, 1, generator=dice(4))  # what depends on the row alone says nothing
    torch.testing.assert_close(contrastive_bound(scores), contrastive_bound(shifted))
    with pytest.raises(ValueError, match="scores"): contrastive_bound(torch.zeros(2, 3))


def test_the_straight_path_is_that_of_the_schedulers(pair):
    x0, noise = pair
    for t in (0.0, 0.3, 1.0, torch.tensor(0.3), torch.linspace(0, 1, 5)):
        xt, velocity = straight_path(x0, noise, t)
        each = t.double().view(-1, 1, 1, 1) if torch.is_tensor(t) and t.ndim else t
        torch.testing.assert_close(velocity, prediction_target("flow_prediction", x0, noise, 1 - each, each))
        for found, true in zip(split_mixture("flow_prediction", velocity, xt, 1 - each, each), (x0, noise)):
            torch.testing.assert_close(found, true)


def test_score_and_velocity_there_and_back(pair):
    score, x = pair
    for t in (0.2, 0.9, torch.linspace(0.1, 0.9, 5)):
        velocity = score_to_flow(score, x, t)
        torch.testing.assert_close(flow_to_score(velocity, x, t), score)
    assert score_to_flow(score.float(), x.float(), 0.5).dtype == torch.float32


def test_a_gaussian_keeps_its_rank_along_any_path():
    x, times = torch.linspace(-3, 3, 13, dtype=torch.float64), torch.linspace(0.1, 1.4, 9, dtype=torch.float64)
    for t in times:  # x0 from N(0, 4): the walker at c standard deviations stays there
        alpha, sigma = t.cos(), t.sin()
        variance = 4 * alpha**2 + sigma**2
        velocity = path_velocity(-x / variance, x, alpha, sigma, -sigma, alpha)
        slope = (-4 * alpha * sigma + sigma * alpha) / variance  # of log standard deviation
        torch.testing.assert_close(velocity, slope * x)


@pytest.mark.parametrize("t", [-0.1, 1.1, torch.rand(4), math.nan, "now"])
def test_a_wrong_time_is_named(pair, t):
    for call in (straight_path, score_to_flow, flow_to_score):
        with pytest.raises(ValueError, match="^t: "): call(*pair, t)


def test_wrong_tensors_are_named(pair):
    x0, noise = pair
    with pytest.raises(ValueError, match="x0"): straight_path(None, noise, 0.5)
    with pytest.raises(ValueError, match="noise"): straight_path(x0, noise[:2], 0.5)
    with pytest.raises(ValueError, match="velocity"): flow_to_score(noise[:2], x0, 0.5)
    with pytest.raises(ValueError, match="score"): score_to_flow(noise[:2], x0, 0.5)
    with pytest.raises(ValueError, match="log_q"): importance_bound(torch.zeros(2, 3), torch.zeros(2, 4))
    for call, ends in ((score_to_flow, 1.0), (flow_to_score, 0.0)):
        with pytest.raises(ValueError, match="^t: "): call(*pair, ends)


def test_what_has_no_bound_or_no_water_level():
    for told, call in (
            ("log_joint: expected at least one", lambda: importance_bound(torch.zeros(3, 0), torch.zeros(3, 0))),
            ("scores: expected at least one", lambda: contrastive_bound(torch.zeros(0, 0))),
            ("variances: expected", lambda: water_filling(torch.tensor([-1.0, 2.0]), 1.0)),
            ("variances: expected", lambda: water_filling(torch.tensor([math.nan, 2.0]), 1.0))):
        with pytest.raises(ValueError, match=told): call()
    assert importance_bound(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)


def test_a_time_for_each_is_a_row_of_times(pair):
    x0, noise = pair
    for t in (torch.rand(1, 5), torch.rand(5, 5)[:, :1].T):
        with pytest.raises(ValueError, match=r"^t: .*got a tensor \(1, 5\)"): straight_path(x0, noise, t)
    with pytest.raises(ValueError, match=r"^t: .*got a tensor \(2, 2\)"): straight_path(x0[:4], noise[:4], torch.rand(2, 2))
    with pytest.raises(ValueError, match="^t: .*got 1.5"): straight_path(x0, noise, 1.5)


def test_a_path_needs_a_share_of_the_picture(pair):
    for alpha in (0.0, -1.0, torch.tensor(0.0), torch.tensor([0.5, 0.0, 1, 1, 1]).view(-1, 1, 1, 1), torch.tensor(math.nan)):
        with pytest.raises(ValueError, match="^alpha: "): path_velocity(*pair, alpha, 1.0, -1.0, 1.0)
    for i, name in enumerate(("alpha", "sigma", "alpha_slope", "sigma_slope")):
        for wrong in (None, "a", math.inf):
            given = [0.5, 0.5, -1.0, 1.0]
            given[i] = wrong
            with pytest.raises(ConfigError, match=f"^{name} is"): path_velocity(*pair, *given)
