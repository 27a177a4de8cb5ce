"""What chapter 01 no longer shows: PCA against scikit-learn's on odd data, and what both wands refuse."""
import copy

import pytest
import torch
from sklearn.decomposition import PCA as TheirPCA

from minidiff.autoencoder import PCA, Autoencoder, _Residual
from minidiff.checks import ConfigError

NAMES = "mean_", "components_", "explained_variance_", "explained_variance_ratio_"


def samples(m, d, dtype=torch.float64, seed=0):
    """Correlated samples whose directions are far from equally good."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64) * 0.8 ** torch.arange(d)
    return (torch.randn(m, d, generator=generator, dtype=torch.float64) @ mixing + 3).to(dtype)


def up_to_sign(ours, theirs, atol):
    sign = (ours * theirs).sum(1, keepdim=True).sign()
    torch.testing.assert_close(ours * sign, theirs, rtol=0, atol=atol)


def theirs_of(n, x):
    return TheirPCA(n, svd_solver="full").fit(x.flatten(1).double().numpy())


@pytest.mark.parametrize("m, d, n", [(50, 12, 5), (50, 12, 12), (8, 30, 8), (8, 30, 1), (2, 3, 1), (200, 1, 1)])
def test_equal_to_scikit_learn_up_to_sign(m, d, n):
    x, new = samples(m, d), samples(7, d, seed=1)
    ours, theirs = PCA(n).fit(x), theirs_of(n, x)
    safe = n - (n == m)  # the last of as many directions as samples has no variance: any will do
    for name in NAMES:
        mine, wanted = getattr(ours, name), torch.as_tensor(getattr(theirs, name))
        assert mine.shape == wanted.shape and mine.dtype == torch.float64
        if name == "components_": up_to_sign(mine[:safe], wanted[:safe], 1e-5)
        else: torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-5)
    up_to_sign(ours.encode(new)[:, :safe].T, torch.as_tensor(theirs.transform(new.numpy()))[:, :safe].T, 1e-5)
    codes = ours.encode(x)  # of what it knows, the directions without variance say nothing
    torch.testing.assert_close(ours.decode(codes), torch.as_tensor(theirs.inverse_transform(theirs.transform(x.numpy()))), rtol=0, atol=1e-5)


def test_the_largest_entry_of_a_direction_is_positive():
    components = PCA(6).fit(samples(40, 9)).components_
    assert (components.gather(1, components.abs().argmax(1, keepdim=True)) > 0).all()
    torch.testing.assert_close(components, torch.as_tensor(theirs_of(6, samples(40, 9)).components_), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(6,), (3, 4, 5), (1, 2, 2), (2, 7)])
def test_decode_gives_back_the_shape(shape):
    x = torch.randn(20, *shape, generator=torch.Generator().manual_seed(0))
    pca = PCA(3)
    assert pca.fit(x) is pca
    assert pca.encode(x[:4]).shape == (4, 3)
    assert pca.decode(pca.encode(x[:4])).shape == (4, *shape)
    assert pca.encode(x[:0]).shape == (0, 3) and pca.decode(torch.zeros(0, 3)).shape == (0, *shape)
    torch.testing.assert_close(PCA(3).fit(x.flatten(1)).components_, pca.components_)


def test_as_many_numbers_as_there_are_lose_nothing():
    x = samples(30, 10)
    torch.testing.assert_close(PCA(10).fit(x).decode(PCA(10).fit(x).encode(x)), x)


@pytest.mark.parametrize("dtype, kept, atol", [(torch.float16, torch.float32, 2e-3), (torch.bfloat16, torch.float32, 2e-3), (torch.float32, torch.float32, 1e-4), (torch.float64, torch.float64, 1e-8)])
def test_it_computes_in_float32_at_least(dtype, kept, atol):
    x = samples(40, 6).to(dtype)
    pca = PCA(4).fit(x)
    assert pca.components_.dtype == pca.encode(x).dtype == pca.decode(pca.encode(x)).dtype == kept
    up_to_sign(pca.components_.double(), torch.as_tensor(theirs_of(4, x).components_), atol)
    assert PCA(4).fit(x.double()).encode(x).dtype == torch.float64


def test_constant_columns_and_constant_samples():
    x = samples(40, 6)
    x[:, 2] = 5.0
    pca = PCA(5).fit(x)
    up_to_sign(pca.components_, torch.as_tensor(theirs_of(5, x).components_), 1e-5)
    assert pca.components_[:, 2].abs().max() < 1e-12
    still = PCA(2).fit(torch.full((9, 4), 0.5))
    assert still.explained_variance_.tolist() == still.explained_variance_ratio_.tolist() == [0, 0]
    assert still.components_.isfinite().all() and torch.equal(still.decode(still.encode(torch.full((1, 4), 0.5))), torch.full((1, 4), 0.5))


def test_the_input_stays_as_it_was():
    x = samples(20, 5)
    before = x.clone()
    PCA(2).fit(x).encode(x)
    assert torch.equal(x, before)


def test_fitting_again_forgets():
    pca = PCA(2).fit(samples(20, 5))
    pca.fit(torch.randn(10, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    assert pca.components_.shape == (2, 12) and pca.decode(torch.zeros(1, 2)).shape == (1, 3, 2, 2)


@pytest.mark.parametrize("x, n, message", [
    (samples(5, 9), 6, "n: 5 samples of 9 numbers give at most 5 directions, got 6"),
    (samples(9, 5), 6, "n: 9 samples of 5 numbers give at most 5 directions, got 6"),
    (samples(1, 5), 1, "x: PCA needs at least 2 samples, got 1"),
    (samples(0, 5), 1, "x: PCA needs at least 2 samples, got 0"),
    (torch.tensor([[1.0, float("nan")], [0, 1]]), 1, "x: expected finite numbers"),
    (torch.tensor([[1.0, float("inf")], [0, 1]]), 1, "x: expected finite numbers"),
    (torch.arange(8).view(4, 2), 1, "x: expected a tensor .* real numbers"),
    (torch.zeros(4, 2, dtype=torch.complex64), 1, "x: expected a tensor"),
    (torch.zeros(4), 1, "x: expected a tensor"),
    (torch.zeros(4, 0), 1, "n: 4 samples of 0 numbers"),
    (None, 1, "x: expected a tensor"),
    ([[1.0, 2.0]], 1, "x: expected a tensor"),
])
def test_what_fit_refuses(x, n, message):
    with pytest.raises(ValueError, match=message) as raised: PCA(n).fit(x)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "3", None, float("nan")])
def test_n_is_a_whole_number(n):
    with pytest.raises(ConfigError, match="n is a whole number"): PCA(n)


def test_a_failed_fit_leaves_what_was_there():
    pca = PCA(2).fit(samples(20, 5))
    with pytest.raises(ValueError): pca.fit(samples(1, 5))
    assert pca.encode(samples(3, 5)).shape == (3, 2)


def test_what_encode_and_decode_refuse():
    with pytest.raises(ValueError, match="call fit"): PCA(2).encode(samples(3, 5))
    with pytest.raises(ValueError, match="call fit"): PCA(2).decode(torch.zeros(3, 2))
    pca = PCA(2).fit(torch.randn(9, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    for x in (torch.zeros(2, 3, 4, 5), torch.zeros(2, 48), torch.zeros(3, 4, 4)):
        with pytest.raises(ValueError, match=r"x: expected a tensor \(samples, 3, 4, 4\)"): pca.encode(x)
    with pytest.raises(ValueError, match="x: expected finite"): pca.encode(torch.full((1, 3, 4, 4), float("nan")))
    for codes in (torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 2, dtype=torch.long), "code"):
        with pytest.raises(ValueError, match=r"codes: expected a tensor \(samples, 2\)"): pca.decode(codes)


@pytest.mark.parametrize("config, factor", [(dict(), 8), (dict(in_channels=1, latent_channels=2, widths=(4,)), 2), (dict(widths=[4, 6, 8, 10], latent_channels=3), 16)])
def test_the_sizes_of_the_wand(config, factor):
    wand = Autoencoder(**config)
    assert wand.factor == factor
    x = torch.randn(2, wand.in_channels, 2 * factor, 3 * factor)
    z = wand.encode(x)
    assert z.shape == (2, wand.latent_channels, 2, 3)
    assert wand.decode(z).shape == wand(x).shape == x.shape
    torch.testing.assert_close(wand(x), wand.decode(z))


def test_a_gradient_reaches_every_weight():
    wand = Autoencoder(widths=(4, 6), latent_channels=2)
    (wand(torch.randn(2, 3, 8, 8)) ** 2).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in wand.parameters())


def test_weights_travel():
    one, other = Autoencoder(widths=(4, 6)), Autoencoder(widths=(4, 6))
    other.load_state_dict(one.state_dict(), strict=True)
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(one(x), other(x))


def test_no_bends_is_one_straight_map():
    """What the chapter's control rests on: without its bends the wand is affine."""
    wand = Autoencoder(widths=(4, 6), latent_channels=2).double()
    for block in wand.modules():
        for name, part in block.named_children():
            if isinstance(part, torch.nn.SiLU): setattr(block, name, torch.nn.Identity())
    a, b = torch.randn(2, 1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(wand(torch.lerp(a, b, 0.3)), torch.lerp(wand(a), wand(b), 0.3))


@pytest.mark.parametrize("x", [torch.zeros(1, 3, 12, 8), torch.zeros(1, 3, 8, 4), torch.zeros(1, 3, 0, 8)])
def test_a_size_that_cannot_be_halved(x):
    with pytest.raises(ValueError, match="x: height and width must be multiples of 8, got"): Autoencoder().encode(x)


@pytest.mark.parametrize("x", [torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 8, 3), torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.int64), None])
def test_what_the_encoder_refuses(x):
    with pytest.raises(ValueError, match=r"x: expected a tensor \(n, 3, height, width\) of real numbers"): Autoencoder()(x)


