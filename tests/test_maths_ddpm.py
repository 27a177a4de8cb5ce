"""What chapter 11 exports: exact where there is a second way to compute it, gradients that are finite, one-line errors."""
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from minidiff.checks import ConfigError
from minidiff.maths import alpha_bar_table, bits_per_dim, bound_terms, discretized_log_likelihood, gaussian_kl, posterior_mean_variance
from minidiff.scheduler import DDPMScheduler, prediction_target

SEEDED = lambda seed=0: torch.Generator().manual_seed(seed)


def test_the_table_is_diffusers_with_the_clean_picture_before_it():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler()
    table = alpha_bar_table(theirs)
    assert table.shape == (1001,) and table.dtype == torch.float64 and table[0] == 1
    assert torch.equal(table[1:].float(), theirs.alphas_cumprod)
    assert torch.equal(table, alpha_bar_table(DDPMScheduler())) and torch.equal(table, alpha_bar_table(theirs.alphas_cumprod))


@pytest.mark.parametrize("dtype, most", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_kl_is_torchs(dtype, most):
    mean, log_var = torch.randn(2, 2, 100, generator=SEEDED(), dtype=dtype)
    theirs = kl_divergence(Normal(mean[0], (log_var[0] / 2).exp()), Normal(mean[1], (log_var[1] / 2).exp()))
    torch.testing.assert_close(gaussian_kl(mean[0], log_var[0], mean[1], log_var[1]), theirs, rtol=10 * most, atol=most)
    assert gaussian_kl(mean[0], 0.3, mean[0], 0.3).abs().max() == 0 and (gaussian_kl(mean[0], log_var[0], 0.0, 0.0) >= 0).all()


@pytest.mark.parametrize("t", [1, 2, 500, 1000])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_the_posterior_is_diffusers_step(t, variance_type):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(prediction_type="sample", clip_sample=False, variance_type=variance_type)
    x0, xt = torch.randn(2, 3, 4, 4, generator=SEEDED())
    bar = alpha_bar_table(theirs)
    mean, _ = posterior_mean_variance(x0, xt, bar[t], bar[t - 1])
    z = torch.randn(1, 3, 4, 4, generator=SEEDED(1))[0] if t > 1 else 0
    variance = 1 - bar[t] / bar[t - 1] if variance_type == "fixed_large" else posterior_mean_variance(x0, xt, bar[t], bar[t - 1])[1]
    by_them = theirs.step(x0[None], t - 1, xt[None], generator=SEEDED(1)).prev_sample[0]
    torch.testing.assert_close(mean + variance.float()**0.5 * z, by_them, rtol=1e-4, atol=1e-4)


def test_the_posterior_takes_a_bar_for_each_picture_and_keeps_the_type():
    x0, xt = torch.randn(2, 3, 2, 4, 4, generator=SEEDED())[:, :, 0]
    high, low = torch.tensor([[[0.9]], [[0.5]], [[1.0]]]), torch.tensor([[[0.3]], [[0.0]], [[0.99]]])
    mean, variance = posterior_mean_variance(x0, xt, low, high)
    assert mean.dtype == variance.dtype == torch.float32 and variance.shape == (3, 1, 1)
    for i in range(3):
        alone = posterior_mean_variance(x0[i], xt[i], low[i].item(), high[i].item())
        torch.testing.assert_close(mean[i], alone[0]); torch.testing.assert_close(variance[i, 0, 0], alone[1])
    torch.testing.assert_close(mean[2], x0[2])
    assert variance[2] == 0


@pytest.mark.parametrize("levels", [2, 4, 256])
def test_all_levels_share_one(levels):
    mean, log_var = torch.randn(50, generator=SEEDED(), dtype=torch.float64), 4 * torch.randn(50, generator=SEEDED(1), dtype=torch.float64) - 4
    x0 = torch.linspace(-1, 1, levels, dtype=torch.float64)[:, None]
    logs = discretized_log_likelihood(x0, mean, log_var, levels)
    assert logs.isfinite().all() and (logs <= 1e-12).all()
    torch.testing.assert_close(logs.exp().sum(0), torch.ones(50, dtype=torch.float64))


def test_a_network_can_learn_from_the_last_step():
    mean = torch.linspace(-40, 40, 9, dtype=torch.float64, requires_grad=True)
    log_var = torch.tensor(-6.0, dtype=torch.float64, requires_grad=True)
    for x0 in (-1.0, 1 / 255, 1.0):
        logs = discretized_log_likelihood(torch.tensor(x0, dtype=torch.float64), mean, log_var)
        grads = torch.autograd.grad(logs.sum(), (mean, log_var))
        assert logs.isfinite().all() and all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_bound_is_the_same_whatever_the_network_says(variance):
    x0 = torch.tensor([-1.0, 1.0])[torch.randint(2, (6, 1, 3, 3), generator=SEEDED())].double()
    bar = alpha_bar_table(DDPMScheduler(num_train_timesteps=20, beta_start=0.01, beta_end=0.5))

    def model(kind):
        def said(xt, t):
            assert t.shape == (6,) and t.dtype == torch.int64
            b = bar[t + 1].view(-1, 1, 1, 1)
            guess = 0.8 * x0
            return prediction_target(kind, guess, (xt - b**0.5 * guess) / (1 - b)**0.5, b**0.5, (1 - b)**0.5)
        return said

    found = [bound_terms(model(kind), x0, bar, 2, kind, variance, SEEDED(3)) for kind in ("epsilon", "sample", "v_prediction")]
    assert found[0].shape == (21, 6) and (found[0] >= 0).all()
    for other in found[1:]: torch.testing.assert_close(other, found[0])
    best = bound_terms(lambda xt, t: x0, x0, bar, 2, "sample", "small", SEEDED(3))
    assert best[1:-1].abs().max() < 1e-9  # who knows the picture pays at the ends alone


def test_the_bound_by_hand():
    bar = torch.tensor([1.0, 0.9, 0.5], dtype=torch.float64)
    x0 = torch.full((1, 1), 1.0, dtype=torch.float64)
    terms = bound_terms(lambda xt, t: 0 * xt, x0, bar, 2, "sample", "large", SEEDED())[:, 0]
    snr = bar[1:] / (1 - bar[1:])
    small = (1 - 0.9) / (1 - 0.5) * (1 - 0.5 / 0.9)
    large = 1 - 0.5 / 0.9
    pull = 0.9**0.5 * large / (1 - 0.5)
    by_hand = pull**2 / (2 * large) + 0.5 * (small / large - 1 - math.log(small / large))
    torch.testing.assert_close(terms[1], torch.tensor(by_hand, dtype=torch.float64))
    torch.testing.assert_close(pull**2 / (2 * small), ((snr[0] - snr[1]) / 2).item())
    torch.testing.assert_close(terms[2], torch.tensor(0.5 * (0.5 - 0.5 - math.log(0.5)), dtype=torch.float64))


def test_one_step_has_no_small_variance():
    bar, x0 = torch.tensor([1.0, 0.5], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(ConfigError, match='"small" needs two steps or more'):
        bound_terms(lambda xt, t: xt, x0, bar, 2, "sample", "small", SEEDED())
    assert bound_terms(lambda xt, t: xt, x0, bar, 2, "sample", "large", SEEDED()).isfinite().all()


def test_bits():
    assert bits_per_dim(torch.tensor(64 * math.log(2), dtype=torch.float64), 64) == pytest.approx(1)


@pytest.mark.parametrize("wrong", [
    lambda: alpha_bar_table(torch.ones(3, 3)), lambda: alpha_bar_table("linear"),
    lambda: posterior_mean_variance(torch.zeros(2), torch.zeros(2), 0.5, 0.5), lambda: posterior_mean_variance(torch.zeros(2), torch.zeros(2), 0.1, 1.1),
    lambda: discretized_log_likelihood(torch.zeros(2), torch.zeros(2), 0.0, 1), lambda: bits_per_dim(torch.zeros(()), 0),
    lambda: bound_terms(None, torch.zeros(2, 2), torch.ones(3, 3)), lambda: bound_terms(None, torch.zeros(2, 2), torch.tensor([1.0, 0.5]), variance="medium"),
    lambda: bound_terms(lambda x, t: x, torch.zeros(2, 2), torch.tensor([1.0, 0.9, 0.5]), prediction_type="noise")])
def test_errors_are_one_line(wrong):
    with pytest.raises((ValueError, ConfigError)) as caught: wrong()
    assert "\n" not in str(caught.value)


def test_a_bar_for_each_picture_is_that_of_the_picture():
    """Also where there are as many pictures as columns."""
    x0, xt = torch.randn(2, 4, 3, 4, 4, generator=SEEDED())
    low, high = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.5, 0.6, 0.7, 1.0])
    mean, variance = posterior_mean_variance(x0, xt, low, high)
    assert variance.shape == (4, 1, 1, 1)
    for i in range(4): torch.testing.assert_close(mean[i], posterior_mean_variance(x0[i], xt[i], low[i], high[i])[0])


