"""The metrics: against torchmetrics, against their definitions loop by loop, and what they refuse."""
import math
import sys
import types
import warnings

import pytest
import torch
from torch import nn

from minidiff.checks import ConfigError, LoadError
from minidiff import metrics
from minidiff.metrics import (caption_features, clip_score, compare_sets, copy_share, density_coverage, frechet_at_infinity, frechet_distance,
                              inception_features, inception_score, interval_by_halves, kernel_distance, nearest, picture_features,
                              precision_recall, psnr, ssim)
from minidiff.sketchbook import Sketchbook


def dice(seed=0): return torch.Generator().manual_seed(seed)


def two_sets(n=300, m=250, d=16, dtype=torch.float64):
    mix = torch.randn(d, d, generator=dice(1), dtype=dtype)
    return torch.randn(n, d, generator=dice(2), dtype=dtype), torch.randn(m, d, generator=dice(3), dtype=dtype) @ mix / 3 + 0.3


class Eye(nn.Module):
    "Features are what is given."
    num_features = 16
    def forward(self, x): return x


# ---- torchmetrics

@pytest.mark.parametrize("n,m,d", [(300, 250, 16), (2000, 100, 16), (40, 40, 3)])
def test_frechet_distance_equals_torchmetrics(n, m, d):
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = two_sets(n, m, d)
    eye = Eye()
    eye.num_features = d
    theirs = fid.FrechetInceptionDistance(feature=eye).set_dtype(torch.float64)
    theirs.update(x, real=True)
    theirs.update(y, real=False)
    assert abs(frechet_distance(x, y) - theirs.compute().item()) < 1e-4
    assert abs(frechet_distance(x.float(), y.float()) - theirs.compute().item()) < 1e-4


@pytest.mark.parametrize("subsets,size", [(1, 200), (20, 50), (100, 250)])
def test_kernel_distance_equals_torchmetrics(subsets, size):
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = two_sets()
    theirs = kid.KernelInceptionDistance(Eye(), subsets=subsets, subset_size=size)
    theirs.update(x, real=True)
    theirs.update(y, real=False)
    torch.manual_seed(5)
    mean, spread = theirs.compute()
    ours = kernel_distance(x, y, subsets, size, dice(5))
    assert abs(ours[0] - mean) < 1e-4 and abs(ours[1] - spread) < 1e-4


@pytest.mark.parametrize("splits", [1, 2, 7, 10])
def test_inception_score_equals_torchmetrics(splits):
    inception = pytest.importorskip("torchmetrics.image.inception")
    logits = 3 * two_sets()[1]
    theirs = inception.InceptionScore(feature=Eye(), splits=splits)
    theirs.update(logits)
    torch.manual_seed(5)
    mean, spread = theirs.compute()
    torch.manual_seed(5)
    ours = inception_score(logits[torch.randperm(len(logits))].softmax(1), splits)
    assert abs(ours[0] - mean) < 1e-4
    assert abs(ours[1] - spread) < 1e-4 if splits > 1 else math.isnan(ours[1]) and math.isnan(spread)


@pytest.mark.parametrize("shape", [(5, 3, 32, 32), (2, 1, 6, 6), (2, 4, 17, 40)])
@pytest.mark.parametrize("sigma", [1.5, 0.8])
def test_ssim_and_psnr_equal_torchmetrics(shape, sigma):
    functional = pytest.importorskip("torchmetrics.functional.image")
    x = torch.rand(shape, generator=dice()) * 2 - 1
    y = (x + 0.3 * torch.randn(shape, generator=dice(1))).clamp(-1, 1)
    theirs = functional.structural_similarity_index_measure((y + 1) / 2, (x + 1) / 2, sigma=sigma, data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim(x, y, sigma), theirs, atol=1e-4, rtol=0)
    theirs = functional.peak_signal_noise_ratio(y, x, data_range=2.0, dim=(1, 2, 3), reduction="none")
    torch.testing.assert_close(psnr(x, y), theirs, atol=1e-4, rtol=0)


# ---- right values