@pytest.mark.parametrize("z", [torch.zeros(1, 4, 2, 2), torch.zeros(16, 2, 2), torch.zeros(1, 16, 2, 2, dtype=torch.long)])
def test_what_the_decoder_refuses(z):
    with pytest.raises(ValueError, match=r"z: expected a tensor \(n, 16, h, w\)"): Autoencoder().decode(z)


@pytest.mark.parametrize("config, message", [
    (dict(widths=()), "widths: expected"), (dict(widths=32), "widths: expected"), (dict(widths="32"), "widths: expected"),
    (dict(widths=(0,)), r"widths\[\d\] is a whole number"), (dict(widths=(8, 2.5)), r"widths\[\d\] is a whole number"),
    (dict(in_channels=0), "in_channels is a whole number"), (dict(latent_channels="4"), "latent_channels is a whole number"),
])
def test_configs_that_make_no_wand(config, message):
    with pytest.raises(ConfigError, match=message): Autoencoder(**config)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_fit_that_fails_in_the_middle_leaves_what_was_there():
    x, signs = rand(20, 5), rand(9, 5, seed=1).sign()
    pca = PCA(2).fit(x)
    before = pca.encode(x)
    with pytest.raises(ValueError, match="x: numbers too large to be squared in torch.float32"): pca.fit(signs * 3e38)
    with pytest.raises(ValueError, match="too large"): pca.fit(3e37 * rand(9, 3, 2, 2).sign())
    assert torch.equal(pca.encode(x), before) and pca.decode(before).shape == x.shape


