"""The toys of the story that later chapters use again: the noising function and the exact memoriser."""
import pytest
import torch

from minidiff.dali import Memoriser, add_noise


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_noise_is_added_by_the_number_and_by_the_picture():
    x0, noise = rand(3, 2, 4, 4), rand(3, 2, 4, 4, seed=1)
    shares = torch.tensor([0.0, 0.3, 1.0])
    together = add_noise(x0, noise, shares)
    for i, share in enumerate(shares.tolist()):
        torch.testing.assert_close(together[i:i + 1], add_noise(x0[i:i + 1], noise[i:i + 1], share))
    assert torch.equal(together[0], noise[0]) and torch.equal(together[2], x0[2])
    half = add_noise(x0.half(), noise.half(), torch.tensor(0.5, dtype=torch.float64))
    assert half.dtype == torch.float16


@pytest.mark.parametrize("alpha_bar", [1e-8, 1e-4, 0.02, 0.3, 0.9, 0.999, 1 - 1e-6])
def test_the_memoriser_is_the_gradient_of_the_exact_density(alpha_bar):
    "Tweedie: the expected noise is -sqrt(1 - alpha_bar) times the slope of log p(x)."
    known = rand(40, 3, 4, 4)
    x = add_noise(known[:6], rand(6, 3, 4, 4, seed=1), alpha_bar)
    precise = x.double().requires_grad_()
    gaps = precise[:, None] - alpha_bar ** 0.5 * known.double()
    log_density = (-gaps.flatten(2).square().sum(2) / (2 * (1 - alpha_bar))).logsumexp(1)
    slope, = torch.autograd.grad(log_density.sum(), precise)
    memoriser = Memoriser(known)
    noise, x0 = memoriser.noise(x, alpha_bar), memoriser(x, alpha_bar)
    assert noise.dtype == x0.dtype == torch.float32 and noise.shape == x0.shape == x.shape
    torch.testing.assert_close(noise.double(), -slope * (1 - alpha_bar) ** 0.5, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(add_noise(x0, noise, alpha_bar), x, atol=2e-4, rtol=0)
    each = torch.full((6,), alpha_bar, dtype=torch.float64)
    torch.testing.assert_close(memoriser.noise(x, each), noise)


def test_of_nothing_left_the_memoriser_expects_the_average_and_of_everything_the_nearest():
    known = rand(10, 5)
    memoriser = Memoriser(known)
    torch.testing.assert_close(memoriser(rand(2, 5, seed=1), 0.0), known.mean(0).expand(2, 5))
    assert torch.equal(memoriser(known, 1.0), known) and memoriser.noise(known, 1.0).abs().max() < 1e-5
    weights = memoriser.weights(rand(2, 5, seed=1), 1e-6)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, dtype=torch.float64))
    assert 0 < (weights - 0.1).abs().max() < 1e-2


def test_two_points_are_told_apart_by_a_hyperbolic_tangent():
    "For -1 and 1 on a line: E[x0 | x] = tanh(sqrt(alpha_bar) x / (1 - alpha_bar))."
    memoriser, x = Memoriser(torch.tensor([[-1.0], [1.0]])), rand(50, 1)
    for alpha_bar in (1e-10, 0.01, 0.5, 0.99):
        expected = torch.tanh(alpha_bar ** 0.5 * x.double() / (1 - alpha_bar))
        torch.testing.assert_close(memoriser(x, alpha_bar).double(), expected, atol=0, rtol=1e-6)