def test_frechet_distance_of_known_gaussians():
    x = torch.randn(200_000, 4, generator=dice(), dtype=torch.float64)
    scale, shift = torch.tensor([1.0, 2.0, 0.5, 1.0]), torch.tensor([0.0, 0.0, 1.0, 3.0])
    assert abs(frechet_distance(x, x * scale + shift) - (1 + 0.25 + 10)) < 0.05
    assert frechet_distance(x, x + 2) == pytest.approx(16, abs=1e-9)


@pytest.mark.filterwarnings("ignore:.*pictures for")
@pytest.mark.parametrize("n,m,d", [(5, 7, 40), (2, 2, 64), (50, 3, 20), (64, 64, 64)])
def test_frechet_distance_without_full_rank(n, m, d):
    "In the space that both sets span it must be the same; there the root of a covariance is taken by eigenvalues."
    x, y = torch.randn(n, d, generator=dice(), dtype=torch.float64), 2 * torch.randn(m, d, generator=dice(1), dtype=torch.float64) + 0.1
    def root(c):
        values, vectors = torch.linalg.eigh(c)
        return vectors * values.clamp(min=0).sqrt() @ vectors.T
    a, b = x.T.cov(), y.T.cov()
    middle = torch.linalg.eigvalsh(root(a) @ b @ root(a)).clamp(min=0).sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * middle
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-5)
    assert frechet_distance(x, x) < 1e-9 * d
    turn = torch.linalg.qr(torch.randn(d, d, generator=dice(2), dtype=torch.float64))[0]
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(frechet_distance(x, y), rel=1e-9)


@pytest.mark.filterwarnings("error")
def test_constant_features_are_no_trouble():
    x = torch.ones(50, 3)
    assert frechet_distance(x, x) == 0 and frechet_distance(x, x + 1) == pytest.approx(3)
    assert kernel_distance(x, x)[0] == pytest.approx(0, abs=1e-12)
    assert precision_recall(x, x) == (1, 1) and density_coverage(x, x)[1] == 1


def test_few_pictures_are_warned_of_and_many_are_not():
    x = torch.randn(40, 8, generator=dice())
    with pytest.warns(UserWarning, match="y: 8 pictures for 8 features"): frechet_distance(x, x[:8])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(x, x)


def test_equal_sets():
    x = two_sets()[0]
    found = compare_sets(x, x, dice())
    assert found["frechet"] < 1e-9 and found["precision"] == found["recall"] == found["coverage"] == 1
    assert found["kernel"] <= 0.05 and found["density"] > 1  # each picture is in its own ball


def test_all_marks_have_the_right_names():
    x, y = two_sets()
    precision, recall, density, coverage = *precision_recall(x, y), *density_coverage(x, y)
    assert len({precision, recall, density, coverage}) == 4
    assert compare_sets(x, y, dice()) == dict(frechet=frechet_distance(x, y), kernel=kernel_distance(x, y, generator=dice())[0],
                                              precision=precision, recall=recall, density=density, coverage=coverage)


def test_no_distance_is_negative():
    for i in range(50):
        x = torch.randn(60, 20, generator=dice(i))
        assert 0 <= frechet_distance(x, x.flip(0)) < 1e-9


def test_kernel_distance_is_unbiased_and_frechet_is_not():
    pairs = [(torch.randn(40, 4, generator=dice(i)), torch.randn(40, 4, generator=dice(1000 + i))) for i in range(200)]
    kernel = torch.tensor([kernel_distance(x, y, 1, 40)[0] for x, y in pairs])
    frechet = torch.tensor([frechet_distance(x, y) for x, y in pairs])
    assert abs(kernel.mean()) < 4 * kernel.std() / 200 ** 0.5 and (kernel < 0).float().mean() > 0.3
    assert frechet.min() > 0 and frechet.mean() > 0.1


def test_kernel_distance_by_its_sums():
    x, y = (z[:12, :3] for z in two_sets())
    k = lambda a, b: (a @ b / 3 + 1).item() ** 3
    within = lambda z: sum(k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j) / (12 * 11)
    expected = within(x) + within(y) - 2 * sum(k(a, b) for a in x for b in y) / 144
    assert kernel_distance(x, y, 1, 12)[0] == pytest.approx(expected, abs=1e-12)