def test_a_tiny_kl_is_not_lost_in_rounding():
    close = torch.full((3,), 1e-4)
    exact = gaussian_kl(close.double(), 1e-4, 0.0, 0.0)
    torch.testing.assert_close(gaussian_kl(close, 1e-4, 0.0, 0.0).double(), exact, rtol=1e-3, atol=0)
    torch.testing.assert_close(exact, torch.full((3,), 1e-8 * (1 / 2 + 1 / 4)).double(), rtol=1e-4, atol=0)
    assert gaussian_kl(torch.zeros(2), -100.0, 0.0, -100.0).abs().max() == 0  # exp(100) is more than float32 holds


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_small_types_count_levels_too(dtype):
    x0 = torch.tensor([-1.0, 0.0, 1.0], dtype=dtype)
    found = discretized_log_likelihood(x0, 0 * x0, -1.0)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), discretized_log_likelihood(x0.double(), 0 * x0.double(), -1.0), rtol=0.01, atol=0)


def test_many_levels_and_a_bell_that_is_elsewhere():
    fine = discretized_log_likelihood(torch.zeros(1), torch.zeros(1), 0.0, 2**20)
    torch.testing.assert_close(fine, torch.tensor([math.log(2 / (2**20 - 1)) - math.log(2 * math.pi) / 2]), rtol=1e-5, atol=0)
    ends = torch.tensor([-1.0, 1.0])
    assert torch.equal(discretized_log_likelihood(ends, torch.zeros(2), -1500.0), torch.full((2,), -math.inf))


