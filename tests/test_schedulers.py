"""Our schedulers against those of diffusers, far from the beaten track: any config, any setting, any order of calls."""
import copy
import inspect
import json
import math
import random
import warnings

import numpy as np
import pytest
import torch

from minidiff import samplers, scheduler
from minidiff.hub import ConfigError, LoadError
from minidiff.scheduler import SCHEDULER_KEYS, DDPMScheduler, Scheduler
from minidiff.samplers import (
    DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler, StepCounter)

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")
torch.set_num_threads(1)

OURS = {cls.__name__: cls for cls in (
    DDPMScheduler, DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler)}
COUNTING = [cls for cls in OURS.values() if issubclass(cls, StepCounter)]
PLMS = {"PNDMScheduler": dict(skip_prk_steps=True)}
CANVAS = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
REFUSED = ConfigError, ValueError


def make(name, **config):
    return OURS[name](**{**PLMS.get(name, {}), **config})


def toy(x, t):
    "A made-up network, smooth in the picture and the time."
    return torch.tanh(0.7*x.roll(1, -1) + 0.3*x.flip(1) + math.sin(float(t)/300))


def walk(scheduler, steps=None, start=0, learned=False, x=CANVAS, begin=None, **step):
    "Every picture on the way, and the scheduler's timesteps and levels."
    if steps is not None: scheduler.set_timesteps(steps)
    if begin is not None: scheduler.set_begin_index(begin)
    x = x*getattr(scheduler, "init_noise_sigma", 1.0)
    if "generator" in inspect.signature(scheduler.step).parameters:
        step["generator"] = torch.Generator().manual_seed(1)
    visited = []
    for t in scheduler.timesteps[start:]:
        shown = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = toy(shown, t)
        if learned: output = torch.cat([output, toy(shown.flip(2), t).abs()], 1)
        x = scheduler.step(output, t, x, **step).prev_sample
        visited.append(x)
    return visited


def same(mine, real, what):
    assert len(mine) == len(real), what
    for a, b in zip(mine, real):
        scale = b[b.isfinite()].abs().max().clamp(min=1) if b.isfinite().any() else 1
        torch.testing.assert_close(a/scale, b/scale, rtol=1e-4, atol=1e-4, equal_nan=True, msg=lambda m: f"{what}: {m}")


def compare(mine, real, steps, what):
    "Timesteps, levels and the whole way; or ours refuses in one line. True: equal; False: refused."
    learned = str(real.config.get("variance_type")).startswith("learned")
    try: visited = walk(mine, steps, learned=learned)
    except REFUSED as error:
        assert "\n" not in str(error) and str(error), what
        return False
    try: theirs = walk(real, steps, learned=learned)
    except Exception: return None  # they cannot do it at all
    assert mine.timesteps.tolist() == pytest.approx(real.timesteps.tolist(), rel=1e-5, abs=1e-3), what
    if hasattr(real, "sigmas") and hasattr(mine, "sigmas"):
        torch.testing.assert_close(mine.sigmas.float(), real.sigmas.float(), rtol=1e-4, atol=1e-4, msg=str(what))
    same(visited, theirs, what)
    return True


# --- any scheduler's config ------------------------------------------------------------------------------------------
def their_classes():
    import diffusers.schedulers as theirs
    names = sorted({name for names in theirs._import_structure.values() for name in names})
    needed = dict(mask_token_id=5, num_vec_classes=9, noise_mode="a", schedule_mode="b", tsr_k=1.0, tsr_sigma=1.0)
    made = {}
    for name in names:
        cls = getattr(theirs, name)
        if not inspect.isclass(cls) or not hasattr(cls, "from_config") or name == "SchedulerMixin": continue
        keys = inspect.signature(cls.__init__).parameters
        made[name] = cls, {k: v for k, v in needed.items() if k in keys and keys[k].default is inspect._empty}
    return made