@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1, 1e12])
def test_shares_of_variance_do_not_depend_on_the_scale(scale):
    torch.testing.assert_close(PCA(3).fit(rand(20, 5) * scale).explained_variance_ratio_, PCA(3).fit(rand(20, 5)).explained_variance_ratio_, rtol=1e-4, atol=0)


def test_fit_keeps_neither_a_graph_nor_what_it_does_not_need():
    x = rand(60, 300).requires_grad_()
    pca = PCA(4).fit(x)
    assert not pca.components_.requires_grad and pca.components_.is_contiguous()
    assert pca.components_.untyped_storage().nbytes() == 4 * 300 * 4 and copy.deepcopy(pca).n == 4
    pca.encode(x).sum().backward()
    assert x.grad.isfinite().all() and repr(pca) == "PCA(4)"


def test_codes_keep_the_precision_of_fit():
    pca = PCA(2).fit(rand(20, 5))
    assert pca.encode(rand(20, 5).double()).dtype == pca.decode(rand(3, 2).double()).dtype == torch.float32
    with pytest.raises(ValueError, match="finite"): pca.encode(rand(20, 5).double() * 1e300)


def test_a_residual_block_adds_to_what_it_is_given():
    block = _Residual(4)
    for weight in block.parameters(): torch.nn.init.zeros_(weight)
    x = rand(2, 4, 3, 3)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("call, message", [
    (lambda wand: wand(rand(1, 3, 8, 8).half()), r"x: the weights are torch.float32, got torch.float16; x\.to"),
    (lambda wand: wand.half()(rand(1, 3, 8, 8)), r"x: the weights are torch.float16, got torch.float32"),
    (lambda wand: wand.decode(rand(1, 16, 2, 2).double()), r"z: the weights are torch.float32, got torch.float64"),
    (lambda wand: wand.decode(rand(1, 16, 2, 0)), r"z: height and width must be 1 or more, got \(2, 0\)"),
    (lambda wand: wand(rand(1, 3, 8, 8).abs() * 255), r"x: expected pictures in \[-1, 1\], got numbers from"),
])
def test_what_a_wand_refuses(call, message):
    with pytest.raises(ValueError, match=message): call(Autoencoder())


def test_a_wand_takes_its_own_precision_and_autocast():
    x = rand(1, 3, 8, 8)
    assert Autoencoder().half()(x.half()).dtype == torch.float16
    with torch.autocast("cpu", torch.bfloat16): assert Autoencoder()(x).shape == x.shape


@pytest.mark.parametrize("x", [torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.full((1, 3, 8, 8), 255.0), 3 * torch.ones(1, 3, 8, 8), torch.full((1, 3, 8, 8), float("nan"))])
def test_what_is_no_picture(x):
    with pytest.raises(ValueError, match=r"x: expected pictures in \[-1, 1\], got .*; pictures of bytes, 0 to 255, become that by"): Autoencoder()(x)
