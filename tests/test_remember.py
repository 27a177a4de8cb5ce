"A painting's text is heard once: `remember_text`; and `attend`, whichever way it takes."
import pytest
import torch
import torch.nn.functional as F

from minidiff import pipeline as course
from minidiff.conditioning import ControlNetModel, remember_text
from minidiff.latent_diffusion import open_run
from minidiff.lora import LoRALinear, add_lora
from minidiff.sd_unet import Attention, UNet2DConditionModel, attend, record_attention

PROMPTS = ["a red circle above a blue square", "a pink star"]


@pytest.fixture(scope="module")
def pipe(): return open_run(device="cpu")


@pytest.fixture
def forgets(monkeypatch):
    """Leave out what is tested."""
    def off(): monkeypatch.setattr(course, "remember_text", lambda states, *models: states)
    return off


def paint(pipe, **more):
    generator = torch.Generator().manual_seed(0)
    return pipe(PROMPTS, num_inference_steps=4, guidance_scale=2.0, output_type="latent", generator=generator, **more)


def calls(pipe, layer, do):
    """How often `layer` multiplies, by its weight."""
    seen, linear = [], F.linear
    def count(x, weight, *rest):
        if weight is layer.weight: seen.append(1)
        return linear(x, weight, *rest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "linear", count)
        found = do()
    return len(seen), found


def ear(pipe): return next(m for name, m in pipe.unet.named_modules() if name.endswith("attn2"))


def test_the_same_picture_and_each_layer_hears_the_text_once(pipe, forgets):
    layers = ear(pipe).to_k, ear(pipe).to_v, pipe.unet.add_embedding.proj, ear(pipe).to_q
    kept = [calls(pipe, layer, lambda: paint(pipe)) for layer in layers]
    forgets()
    plain = [calls(pipe, layer, lambda: paint(pipe)) for layer in layers]
    assert [n for n, _ in kept] == [1, 1, 1, 4] and [n for n, _ in plain] == [4] * 4
    for _, picture in kept: assert torch.equal(picture, plain[0][1])


