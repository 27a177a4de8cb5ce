"""Guidance: the formulas, equal to diffusers' own where it has them, and exact at the scales where nothing is to be done."""
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

import minidiff.conditioning
import minidiff.pipeline
from minidiff.checks import ConfigError
from minidiff.conditioning import classifier_guide, guide, interval_scale, rescale_guided


def draw(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(**options)


SHAPES = (1, 4, 8, 8), (3, 4, 5, 7), (2, 3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_nothing_at_one_and_no_words_at_zero(shape, dtype):
    a, b = (draw(*shape, seed=seed, dtype=dtype) for seed in (0, 1))
    assert torch.equal(guide(a, b, 0), a) and torch.equal(guide(a, b, 1), b)
    assert guide(a, b, 7.5).dtype == dtype
    assert torch.equal(guide(a, a, 7.5), a)


@pytest.mark.parametrize("scale", [-1.0, 0.3, 2.0, 7.5, 30.0])
def test_the_formula(scale):
    a, b = draw(2, 3, 4, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(guide(a, b, scale), a + scale * (b - a))
    w = scale - 1  # Ho & Salimans'
    torch.testing.assert_close(guide(a, b, scale), (1 + w) * b - w * a)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_rescaled_as_in_diffusers(shape, share):
    a, b = (draw(*shape, seed=seed) for seed in (0, 1))
    guided = guide(a, b, 7.5)
    torch.testing.assert_close(rescale_guided(guided, b, share), rescale_noise_cfg(guided, b, share), atol=1e-5, rtol=1e-5)


def test_a_classifier_is_guidance_without_one():
    """Where the classifier is the one that Bayes makes of the two answers, both kinds agree."""
    a, b = draw(2, 3, 4, 8, 8, dtype=torch.float64)
    for alpha_bar in (0.1, 0.9, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64).view(3, 1, 1, 1)):
        gradient = -(b - a) / (1 - alpha_bar) ** 0.5
        for scale in (0.0, 1.0, 5.0):
            torch.testing.assert_close(classifier_guide(a, gradient, alpha_bar, scale), guide(a, b, scale))


def test_interval():
    assert [interval_scale(3.0, sigma, 0.3, 3.0) for sigma in (0.2, 0.3, 0.31, 3.0, 3.1)] == [1, 1, 3, 3, 1]
    for low, high in ((3.0, 0.3), (-1.0, 2.0), (float("nan"), 1.0)):
        with pytest.raises(ConfigError, match="low"): interval_scale(2.0, 1.0, low, high)


@pytest.mark.parametrize("call", [
    lambda a, b: guide(a, b, 2.0), lambda a, b: guide(b, a, 2.0), lambda a, b: guide(a, None, 2.0),
    lambda a, b: classifier_guide(a, b, 0.5, 1.0), lambda a, b: classifier_guide("a", b, 0.5, 1.0)])
def test_what_does_not_fit(call):
    with pytest.raises(ValueError, match="text|noise|gradient"): call(torch.zeros(1, 4, 8, 8), torch.zeros(2, 4, 8, 8))


WRONG = [None, "x", float("nan"), float("inf"), [1.0, 2.0], torch.tensor([1.0, 2.0]), True]
TWO = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name, call", [
    ("scale", lambda x: guide(*TWO, x)), ("scale", lambda x: classifier_guide(*TWO, 0.5, x)), ("alpha_bar", lambda x: classifier_guide(*TWO, x, 1.0)),
    ("share", lambda x: rescale_guided(*TWO, x)), ("scale", lambda x: interval_scale(x, 1.0, 0.5, 2.0)), ("low", lambda x: interval_scale(3.0, 1.0, x, 2.0)),
    ("sigma", lambda x: interval_scale(3.0, x, 0.5, 2.0)), ("high", lambda x: interval_scale(3.0, 1.0, 0.5, x))])
def test_what_is_no_number(name, call):
    for x in WRONG:
        if name in ("sigma", "high") and isinstance(x, (list, torch.Tensor, float)) and not isinstance(x, bool) and str(x) != "nan": continue  # infinite levels there are
        with pytest.raises(ValueError, match=f"^{name}") as error: call(x)
        assert "\n" not in str(error.value)
    for share in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="share is a number from 0 to 1"): rescale_guided(*TWO, share)
        with pytest.raises(ConfigError, match="alpha_bar is a number from 0 to 1"): classifier_guide(*TWO, share, 1.0)  # above 1 the noise would be complex


def test_levels_without_end():
    assert interval_scale(3.0, float("inf"), 0.5, 2.0) == 1 and interval_scale(3.0, 9.0, 0.5, float("inf")) == 3


def test_rescaling_wants_two_of_one_shape():
    a, b = TWO
    for guided, text in ((a, b[:1]), (a, b[:, :1]), (a, None), (None, b), (a, b[0]), (a.long(), b)):  # the first two would be spread over the others in silence
        with pytest.raises(ValueError, match="guided|with_text"): rescale_guided(guided, text, 0.7)


def test_there_is_one_definition():
    for name in ("guide", "rescale_guided"): assert getattr(minidiff.pipeline, name) is getattr(minidiff.conditioning, name)
