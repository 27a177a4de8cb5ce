"The one sampling loop: `minidiff.scheduler.sample`."
import pytest
import torch

from minidiff import samplers
from minidiff.scheduler import DDPMScheduler, sample

NOISE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
KINDS = [DDPMScheduler, samplers.DDIMScheduler, samplers.EulerAncestralDiscreteScheduler,
         samplers.HeunDiscreteScheduler, samplers.DPMSolverMultistepScheduler]


def seeded():
    return torch.Generator().manual_seed(1)


def network(x, t):
    return torch.tanh(x.roll(1, -1) + t / 1000)


def by_hand(scheduler, x, timesteps):
    generator = seeded()
    for t in timesteps:
        output = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_timesteps_that_are_set_already_give_the_same_as_their_number(kind):
    scheduler = kind()
    whole = sample(network, scheduler, NOISE, 7, seeded())
    scheduler.set_timesteps(7)
    start = NOISE * scheduler.init_noise_sigma
    again = sample(network, scheduler, start, generator=seeded(), timesteps=scheduler.timesteps)
    assert torch.equal(whole, again)
    scheduler.set_timesteps(7)
    assert torch.equal(whole, by_hand(scheduler, start, scheduler.timesteps))


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_start(kind):
    scheduler = kind()
    scheduler.set_timesteps(8)
    tail = scheduler.timesteps[3 * scheduler.order:]
    x = scheduler.add_noise(NOISE.clamp(-1, 1), NOISE, tail[:1])
    ours = sample(network, scheduler, x, generator=seeded(), timesteps=tail)
    scheduler.set_timesteps(8)
    assert torch.equal(ours, by_hand(scheduler, x, tail))


def test_what_the_callback_returns_goes_on():
    scheduler, seen = DDPMScheduler(), []

    def watch(i, t, output):
        seen.append((i, int(t)))
        if i == 1: return torch.zeros_like(output.prev_sample)

    ends = sample(network, scheduler, NOISE, 4, seeded(), on_step=watch)
    assert seen == [(0, 750), (1, 500), (2, 250), (3, 0)]
    generator = seeded()
    for _ in range(2): torch.randn(NOISE.shape, generator=generator)
    rest = sample(network, scheduler, torch.zeros_like(NOISE), generator=generator,
                  timesteps=scheduler.timesteps[2:])
    assert torch.equal(ends, rest)


def test_any_iterable_of_timesteps_so_a_caller_can_stop():
    scheduler, count = DDPMScheduler(), []

    def until_three():
        for t in scheduler.timesteps:
            if len(count) == 3: return
            yield t

    scheduler.set_timesteps(10)
    sample(network, scheduler, NOISE, generator=seeded(), timesteps=until_three(),
           on_step=lambda *_: count.append(1))
    assert len(count) == 3


def test_a_scheduler_that_takes_no_generator():
    class Plain(DDPMScheduler):
        def step(self, model_output, timestep, sample):
            return super().step(model_output, timestep, sample)

    assert sample(network, Plain(), NOISE, 2).shape == NOISE.shape