def test_the_distance_at_infinity():
    x, y = torch.randn(4000, 6, generator=dice()), torch.randn(4000, 6, generator=dice(1))
    end, sizes, found = frechet_at_infinity(x, y, generator=dice())
    assert abs(end) < frechet_distance(x, y) < found[0] and sizes[-1] == 4000 and sizes == sorted(sizes) and len(found) == 8
    end = frechet_at_infinity(x, 2 * y + 1, generator=dice())[0]
    assert abs(end - 12) < 0.5


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_density_coverage_by_their_definitions(k):
    x, y = (z[:40, :3] for z in two_sets())
    y = y[:30]
    distance = lambda a, b: (a - b).square().sum().sqrt().item()
    reach = lambda z: [sorted(distance(a, b) for b in z)[k] for a in z]
    inside = lambda z, radius, point: sum(distance(a, point) <= r for a, r in zip(z, radius))
    rx, ry = reach(x), reach(y)
    assert precision_recall(x, y, k) == (pytest.approx(sum(inside(x, rx, b) > 0 for b in y) / 30),
                                         pytest.approx(sum(inside(y, ry, a) > 0 for a in x) / 40))
    assert density_coverage(x, y, k) == (pytest.approx(sum(inside(x, rx, b) for b in y) / (30 * k)),
                                         pytest.approx(sum(any(distance(a, b) <= r for b in y) for a, r in zip(x, rx)) / 40))


def test_inception_score_from_one_to_the_number_of_classes():
    assert inception_score(torch.eye(10).repeat(7, 1))[0] == pytest.approx(10)
    assert inception_score(torch.full((50, 10), 0.1))[0] == pytest.approx(1)
    assert inception_score(torch.eye(10)[:1])[0] == pytest.approx(1)
    assert inception_score(torch.eye(10)[:1].repeat(5, 1))[0] == pytest.approx(1)


def test_ssim_has_the_right_ends():
    x = torch.rand(3, 3, 16, 16, generator=dice()) * 2 - 1
    torch.testing.assert_close(ssim(x, x), torch.ones(3))
    assert (ssim(x, -x) < 0).all() and ssim(x, x.half()).min() > 0.999