def test_what_has_no_bound():
    x0, model = torch.ones(2, 3), lambda x, t: x
    good = torch.tensor([1.0, 0.9, 0.5])
    zero = torch.tensor([1.0, 0.5, 0.0])
    for told, *given in (
            ("alpha_bar: expected 1", model, x0, good[1:]), ("alpha_bar: expected 1", model, x0, good[:1]), ("alpha_bar", model, x0, good.flip(0)),
            ("alpha_bar", model, x0, good * math.nan), ("needs two steps or more; got one", model, x0, good[:2]), ("prediction_type", model, x0, good, 2, "flow_prediction"),
            ("epsilon says nothing", model, x0, zero), ("levels", None, x0, good, 1), ("x0", model, x0.long(), good), ("x0", model, x0[0], good),
            ("x0", model, 255 * x0, good), ("x0", model, [1.0], good), (r"model\(xt, t\)", lambda x, t: x[:, :1], x0, good),
            (r"model\(xt, t\)", lambda x, t: None, x0, good)):
        with pytest.raises((ValueError, ConfigError), match=told) as caught: bound_terms(*given)
        assert "\n" not in str(caught.value)
    assert bound_terms(model, x0, good[:2], 2, variance="large", generator=SEEDED()).isfinite().all()
    assert bound_terms(model, x0, zero, 2, "v_prediction", generator=SEEDED())[2].abs().max() == 0


Z = torch.zeros(3)


@pytest.mark.parametrize("told, call", [
    ("alphas_cumprod", lambda: alpha_bar_table(torch.tensor([0.1, 0.9]))), ("alphas_cumprod", lambda: alpha_bar_table(torch.tensor([1.5, 0.2]))),
    ("alphas_cumprod", lambda: alpha_bar_table(torch.tensor([math.nan]))), ("alphas_cumprod", lambda: alpha_bar_table(torch.zeros(0))),
    ("^x0: ", lambda: posterior_mean_variance(Z.long(), Z, 0.5, 0.9)), ("^xt: ", lambda: posterior_mean_variance(Z, None, 0.5, 0.9)),
    ("^x0, xt: .*got \\(3,\\), \\(2,\\)", lambda: posterior_mean_variance(Z, Z[:2], 0.5, 0.9)), ("^bar_t: ", lambda: posterior_mean_variance(Z, Z, "a", 0.9)),
    ("^bar_t: .*one for each", lambda: posterior_mean_variance(Z, Z, Z[:2] + 0.5, 0.9)), ("^bar_t, bar_s: ", lambda: posterior_mean_variance(Z, Z, Z[:2], Z + 1)),
    ("^mean1: ", lambda: gaussian_kl(0.0, 0.0, 0.0, 0.0)), ("^mean1: ", lambda: gaussian_kl(Z.long(), 0.3, 0.0, 0.0)),
    ("^log_var1: ", lambda: gaussian_kl(Z, "a", 0.0, 0.0)), ("^mean2: ", lambda: gaussian_kl(Z, 0.0, None, 0.0)), ("mean2.*go together", lambda: gaussian_kl(Z, 0.0, Z[:2], 0.0)),
    ("^x0: ", lambda: discretized_log_likelihood(Z.long(), Z, 0.0)), ("^x0: .*127.5", lambda: discretized_log_likelihood(Z + 255, Z, 0.0)),
    ("^mean: ", lambda: discretized_log_likelihood(Z, 0.0, 0.0)), ("^log_var: ", lambda: discretized_log_likelihood(Z, Z, None)),
    ("go together", lambda: discretized_log_likelihood(Z, Z, Z[:2])), ("^nats is", lambda: bits_per_dim(None, 3)), ("^nats is", lambda: bits_per_dim([1.0], 3))])
def test_what_is_given_is_named(told, call):
    with pytest.raises((ValueError, ConfigError), match=told) as caught: call()
    assert "\n" not in str(caught.value)