@pytest.mark.parametrize("change", ["new", "in place", "scale"])
def test_a_callback_that_changes_what_is_heard(pipe, forgets, change):
    other = pipe.encode_prompt(["a big green heart"] * 2 + ["a yellow ring"] * 2)
    def turn(pipe, step, t, inputs):
        if step != 1: return {}
        if change == "scale": pipe._guidance_scale = 1.0
        if change == "in place": inputs["prompt_embeds"].copy_(other)
        return {"prompt_embeds": other} if change == "new" else {}
    told = dict(callback_on_step_end=turn, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    kept = paint(pipe, **told)
    forgets()
    assert torch.equal(kept, paint(pipe, **told)) and not torch.equal(kept, paint(pipe))


@pytest.mark.parametrize("what", ["weights", "lora", "hook", "data", "autocast"])
def test_a_callback_that_changes_who_hears(what, forgets):
    """After each callback all is heard anew."""
    def turn(pipe, step, t, inputs):
        if step != 1: return {}
        if what == "weights": ear(pipe).to_v.weight.data.mul_(2)
        if what == "lora":
            torch.manual_seed(0)
            for weight in add_lora(pipe.unet, 4): torch.nn.init.normal_(weight, std=0.1)
        if what == "hook": ear(pipe).to_v.register_forward_hook(lambda module, given, output: output * 2)
        if what == "data": inputs["prompt_embeds"].data.mul_(1.3)
        if what == "autocast": half.__exit__(None, None, None)
        return {}
    def painted():
        own = open_run(device="cpu")
        if what == "autocast": half.__enter__()
        return paint(own, callback_on_step_end=turn, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    half = torch.autocast("cpu", torch.bfloat16)
    kept, plain = painted(), paint(open_run(device="cpu"))
    forgets()
    assert torch.equal(kept, painted()) and not torch.equal(kept, plain)


def test_what_a_callback_is_given_is_plain(pipe, tmp_path):
    seen = []
    paint(pipe, callback_on_step_end=lambda pipe, i, t, inputs: seen.append(inputs["prompt_embeds"]) or {}, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert not any(hasattr(states, "heard") for states in seen)
    torch.save(seen[0].clone(), tmp_path / "text.pt")
    assert torch.equal(torch.load(tmp_path / "text.pt"), seen[0])


@pytest.mark.parametrize("how", ["subclass", "forward", "dropout"])
def test_a_layer_that_is_not_plain_is_asked_every_time(how, forgets):
    class Swing(torch.nn.Linear):
        asked = 0
        def forward(self, x):
            self.asked += 1
            return super().forward(x) * (1 + 0.1 * self.asked)
    def painted():
        own = open_run(device="cpu")
        layer = ear(own)
        if how == "subclass": layer.to_k.__class__ = Swing
        if how == "forward":
            old, calls = layer.to_v.forward, []
            layer.to_v.forward = lambda x: old(x) * len(calls.append(1) or calls)
        if how == "dropout": layer.to_v = torch.nn.Sequential(layer.to_v, torch.nn.Dropout(0.5)).train()
        torch.manual_seed(3)
        return paint(own)
    kept = painted()
    forgets()
    assert torch.equal(kept, painted())


def test_nothing_stays_behind(pipe):
    """Neither on the caller's text nor in the layers: another training, another painting."""
    states = pipe.encode_prompt(PROMPTS)
    both = dict(prompt_embeds=states, negative_prompt_embeds=states.flip(0), num_inference_steps=2, output_type="latent")
    noise = pipe.start_latents(2, generator=torch.Generator().manual_seed(0))
    before = pipe(latents=noise, **both)
    assert not hasattr(states, "heard")
    layer = ear(pipe).to_v
    old = layer.weight.detach().clone()
    try:
        with torch.no_grad(): layer.weight *= 2
        assert not torch.equal(pipe(latents=noise, **both), before)
    finally:
        with torch.no_grad(): layer.weight.copy_(old)
    assert torch.equal(pipe(latents=noise, **both), before)


def test_who_looks_sees_every_call(pipe):
    seen = []
    handle = ear(pipe).to_k.register_forward_hook(lambda *_: seen.append(1))
    try: paint(pipe)
    finally: handle.remove()
    assert len(seen) == 4
    with record_attention(pipe.unet) as maps: paint(pipe)
    assert len(maps) % 4 == 0 and maps


def test_a_lora_and_gradients_are_asked_every_time(pipe):
    states = pipe.encode_prompt(PROMPTS)
    assert hasattr(remember_text(states, pipe.unet), "heard") and not hasattr(states, "heard")
    layer = Attention(16, 8, 2, 8)
    layer.to_k.__class__, layer.to_k.lora_A = LoRALinear, torch.nn.Identity()
    assert not hasattr(remember_text(states, torch.nn.ModuleDict(dict(attn2=layer))), "heard")
    net = Attention(16, 8, 2, 8)
    text = torch.randn(1, 5, 8)
    text.heard = {}
    with torch.no_grad(): net(torch.randn(1, 4, 16), text)
    assert len(text.heard) == 2
    net(torch.randn(1, 4, 16), text).sum().backward()
    assert net.to_k.weight.grad is not None
    plain = paint(pipe)
    with torch.inference_mode(): assert torch.equal(paint(pipe), plain)


def test_a_controlnet_hears_it_too(pipe, forgets):
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config({**pipe.unet.config, "addition_embed_type": None})
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64))
    told = dict(controlnet=net, image=torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    kept = paint(pipe, **told)
    forgets()
    assert torch.equal(kept, paint(pipe, **told))


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float64, 1e-12)])
@pytest.mark.parametrize("keys", [1, 24, 32, 80, 81, 512, 513])
def test_both_ways_to_attend_are_one(dtype, atol, keys):
    q, k, v = (torch.randn(2, 3, n, 16, generator=torch.Generator().manual_seed(n)) for n in (7, keys, keys))
    mask = torch.zeros(2, 1, 1, keys)
    mask[1, ..., keys // 2 + 1:] = -10000.0
    for given in (None, mask):
        q1, k1, v1 = (x.to(dtype).requires_grad_() for x in (q, k, v))
        found = attend(q1, k1, v1, None if given is None else given.to(dtype))
        want = F.scaled_dot_product_attention(*(x.to(dtype).to(torch.float64) for x in (q, k, v)), None if given is None else given.double())
        torch.testing.assert_close(found.double(), want, rtol=0, atol=atol)
        found.float().square().sum().backward()
        assert all(x.grad.isfinite().all() for x in (q1, k1, v1))


def test_on_a_cpu_few_keys_take_plain_products(monkeypatch):
    fused = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, mask=None: fused.append((q.dtype, k.shape[-2])) or v[..., :1, :].expand_as(q))
    def ask(dtype, sizes=(32, 33, 256, 257), mask=None):
        fused.clear()
        for keys in sizes: attend(torch.zeros(1, 1, 2, 8, dtype=dtype), *torch.zeros(2, 1, 1, keys, 8, dtype=dtype), mask)
        return [keys for _, keys in fused]
    for learns in (True, False):
        with torch.set_grad_enabled(learns):
            assert ask(torch.float32) == [33, 256, 257] and ask(torch.bfloat16) == [257] and ask(torch.float16) == [32, 33, 256, 257]
    for mask in (torch.ones(1, 1, 2, 5, dtype=torch.bool), torch.zeros(1, 1, 2, 5)): assert ask(torch.float32, (5,), mask) == [5]


def test_a_mask_of_truths_leaves_out():
    q, k, v = torch.randn(3, 2, 3, 5, 8)
    seen = torch.rand(2, 1, 5, 5) > 0.4
    seen[..., 0] = True
    torch.testing.assert_close(attend(q, k, v, seen), attend(q, k, v, torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))))


def test_who_may_look_at_nothing_gets_nothing():
    q, k, v = torch.randn(3, 1, 2, 5, 8)
    mask = torch.zeros(5, 5)
    mask[2] = float("-inf")
    assert (attend(q, k, v, mask)[..., 2, :] == 0).all() and attend(q, k, v, mask).isfinite().all()


def test_exported_with_any_number_of_tokens():
    net = Attention(16, 8, 2, 8).eval()
    x, text = torch.randn(1, 40, 16), torch.randn(1, 24, 8)
    with torch.no_grad():
        made = torch.export.export(net, (x, text), dynamic_shapes=({}, {1: torch.export.Dim("tokens", min=2, max=500)})).module()
        for n in (5, 24, 100):
            text = torch.randn(1, n, 8)
            torch.testing.assert_close(made(x, text), net(x, text))