def test_ssim_of_flat_pictures_is_known():
    "Where nothing varies only the light counts: (2ab + c1) / (a^2 + b^2 + c1), with black at 0 and c1 = 0.02^2."
    flat = lambda value: torch.full((1, 1, 8, 8), value - 1, dtype=torch.float64)
    for a, b, expected in ((0.0, 0.02, 0.5), (0.02, 0.06, 7 / 11), (1.0, 2.0, 4.0004 / 5.0004)):
        assert ssim(flat(a), flat(b)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n,m,size", [(20, 31, 10), (2400, 2100, 1000)])
def test_the_subsets_are_half_of_the_smaller_set_and_at_most_a_thousand(n, m, size):
    x, y = two_sets(n, m, 3)
    assert kernel_distance(x, y, 2, generator=dice()) == kernel_distance(x, y, 2, size, dice())
    assert kernel_distance(x, y, 2, generator=dice()) != kernel_distance(x, y, 2, size + 1, dice())


def test_clip_score():
    x = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    y = torch.tensor([[1.0, 0.0], [0.0, -5.0], [1.0, 0.0]])
    torch.testing.assert_close(clip_score(x, y), torch.tensor([100.0, 0.0, 50 * 2 ** 0.5]))
    torch.testing.assert_close(clip_score(x, y, 2.5)[0], torch.tensor(2.5))


def test_the_shipped_clip_knows_captions_from_others():
    pictures, captions, _ = Sketchbook(32).draw(40, dice(), split="heldout")
    f, t = picture_features(pictures, batch_size=7), caption_features(captions)
    assert f.shape == t.shape == (40, 128) and not f.requires_grad
    assert clip_score(f, t).mean() > 2 * clip_score(f, t.roll(1, 0)).mean()
    torch.testing.assert_close(f, picture_features(pictures), atol=1e-5, rtol=0)
    assert picture_features(pictures, encoder=lambda x: x.mean((2, 3))).shape == (40, 3)


def test_copies_are_found():
    known, fresh, others = (torch.randn(200, 5, generator=dice(i)) for i in range(3))
    assert copy_share(known, fresh, known[:50])[0] == 1 and copy_share(known, fresh, fresh[:50])[0] == 0
    share, low, high = copy_share(known, fresh, others)
    assert low < 0.5 < high and low < share < high
    assert copy_share(known, known, others)[0] == 0.5
    distance, which = nearest(known, known[[7, 3]])
    assert which.tolist() == [7, 3] and distance.max() < 1e-5


def test_halves_give_the_standard_error_of_a_mean():
    x = torch.randn(1000, 1, generator=dice())
    value, low, high = interval_by_halves(lambda z: z.mean().item(), x, repeats=400, generator=dice())
    assert value == pytest.approx(x.mean().item()) and (high - low) / 3.92 == pytest.approx(1000 ** -0.5, rel=0.15)


# ---- Inception, by a stand-in for torch_fidelity

def test_inception_without_torch_fidelity(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    metrics._inception.cache_clear()
    with pytest.raises(LoadError, match="torch-fidelity"): inception_features(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("broken", [False, True])
def test_inception_gets_bytes(monkeypatch, broken):
    class Net(nn.Module):
        def __init__(self, name, features_list):
            super().__init__()
            if broken: raise OSError("no\nnetwork")
            assert (name, features_list) == ("inception-v3-compat", ["64"])
        def forward(self, x):
            assert x.dtype == torch.uint8
            return (x.float().mean((2, 3)),)
    fidelity, module = types.ModuleType("torch_fidelity"), types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    fidelity.feature_extractor_inceptionv3 = module
    module.FeatureExtractorInceptionV3 = Net
    monkeypatch.setitem(sys.modules, "torch_fidelity", fidelity)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    metrics._inception.cache_clear()
    x = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    if broken:
        with pytest.raises(LoadError, match="could not be fetched: no network"): inception_features(x, "64")
    else: assert inception_features(x, "64", batch_size=2)[:, 0].tolist() == [0, 128, 255]
    metrics._inception.cache_clear()


# ---- what is refused

X = torch.randn(20, 4, generator=dice())
NAN = torch.where(torch.arange(20)[:, None] == 3, torch.nan, X)


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance, precision_recall, density_coverage, nearest, compare_sets,
                                    frechet_at_infinity])
@pytest.mark.parametrize("bad", [NAN, X.where(X < 0.5, torch.inf)])
def test_features_that_are_no_numbers_are_named(metric, bad):
    with pytest.raises(ValueError, match=r"^x: \d+ of 20 rows hold NaN or infinity, the first is row \d+"): metric(bad, X)
    with pytest.raises(ValueError, match=r"^y: \d+ of 20 rows"): metric(X, bad)


@pytest.mark.parametrize("call,message", [
    (lambda: frechet_distance(X[:1], X), "x: expected features of at least 2 pictures"),
    (lambda: frechet_distance(X, X[:0]), "y: expected features of at least 2 pictures"),
    (lambda: frechet_distance(X, X[:, :3]), r"y: expected a tensor \(n, 4\)"),
    (lambda: frechet_distance(X[0], X), r"x: expected a tensor \(n, d\)"),
    (lambda: frechet_distance(X.long(), X), "x: expected a tensor"),
    (lambda: frechet_distance(None, X), "x: expected a tensor"),
    (lambda: frechet_distance(X[:, :0], X), "x: expected"),
    (lambda: frechet_at_infinity(X[:15], X), "x: expected features of at least 16"),
    (lambda: frechet_at_infinity(X, X, points=1), "points is a whole number"),
    (lambda: kernel_distance(X, X[:3]), "y: expected features of at least 4"),
    (lambda: kernel_distance(X, X, subset_size=21), "subset_size is a whole number from 2 to 20"),
    (lambda: kernel_distance(X, X, subsets=0), "subsets is a whole number"),
    (lambda: precision_recall(X, X[:3]), "y: expected features of at least 4"),
    (lambda: precision_recall(X, X, k=0), "k is a whole number"),
    (lambda: density_coverage(X, X, k=20), "x: expected features of at least 21"),
    (lambda: inception_score(X), "p: expected probabilities"),
    (lambda: inception_score(X.softmax(1), 21), "splits is a whole number from 1 to 20"),
    (lambda: inception_score(NAN), "p: 1 of 20 rows"),
    (lambda: ssim(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 31)), "y: expected a tensor"),
    (lambda: ssim(torch.zeros(1, 3, 5, 32), torch.zeros(1, 3, 5, 32)), "x: expected sides of at least 6 pixels"),
    (lambda: ssim(torch.full((1, 3, 8, 8), 200.0), torch.zeros(1, 3, 8, 8)), "x: expected pictures in"),
    (lambda: clip_score(X, X[:3]), "text_embeds: expected a tensor"),
    (lambda: clip_score(X, X, 0), "weight is a number above 0"),
    (lambda: picture_features(torch.zeros(3, 32, 32)), "images: expected a tensor"),
    (lambda: picture_features(torch.zeros(1, 3, 16, 16)), "images: expected a tensor"),
    (lambda: copy_share(X, X[:5], X), "fresh: expected as many rows as known has, 20, got 5"),
    (lambda: interval_by_halves(frechet_distance, X, X[:7]), "sets: expected tensors with at least 8 pictures in each, got a tensor .7, 4."),
    (lambda: interval_by_halves(frechet_distance), "sets: expected tensors with at least 8"),
    (lambda: inception_features(torch.zeros(1, 3, 8, 8), "2047"), "layer is one of")])
