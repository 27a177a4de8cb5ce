"The judges of the VAE's recipe: what they refuse, in one line that names it, and what they let pass."
import pytest
import torch

from minidiff.checks import ConfigError
from minidiff.losses import FeatureNet, PatchDiscriminator, adaptive_weight, gradient_energy, hinge_loss, perceptual_loss

BAD = dict(one_channel=torch.zeros(1, 1, 16, 16), flat=torch.zeros(3, 16, 16), channels_last=torch.zeros(1, 16, 16, 3), bytes=torch.zeros(1, 3, 16, 16, dtype=torch.uint8), nothing=None)


def scalar(weights): return (weights ** 2).sum()


@pytest.fixture()
def last(): return torch.ones(3, 3, requires_grad=True)


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_picture_is_named(case):
    net, judge = FeatureNet(5, widths=(8,)), PatchDiscriminator(8)
    for call in (net, net.features, judge):
        with pytest.raises(ValueError, match=r"^x: expected a tensor \(n, 3, H, W\) of real numbers, got"): call(BAD[case])


@pytest.mark.parametrize("side", [0, 1, 3])
def test_a_picture_smaller_than_its_kernel_is_named(side):
    with pytest.raises(ValueError, match="^x: expected pictures of 4 x 4 pixels or more"): PatchDiscriminator(8)(torch.zeros(1, 3, 8, side))
    assert PatchDiscriminator(8)(torch.zeros(1, 3, 4, 4)).shape == (1, 1, 1, 1)


@pytest.mark.parametrize("config, message", [
    (dict(widths=()), "widths: "), (dict(widths=8), "widths: "), (dict(widths="88"), "widths: "), (dict(widths=(8, 9)), "widths: expected multiples of 8"), (dict(widths=(True,)), "widths "),
    (dict(kernel=0), "kernel "), (dict(kernel=2), "kernel: expected an odd"), (dict(kernel="a"), "kernel "), (dict(classes=2.5), "classes ")])
def test_a_net_that_cannot_be_built_names_the_key(config, message):
    with pytest.raises(ConfigError, match=f"^{message}"): FeatureNet(**{"classes": 3, **config})


def test_whole_floats_are_whole():
    assert FeatureNet(3, widths=[8.0, 16.0])(torch.zeros(1, 3, 8, 8)).shape == (1, 3)
    assert PatchDiscriminator(8.0)(torch.zeros(1, 3, 16, 16)).shape == (1, 1, 4, 4)


@pytest.mark.parametrize("side", [0, 1])
def test_one_pixel_has_no_neighbour(side):
    for shape in ((1, 3, side, 4), (1, 3, 4, side)):
        with pytest.raises(ValueError, match="^x: expected pictures of 2 x 2 pixels"): gradient_energy(torch.zeros(shape))


@pytest.mark.parametrize("scores", [None, 1.0, torch.zeros(0)])
def test_no_scores_are_named(scores):
    with pytest.raises(ValueError, match="^real: expected scores"): hinge_loss(scores, torch.zeros(2))
    with pytest.raises(ValueError, match="^fake: expected scores"): hinge_loss(torch.zeros(2), scores)


@pytest.mark.parametrize("loss", [None, 1.0, torch.tensor(1.0), torch.ones(2, requires_grad=True)])
def test_what_is_no_loss_is_named(last, loss):
    with pytest.raises(ValueError, match="^reconstruction: expected one number with a gradient"): adaptive_weight(loss, scalar(last), last)
    with pytest.raises(ValueError, match="^adversarial: expected one number with a gradient"): adaptive_weight(scalar(last), loss, last)


@pytest.mark.parametrize("most", [-1, "a", None, float("nan")])
def test_a_limit_that_is_none_is_named(last, most):
    with pytest.raises(ConfigError, match="^most is a number, at least 0"): adaptive_weight(scalar(last), scalar(last), last, most)


def test_gradients_of_zero(last):
    assert adaptive_weight(scalar(last), (0 * last).sum(), last) == 1e4
    assert adaptive_weight((0 * last).sum(), scalar(last), last) == 0
    assert adaptive_weight((0 * last).sum(), (0 * last).sum(), last) == 0


def test_norms_in_half_precision_do_not_overflow():
    last = torch.ones(3, 3, dtype=torch.float16, requires_grad=True)
    loud = 3e4 * last.float().sum()
    assert adaptive_weight(loud, loud, last) == pytest.approx(1, abs=1e-3)


def test_a_flat_picture_has_finite_gradients():
    x = torch.zeros(1, 3, 16, 16, requires_grad=True)
    perceptual_loss(FeatureNet(3, widths=(8, 16)), torch.zeros(1, 3, 16, 16), x).sum().backward()
    assert x.grad.isfinite().all()