VALUES = dict(
    num_train_timesteps=[100, 500], beta_start=[0.00085, 0.001], beta_end=[0.012, 0.03],
    beta_schedule=["scaled_linear", "squaredcos_cap_v2", "linear", "sigmoid"], clip_sample=[False, True],
    prediction_type=["v_prediction", "sample", "epsilon", "flow_prediction"], thresholding=[True, False],
    timestep_spacing=["leading", "linspace", "trailing"], steps_offset=[1], use_karras_sigmas=[True],
    use_exponential_sigmas=[True], use_beta_sigmas=[True], final_sigmas_type=["sigma_min", "zero"], sigma_min=[0.1],
    sigma_max=[9.0], rescale_betas_zero_snr=[True, False], variance_type=["fixed_large", "fixed_small_log", None],
    solver_order=[1, 2, 3], solver_type=["midpoint", "heun", "bh1", "bh2", "logrho"], lower_order_final=[False, True],
    euler_at_final=[True, False], algorithm_type=["dpmsolver++", "sde-dpmsolver++", "deis"], shift_terminal=[0.1],
    set_alpha_to_one=[True, False], skip_prk_steps=[True], lambda_min_clipped=[-5.1], sample_max_value=[0.5, 1.5],
    dynamic_thresholding_ratio=[0.9], clip_sample_range=[0.7, 2.0], predict_x0=[False], shift=[3.0],
    use_flow_sigmas=[True], flow_shift=[3.0], use_dynamic_shifting=[True], interpolation_type=["log_linear"],
    timestep_scaling=[5.0], original_inference_steps=[25], stochastic_sampling=[True], snr_shift_scale=[1.0],
    time_shift_type=["linear"], invert_sigmas=[True], timestep_type=["continuous"])


def some(random, keys, most):
    keys = sorted(set(keys) & set(VALUES))
    return {k: random.choice(VALUES[k]) for k in random.sample(keys, min(len(keys), random.randint(1, most)))}


def sources(cls, needed, chance, n):
    "Live and saved configs of a class: the default one, and `n` others."
    keys = inspect.signature(cls.__init__).parameters
    settings = [{}] + [some(chance, keys, 4) for _ in range(n)]
    for setting in settings:
        try: made = cls(**needed, **setting)
        except Exception: continue
        yield setting, made.config
        yield setting, json.loads(made.to_json_string())


def opened(cls, config):
    "From a config, with the warnings that were given."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = cls.from_config(config)
    return made, [str(w.message) for w in said if "set aside" in str(w.message)]


@pytest.mark.parametrize("source", sorted(their_classes()))
def test_a_config_of_any_class_gives_what_it_gives_in_diffusers_or_is_refused(source, request):
    chance = random.Random(source)
    equal = refused = 0
    for setting, config in sources(*their_classes()[source], chance, 12 if request.config.getoption("--long") else 2):
        for name, cls in OURS.items():
            what = f"{source} {setting} -> {name}"
            try: mine, said = opened(cls, config)
            except ConfigError as error:
                assert "\n" not in str(error), what
                refused += 1
                continue
            assert len(said) <= 1 and all("\n" not in s for s in said), what
            try: real = getattr(diffusers, name).from_config(config)
            except Exception: continue
            own = inspect.signature(cls.__init__).parameters
            for key, value in config.items():  # nothing is lost on the way to a file
                if key.startswith("_") or key in cls.fixed_config or key in own: continue
                if key in config.get("_use_default_values", ()): continue
                kept = mine.config[key]
                assert (list(kept) if isinstance(kept, tuple) else kept) == value, (what, key)
                if key in setting and value not in (None, False, *cls.other_keys.get(key, ())):
                    assert said and f"{key}=" in said[0], (what, key, said)
            steps = {"num_inference_steps": 5}["num_inference_steps"]
            equal += compare(mine, real, steps, what) is not False
    assert equal + refused


def test_every_key_of_a_scheduler_with_betas_is_known():
    for name, (cls, _) in their_classes().items():
        keys = set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}
        if "beta_start" not in keys or name.startswith("CogVideoX"): continue
        for mine in OURS.values():
            if mine is FlowMatchEulerDiscreteScheduler: continue
            assert keys <= {*mine.config_keys(), *mine.fixed_config, *SCHEDULER_KEYS}, name


# --- random settings -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", OURS)
def test_random_settings_give_what_they_give_in_diffusers_or_are_refused(name, request):
    chance, cls, real = random.Random(f"settings of {name}"), OURS[name], getattr(diffusers, name)
    keys = inspect.signature(real.__init__).parameters
    results = []
    for i in range(400 if request.config.getoption("--long") else 40):
        setting = {**PLMS.get(name, {}), **some(chance, keys, 6)}
        steps = chance.choice([1, 2, 3, 5, 7, 12, 20])
        what = f"{name}({setting}), {steps} steps"
        try: mine = cls(**setting)
        except REFUSED as error:
            assert "\n" not in str(error), what
            results.append(False)
            continue
        try: theirs = real(**setting)
        except Exception: continue
        results.append(compare(mine, theirs, steps, what))
    assert sum(r is True for r in results) > len(results)//4, results