def test_what_is_wrong_is_named(call, message):
    with pytest.raises((ValueError, ConfigError), match=message) as caught: call()
    assert "\n" not in str(caught.value)


# ---- odd inputs

def test_the_devices_and_layouts_that_cannot_be_used_are_named():
    for metric in (frechet_distance, kernel_distance, precision_recall, density_coverage, nearest, clip_score):
        with pytest.raises(ValueError, match="expected a dense tensor with numbers, got one of meta"): metric(X.to("meta"), X)
        with pytest.raises(ValueError, match="expected a dense tensor with numbers, got one of cpu, torch.sparse_coo"): metric(X.to_sparse(), X)


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance, precision_recall, density_coverage, nearest, clip_score])
def test_what_overflows_is_refused(metric):
    "max(0, nan) is 0 in Python: a distance of huge numbers must not be one of equal sets."
    with pytest.raises(ValueError, match="20 of 20 rows hold numbers beyond 1e38"): metric(X.double() * 1e200, X.double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_and_strides_and_gradients_change_nothing(dtype):
    x, y = (torch.randn(5, 40, generator=dice(i)).to(dtype).T for i in range(2))
    whole = [z.double().contiguous() for z in (x, y)]
    for metric in (frechet_distance, precision_recall, density_coverage, lambda x, y: kernel_distance(x, y, generator=dice())):
        assert metric(x.clone().requires_grad_(), y) == pytest.approx(metric(*whole), rel=1e-12)
    assert clip_score(x, y).dtype == torch.float32
    torch.testing.assert_close(clip_score(x, y), clip_score(*whole))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n,m,d", [(20, 30, 2), (500, 500, 64), (150, 90, 128)])
@pytest.mark.filterwarnings("ignore:.*pictures for")
def test_distances_equal_torchmetrics_in_sizes_and_types(n, m, d, dtype):
    fid, kid = pytest.importorskip("torchmetrics.image.fid"), pytest.importorskip("torchmetrics.image.kid")
    x, y = two_sets(n, m, d, dtype)
    eye = Eye()
    eye.num_features = d
    theirs = fid.FrechetInceptionDistance(feature=eye).set_dtype(torch.float64)
    for z, real in ((x, True), (y, False)): theirs.update(z.double(), real=real)
    ours = frechet_distance(x, y)
    assert abs(ours - theirs.compute().item()) < 1e-4
    theirs = kid.KernelInceptionDistance(eye, subsets=5, subset_size=20)
    for z, real in ((x, True), (y, False)): theirs.update(z.double(), real=real)
    torch.manual_seed(3)
    assert kernel_distance(x, y, 5, 20, dice(3))[0] == pytest.approx(theirs.compute()[0].item(), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_ssim_equals_torchmetrics_in_each_type(dtype):
    functional = pytest.importorskip("torchmetrics.functional.image")
    bright = 1 - 0.05 * torch.rand(3, 2, 24, 19, generator=dice())  # nearly white: a variance is a small difference of large numbers
    x, y = bright.to(dtype), (bright - 0.02 * torch.rand(bright.shape, generator=dice(1))).to(dtype)
    theirs = functional.structural_similarity_index_measure((y.double() + 1) / 2, (x.double() + 1) / 2, data_range=1.0, reduction="none")
    ours = ssim(x, y)
    assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(ours.double(), theirs, atol=1e-9 if dtype == torch.float64 else 1e-4, rtol=0)


def test_ssim_lets_gradients_through_and_takes_any_channels():
    x = torch.zeros(2, 1, 8, 8, requires_grad=True)
    ssim(x, torch.rand(2, 1, 8, 8, generator=dice())).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0
    assert ssim(x[:0], x[:0]).shape == (0,)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_copy_and_the_edge_of_a_ball(k):
    "With the edge a copy has density (k + 1) / k; without it, as in the authors' program, 1. Elsewhere the two agree."
    def without_edge(x, y):
        reach = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(k + 1).values
        inside = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") < reach[:, None]
        return inside.sum().item() / (k * len(y)), inside.any(1).double().mean().item()
    x, y = two_sets()
    assert density_coverage(x, x.flip(0), k) == (pytest.approx((k + 1) / k), 1)
    assert without_edge(x, x.flip(0)) == (pytest.approx(1), 1)
    assert density_coverage(x, y, k) == pytest.approx(without_edge(x, y)) and density_coverage(x, y, k)[0] > 0


def test_lots_change_nothing(monkeypatch):
    "Distances are taken a few rows at a time: with lots of one row, of seven and of all the same marks come out."
    x, y = two_sets(60, 45, 4)
    look = lambda: (*precision_recall(x, y), *density_coverage(x, y), kernel_distance(x, y, 3, 40, dice())[0], *nearest(x, y)[1].tolist())
    found = look()
    for rows in (1, 7): monkeypatch.setattr(metrics, "_lots", lambda a, b: a.split(rows)); assert look() == pytest.approx(found, rel=1e-10)


def test_memory_does_not_grow_with_the_square(monkeypatch):
    "No table of distances (10,000 by 10,000 would be 800 MB) is larger than 80 MB."
    sizes, cdist = [], torch.cdist
    def watched(a, b, **options):
        sizes.append(len(a) * len(b))
        return torch.zeros(len(a), len(b))
    monkeypatch.setattr(torch, "cdist", watched)
    x = torch.zeros(20_000, 1)
    for metric in (precision_recall, density_coverage, nearest): metric(x, x)
    assert max(sizes) <= 10**7 and sum(sizes) >= 7 * 20_000**2 - 1
    assert all(len(lot) * 20_000 <= 10**7 for lot in metrics._lots(x, x))


def test_the_nearest_is_exact_far_from_the_origin():
    x = torch.randn(300, 8, generator=dice(), dtype=torch.float64) + 1e7
    distance, which = nearest(x, x[[9, 4, 200]])
    assert which.tolist() == [9, 4, 200] and distance.tolist() == [0, 0, 0]
    y = torch.randn(30, 8, generator=dice(1), dtype=torch.float64) + 1e7
    assert copy_share(x, x.flip(0), y)[0] == 0.5  # equal distances, found in another order


def test_sizes_that_lie_off_the_line_are_warned_of():
    x = torch.randn(100, 30, generator=dice())
    with pytest.warns(UserWarning, match="down to 25 pictures for 30 features"): frechet_at_infinity(x, x, 2, 1)
    with pytest.warns(UserWarning, match="down to 25 pictures for 25 features"): frechet_at_infinity(x[:, :25], x[:, :25], 2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_at_infinity(x[:, :20], x[:, :20], 2, 1)


def test_long_captions_are_cut_and_any_row_of_texts_will_do():
    long = "a red star " * 60
    torch.testing.assert_close(caption_features([long, "a ring"])[0], caption_features([long + "and a blue square"])[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(caption_features(text for text in ("a ring",)), caption_features(("a ring",)))


def test_the_shipped_tower_sees_pictures_of_half_precision():
    x = Sketchbook(32).draw(3, dice())[0]
    assert picture_features(x.half()).dtype == torch.float32
    torch.testing.assert_close(picture_features(x.half()), picture_features(x), atol=5e-3, rtol=0)


B = torch.zeros(4, 3, 32, 32)


@pytest.mark.parametrize("call,message", [
    (lambda: kernel_distance(X, X, generator=3), "generator is a torch.Generator or None; got 3"),
    (lambda: interval_by_halves(lambda z: 1.0, X, generator="0"), "generator is a torch.Generator or None"),
    (lambda: interval_by_halves(3, X), "metric is a function of sets; got 3"),
    (lambda: interval_by_halves(lambda z: (1, 2), X), r"metric: expected a function that returns a number, got \(1, 2\)"),
    (lambda: interval_by_halves(lambda z: z.mean(0), X), "metric: expected a function that returns a number, got a tensor"),
    (lambda: interval_by_halves(lambda z: 1.0, X.tolist()), "sets: expected tensors with at least 8"),
    (lambda: interval_by_halves(lambda z: 1.0, X, repeats=1), "repeats is a whole number, at least 2"),
    (lambda: picture_features(B, "clip"), "encoder is a function from pictures to features; got 'clip'"),
    (lambda: picture_features(B, lambda x: x), r"what encoder returns: expected a tensor \(4, d\)"),
    (lambda: picture_features(B, lambda x: x[:2].flatten(1)), r"what encoder returns: expected a tensor \(4, d\).*\(2, 3072\)"),
    (lambda: picture_features(B, lambda x: x.flatten(1)[:, :len(x)], 3), r"what encoder returns: expected a tensor \(1, 3\)"),
    (lambda: picture_features(B, lambda x: x.flatten(1).long()), "what encoder returns: expected"),
    (lambda: picture_features(B[:, :1]), r"images: expected a tensor \(n, 3, 32, 32\)"),
    (lambda: picture_features(B.to("meta")), "images: a tensor .* without numbers"),
    (lambda: picture_features(B, batch_size=0), "batch_size is a whole number"),
    (lambda: caption_features("a red star"), "captions: expected a list of texts, got 'a red star'"),
    (lambda: caption_features([]), r"captions: expected a list of texts, got \[\]"),
    (lambda: caption_features(["a", 3]), "captions: expected a list of texts"),
    (lambda: metrics.local_mean(B[0]), "x: expected a tensor"),
    (lambda: metrics.local_mean(B, 1e10), "x: expected sides of at least 35000000001 pixels, got 32 x 32"),
    (lambda: ssim(B[..., :3, :3], B[..., :3, :3]), "x: expected sides of at least 6 pixels, got 3 x 3"),
    (lambda: ssim(B, B, 0), "sigma is a number, at least 0.1; got 0"),
    (lambda: ssim(B[:, :0], B[:, :0]), "x: expected channels"),
    (lambda: ssim(B, B.to("meta")), "y is on meta, and x on cpu"),
    (lambda: ssim(B, torch.where(B == 0, torch.nan, B)), "y: expected pictures in"),
    (lambda: clip_score(NAN, X), "image_embeds: 1 of 20 rows"),
    (lambda: clip_score(X, NAN), "text_embeds: 1 of 20 rows"),
    (lambda: clip_score(X[:0], X[:0]), "image_embeds: expected features of at least 1"),
    (lambda: copy_share(X, None, X), "fresh: expected a tensor"),
    (lambda: copy_share(X, X, X[:, :2]), r"y: expected a tensor \(n, 4\)"),
    (lambda: copy_share(NAN, X, X), "known: 1 of 20 rows"),
    (lambda: compare_sets(X[:5], X), "x: expected features of at least 6"),
    (lambda: precision_recall(X, X, k=2.5), "k is a whole number")])
def test_odd_inputs_are_named(call, message):
    with pytest.raises((ValueError, ConfigError), match=message) as caught: call()
    assert "\n" not in str(caught.value)
