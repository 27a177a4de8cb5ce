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
from minidiff.checks import ConfigError, LoadError
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
    flows = type(scheduler).__name__.startswith("FlowMatch")
    mu = dict(mu=0.8) if flows and scheduler.config["use_dynamic_shifting"] else {}
    if steps is not None: scheduler.set_timesteps(steps, **mu)
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
    x = CANVAS
    if isinstance(mine, PNDMScheduler):  # in float32 their formula loses digits where almost no picture is left
        for s in (mine, real): s.alphas_cumprod = s.alphas_cumprod.double()
        real.final_alpha_cumprod, x = real.final_alpha_cumprod.double(), x.double()
    try: visited = walk(mine, steps, learned=learned, x=x)
    except REFUSED as error:
        assert "\n" not in str(error) and str(error), what
        return False
    try: theirs = walk(real, steps, learned=learned, x=x, begin=0 if hasattr(real, "set_begin_index") else None)
    except Exception: return None  # they cannot do it at all
    assert mine.timesteps.tolist() == pytest.approx(real.timesteps.tolist(), rel=1e-5, abs=1e-3), what
    if hasattr(real, "sigmas") and hasattr(mine, "sigmas"):
        torch.testing.assert_close(mine.sigmas.float(), real.sigmas.float(), rtol=1e-4, atol=1e-4, msg=str(what))
    same(visited, theirs, what)
    return True


# --- any scheduler's config ------------------------------------------------------------------------------------------
def their_classes():
    "name -> the class, and the arguments that it cannot do without"
    import diffusers.schedulers as theirs
    names = sorted({name for names in theirs._import_structure.values() for name in names})
    needed = dict(mask_token_id=5, num_vec_classes=9, noise_mode="tan", schedule_mode="log", tsr_k=1.0, tsr_sigma=1.0)
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


# ours refuse these, mostly
RARE = set("""use_beta_sigmas interpolation_type timestep_type invert_sigmas shift_terminal use_flow_sigmas flow_shift
    solver_type algorithm_type""".split())


def some(chance, keys, most, rare=1.0):
    keys = [k for k in sorted(set(keys) & set(VALUES)) if k not in RARE or chance.random() < rare]
    return {k: chance.choice(VALUES[k]) for k in chance.sample(keys, min(len(keys), chance.randint(1, most)))}


def sources(cls, needed, chance, n):
    "Live and saved configs of a class: the default one, and `n` others."
    keys = inspect.signature(cls.__init__).parameters
    settings = [{}] + [some(chance, keys, 4) for _ in range(n)]
    for setting in settings:
        try: made = cls(**{**needed, **setting})
        except Exception:
            assert setting, f"{cls.__name__}: no default"
            continue
        yield setting, made.config
        yield setting, json.loads(made.to_json_string())


def opened(cls, config):
    "From a config, with the warnings that were given."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = cls.from_config(config)
    said = [w for w in said if "set aside" in str(w.message)]
    assert all(w.filename == __file__ for w in said)
    return made, [str(w.message) for w in said]


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
            equal += compare(mine, real, 5, what) is not False
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
        setting = {**PLMS.get(name, {}), **some(chance, keys, 6, rare=0.15)}
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


# --- values that are no good -----------------------------------------------------------------------------------------
NAN, INF = float("nan"), float("inf")
NUMBERS = [NAN, INF, "a", [1], True, 1j, object()]
BAD = dict(
    num_train_timesteps=[0, -1, 1.5, 10**12, None, *NUMBERS], beta_start=[-0.1, 2, None, *NUMBERS],
    beta_end=[-0.1, 2, None, *NUMBERS], beta_schedule=[None, 3, "quadratic", ["linear"]],
    trained_betas=["a", 3, [], [0.1], [[0.1]], {}, [NAN]*1000, [1.5]*1000, [-0.1]*1000, [1.0]*1000, [None]*1000,
                   ["a"]*1000, np.zeros(1000), torch.full((999,), 0.1), torch.full((10, 100), 0.1)],
    prediction_type=[None, "v-prediction", "noise", 1, ["epsilon"]], timestep_spacing=[None, "even", 0],
    steps_offset=[-1, 0.5, None, *NUMBERS], clip_sample=["yes", 1, 0.0], thresholding=["no", 1],
    clip_sample_range=[0, -1, None, *NUMBERS], dynamic_thresholding_ratio=[-0.1, 1.1, None, *NUMBERS],
    sample_max_value=[0, -1, None, *NUMBERS], set_alpha_to_one=["x", 3], skip_prk_steps=["x", 3, False, None],
    rescale_betas_zero_snr=["x", 3], use_karras_sigmas=["x", 3], use_exponential_sigmas=["x", 3],
    use_beta_sigmas=[True, "x"], sigma_min=[0, -1, *NUMBERS], sigma_max=[0, -1, *NUMBERS],
    final_sigmas_type=[None, "one"], interpolation_type=["log_linear", 3], timestep_type=["continuous"],
    variance_type=["other", 3, ["learned"]], solver_order=[0, 4, 1.5, None, *NUMBERS[:-3]], solver_type=[None, "bh2", 1],
    algorithm_type=[None, "deis", 1], lower_order_final=["x"], euler_at_final=["x"], use_lu_lambdas=[True],
    use_flow_sigmas=[True], flow_shift=[3.0], lambda_min_clipped=[NAN, INF, "a", None, [1]], shift=[0, -1, None, *NUMBERS],
    base_shift=NUMBERS, max_shift=NUMBERS, base_image_seq_len=[0, 1.5, None, *NUMBERS],
    max_image_seq_len=[0, None, *NUMBERS], use_dynamic_shifting=["x", 3], stochastic_sampling=["x"],
    time_shift_type=[None, "cubic"], invert_sigmas=["x", 3], shift_terminal=[-0.1, 1, *NUMBERS])


@pytest.mark.parametrize("name", OURS)
def test_no_bad_config_is_silent_or_a_bare_error(name):
    cls = OURS[name]
    keys = [*cls.config_keys(), *cls.fixed_config]
    assert set(keys) <= set(BAD)
    for key in keys:
        for value in BAD[key]:
            for build in (lambda: make(name, **{key: value}),
                          lambda: cls.from_config({**PLMS.get(name, {}), key: value}),
                          lambda: cls.from_config(make(name).config, **{key: value})):
                if value is None and key in cls.fixed_config: continue
                if value is True and key == "use_beta_sigmas" in cls.config_keys(): continue  # the one that has it
                if isinstance(value, str) and value in cls.synonyms.get(key, ()): build = lambda: make(name, **{key: value})
                with pytest.raises(ConfigError) as error: build()
                assert "\n" not in str(error.value) and key in str(error.value), (key, value, str(error.value))
    with pytest.raises(ConfigError): make(name, nonsense=3)
    with pytest.raises(ConfigError, match="nonsense"): cls.from_config({"nonsense": 3})
    cls.from_config({"nonsense": None, "more": False, "and": [], "_diffusers_version": "0.0", **PLMS.get(name, {})})
    for config in (None, 5, make(name), [1]):
        with pytest.raises(ConfigError, match="config"): cls.from_config(config)


@pytest.mark.parametrize("name", [n for n in OURS if n != "FlowMatchEulerDiscreteScheduler"])
def test_betas_that_make_no_schedule_are_refused(name):
    for config in (dict(beta_start=0, beta_end=0), dict(beta_start=1e-9), dict(beta_end=1.0),
                   dict(num_train_timesteps=3, trained_betas=[0.1, 0.2])):
        with pytest.raises(ConfigError, match="beta"): make(name, **config)
    made = make(name, beta_start=0.02, beta_end=1e-4)  # falling: unusual, and no mistake
    assert made.betas[0] > made.betas[-1]
    if "rescale_betas_zero_snr" in made.config:
        with pytest.raises(ConfigError, match="num_train_timesteps"):
            make(name, num_train_timesteps=1, rescale_betas_zero_snr=True)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda b: np.array(b, np.float32)])
def test_betas_of_any_kind_are_saved_and_come_back(kind, tmp_path):
    for name in OURS:
        if name == "FlowMatchEulerDiscreteScheduler": continue
        made = make(name, num_train_timesteps=4, trained_betas=kind([0.1, 0.2, 0.25, 0.3]))
        made.save_config(tmp_path)
        back = OURS[name].from_pretrained(tmp_path)
        assert torch.equal(back.betas, made.betas) and back.config == made.config
        theirs = getattr(diffusers, name).from_pretrained(tmp_path)
        torch.testing.assert_close(theirs.betas, made.betas)


# --- folders ---------------------------------------------------------------------------------------------------------
def test_a_config_opens_from_a_folder_a_file_and_a_subfolder(tmp_path):
    made = DDIMScheduler(beta_end=0.03, clip_sample=False)
    made.save_pretrained(tmp_path/"scheduler")
    file = tmp_path/"scheduler"/"scheduler_config.json"
    for place, more in ((tmp_path/"scheduler", {}), (str(tmp_path/"scheduler"), {}), (file, {}), (str(file), {}),
                        (tmp_path, dict(subfolder="scheduler")), (str(tmp_path), dict(subfolder="scheduler"))):
        for how in (DDIMScheduler.from_config, DDIMScheduler.from_pretrained):
            assert how(place, **more).config == made.config
            assert how(place, **more, beta_end=0.02).config == {**made.config, "beta_end": 0.02}
    for bad in (tmp_path, tmp_path/"nowhere", str(tmp_path/"nowhere.json")):
        for how in (DDIMScheduler.from_config, DDIMScheduler.from_pretrained):
            with pytest.raises(LoadError): how(bad)
    file.write_text("{")
    with pytest.raises(LoadError, match="JSON"): DDIMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    for bad in (None, 5):
        with pytest.raises(ConfigError): DDIMScheduler.from_pretrained(bad)


def test_what_is_set_aside_comes_home(tmp_path):
    "DPM++ Karras -> Euler a -> a file -> diffusers' DPM++: Karras again."
    solver = DPMSolverMultistepScheduler(use_karras_sigmas=True, solver_order=3, beta_end=0.012)
    euler, said = opened(EulerAncestralDiscreteScheduler, solver.config)
    assert len(said) == 1 and "use_karras_sigmas=True" in said[0] and "solver_order=3" in said[0]
    assert "algorithm_type" not in said[0] and "beta_end" not in said[0]
    euler.save_pretrained(tmp_path)
    home = diffusers.DPMSolverMultistepScheduler.from_pretrained(tmp_path)
    assert home.config.use_karras_sigmas and home.config.solver_order == 3 and home.config.beta_end == 0.012
    again, said = opened(DPMSolverMultistepScheduler, euler.config)
    assert again.config == solver.config and not said


def test_schedulers_can_be_copied_and_pickled():
    import pickle
    for name in OURS:
        made = make(name)
        made.set_timesteps(5)
        for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            assert copied.config == made.config and dict(copied.config) == dict(made.config)
            same(walk(copied), walk(made), name)


# --- which step ------------------------------------------------------------------------------------------------------
KARRAS = dict(use_karras_sigmas=True, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
TWICE = [("DPMSolverMultistepScheduler", dict(KARRAS, beta_schedule="squaredcos_cap_v2"), 20),
         ("DPMSolverMultistepScheduler", KARRAS, 60), ("DPMSolverMultistepScheduler", KARRAS, 100),
         ("HeunDiscreteScheduler", {}, 10), ("PNDMScheduler", {}, 10), ("EulerDiscreteScheduler", KARRAS, 20),
         ("EulerAncestralDiscreteScheduler", {}, 10), ("FlowMatchEulerDiscreteScheduler", {}, 10),
         ("DPMSolverMultistepScheduler", dict(algorithm_type="sde-dpmsolver++", solver_type="heun"), 10)]


@pytest.mark.parametrize("name,config,steps", TWICE)
def test_steps_are_counted(name, config, steps):
    made = make(name, **config)
    made.set_timesteps(steps)
    assert made.step_index is None and made.begin_index is None
    for i, t in enumerate(made.timesteps):
        made.scale_model_input(CANVAS, t)
        made.step(CANVAS, t, CANVAS)
        assert made.step_index == i + 1


@pytest.mark.parametrize("name,config,steps", TWICE)
def test_a_loop_left_half_way_starts_afresh(name, config, steps):
    whole = walk(make(name, **config), steps)
    for left in (1, 2, 3, 5, steps - 1, steps):
        made = make(name, **config)
        made.set_timesteps(steps)
        if left < len(made.timesteps) and made.timesteps[0] == made.timesteps[left]: continue  # nobody could know
        for t in made.timesteps[:left]: made.step(CANVAS, t, CANVAS)
        same(walk(made), whole, f"left after {left}")
        same(walk(made), whole, "once more")


@pytest.mark.parametrize("name,config,steps", [t for t in TWICE if t[0] != "PNDMScheduler"])
def test_a_loop_that_begins_in_the_middle_is_that_of_diffusers(name, config, steps):
    for start in (0, 1, 2, steps//3, steps//2, steps - 2, steps - 1):
        mine, real = make(name, **config), getattr(diffusers, name)(**config)
        for s in (mine, real):
            s.set_timesteps(steps)
            s.set_begin_index(start)
        assert mine.begin_index == real.begin_index == start
        t = real.timesteps[start].reshape(1).repeat(2)
        method = "scale_noise" if name.startswith("Flow") else "add_noise"
        args = (CANVAS, t, CANVAS.flip(0)) if name.startswith("Flow") else (CANVAS, CANVAS.flip(0), t)
        torch.testing.assert_close(getattr(mine, method)(*args), getattr(real, method)(*args), rtol=1e-4, atol=1e-4)
        same(walk(mine, start=start), walk(real, start=start), f"{name} from {start}")
        index = mine.index_for_timestep(t[:1])
        assert index == real.index_for_timestep(t[:1]) and mine.index_for_timestep(float(t[0])) == index
        mine.set_timesteps(steps)
        assert mine.begin_index is None
        if start and (real.timesteps == t[0]).sum() == 1:  # then nobody need say where it begins
            same(walk(mine, start=start), walk(getattr(diffusers, name)(**config), steps, start=start), f"from {start}")
    for bad in (-1, 1.5, None, "a", 10**6):
        with pytest.raises(ConfigError, match="begin_index"): mine.set_begin_index(bad)


def test_a_timestep_that_occurs_twice_is_taken_as_diffusers_takes_it():
    for steps in (60, 100):
        mine, real = (cls(**KARRAS) for cls in (DPMSolverMultistepScheduler, diffusers.DPMSolverMultistepScheduler))
        for s in (mine, real): s.set_timesteps(steps)
        twice = [i for i in range(1, steps - 1) if real.timesteps[i] == real.timesteps[i + 1]]
        assert twice
        for i in twice[:5]:
            for s in (mine, real): s.set_timesteps(steps)
            t = real.timesteps[i]
            parts = CANVAS, CANVAS.flip(0), t[None]
            torch.testing.assert_close(mine.add_noise(*parts), real.add_noise(*parts), rtol=1e-4, atol=1e-4)
            a, b = (s.step(CANVAS, t, CANVAS).prev_sample for s in (mine, real))
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            assert mine.step_index == real.step_index


# --- lists of one's own ----------------------------------------------------------------------------------------------
def test_set_timesteps_takes_what_diffusers_takes():
    "A pipeline asks the signature."
    for name, cls in OURS.items():
        mine, real = (set(inspect.signature(c.set_timesteps).parameters) for c in (cls, getattr(diffusers, name)))
        assert mine & {"timesteps", "sigmas"} == real & {"timesteps", "sigmas"}, name
        assert mine <= real, name


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
@pytest.mark.parametrize("name,key,values", [
    ("DDPMScheduler", "timesteps", [999, 700, 300, 87, 1, 0]), ("DDPMScheduler", "timesteps", [5]),
    ("EulerDiscreteScheduler", "timesteps", [999, 845.5, 730, 587, 443, 310, 193, 116, 53, 13]),
    ("EulerDiscreteScheduler", "sigmas", [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.38, 0.234, 0.113, 0.0]),
    ("EulerDiscreteScheduler", "sigmas", [700.0, 54.5, 15.886, 0.173, 0.034, 0.01]),
    ("HeunDiscreteScheduler", "timesteps", [999, 845, 730, 587, 443]), ("HeunDiscreteScheduler", "timesteps", [400]),
    ("DPMSolverMultistepScheduler", "timesteps", [999, 845, 730, 587, 443, 310, 193, 116, 53, 13]),
    ("FlowMatchEulerDiscreteScheduler", "sigmas", [1.0, 0.7, 0.2]),
    ("FlowMatchEulerDiscreteScheduler", "timesteps", [1000.0, 700, 200])])
def test_lists_of_ones_own(name, key, values, kind):
    config = dict(shift=3.0) if name.startswith("Flow") else dict(beta_schedule="scaled_linear", beta_end=0.012)
    mine, real = make(name, **config), getattr(diffusers, name)(**config)
    mine.set_timesteps(**{key: kind(values)})
    real.set_timesteps(**{key: values})
    assert compare(mine, real, None, (name, key))
    if name.startswith("Flow"):
        for s in (mine, real): s.set_timesteps(**{key: values})
        parts = CANVAS, real.timesteps[[1, 1]], CANVAS.flip(0)
        torch.testing.assert_close(mine.scale_noise(*parts), real.scale_noise(*parts))


@pytest.mark.parametrize("name", ["DDPMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler",
                                  "DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_lists_that_are_no_good_are_refused(name):
    made = make(name)
    before = made.timesteps
    for bad in ([100, 87, 50, 51, 0], [5000, 3], [3, -1], [], [[5, 3]], ["a"], "abc", 5, [NAN], [5, NAN], [5, 5], [None],
                object(), torch.zeros(0), [3j]):
        with pytest.raises(ValueError) as error: made.set_timesteps(timesteps=bad)
        assert "timesteps" in str(error.value) and "\n" not in str(error.value)
    for more in (dict(num_inference_steps=3, timesteps=[5, 3]), {}):
        with pytest.raises(ValueError, match="num_inference_steps"): made.set_timesteps(**more)
    if "use_karras_sigmas" in made.config and not name.startswith("Flow"):
        with pytest.raises(ValueError, match="karras"): make(name, use_karras_sigmas=True).set_timesteps(timesteps=[5, 3])
    if name in ("DDPMScheduler", "DPMSolverMultistepScheduler"):
        with pytest.raises(ValueError, match="whole"): made.set_timesteps(timesteps=[5.5, 3])
    assert made.timesteps is before
    for bad in (0, -1, 1.5, "a", True, NAN, [5], 10**9):
        with pytest.raises(ValueError, match="num_inference_steps"): made.set_timesteps(bad)


def test_sigmas_that_are_no_good_are_refused():
    euler, flow = EulerDiscreteScheduler(), FlowMatchEulerDiscreteScheduler()
    for bad in ([1, 2], [], [5], [1, 0, 0], [1, -1], [INF, 1], ["a"], 3, [1, NAN, 0]):
        with pytest.raises(ValueError, match="sigmas"): euler.set_timesteps(sigmas=bad)
    for bad in ([0.5, 1], [], [2.0, 1], [1, 0], [1, -1], ["a"], 3, [NAN]):
        with pytest.raises(ValueError, match="sigmas"): flow.set_timesteps(sigmas=bad)
    for more in (dict(num_inference_steps=5, sigmas=[1, 0.5]), dict(sigmas=[1, 0.5], timesteps=[1000]),
                 dict(num_inference_steps=3, timesteps=[1000, 5])):
        with pytest.raises(ValueError, match="sigmas"): flow.set_timesteps(**more)
    flow.set_timesteps(2, sigmas=[1, 0.5])
    assert len(flow.timesteps) == 2
    shifting = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    for bad in (None, "a", NAN, INF, True):
        with pytest.raises(ValueError, match="mu"): shifting.set_timesteps(4, mu=bad)


def test_a_fixed_stride_that_misses_is_said():
    for name in ("DDIMScheduler", "PNDMScheduler"):
        for spacing, steps, misses in (("leading", 30, False), ("leading", 7, False), ("trailing", 20, False),
                                       ("trailing", 30, True), ("linspace", 20, True), ("trailing", 1, False)):
            made = make(name, timestep_spacing=spacing)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                made.set_timesteps(steps)
            assert len(said) == misses and all(w.filename == __file__ for w in said), (name, spacing, steps)


# --- a step ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", OURS)
def test_a_step_takes_what_it_should_and_refuses_the_rest(name):
    made = make(name)
    made.step(CANVAS, made.timesteps[0], CANVAS)  # without `set_timesteps`: all steps
    made.set_timesteps(4)
    first = made.timesteps[0]
    fresh = lambda: dict(generator=torch.Generator().manual_seed(3))
    results = []
    for t in (first, first[None], first.item(), float(first), np.float64(first), np.array([float(first)])):
        results.append(made.step(CANVAS, t, CANVAS, **fresh()))
        made.set_timesteps(4)
    assert all(torch.equal(r.prev_sample, results[0].prev_sample) for r in results)
    plain = made.step(CANVAS, first, CANVAS, return_dict=False, **fresh())
    assert isinstance(plain, tuple) and torch.equal(plain[0], results[0].prev_sample)
    for bad in (None, "a", -5, 1.2345, NAN, INF, made.timesteps[:2], True, [5], torch.tensor(True), 10**9):
        with pytest.raises(ValueError, match="timestep"): made.step(CANVAS, bad, CANVAS)
    for bad in (None, 3, CANVAS[:1], CANVAS[..., :2], CANVAS.long(), "a", [1]):
        with pytest.raises(ValueError, match="model_output"): made.step(bad, first, CANVAS)
    for bad in (None, 3, CANVAS.long(), "a", CANVAS > 0):
        with pytest.raises(ValueError, match="sample"): made.step(CANVAS, first, bad)
    for bad in (dict(nonsense=1), dict(eta=0.5) if name != "DDIMScheduler" else dict(s_churn=1)):
        with pytest.raises(TypeError, match=next(iter(bad))): made.step(CANVAS, first, CANVAS, **bad)


def test_noise_that_is_no_good_is_refused():
    dicey = [(make("DDPMScheduler"), {}), (make("DDIMScheduler"), dict(eta=1.0)),
             (make("EulerAncestralDiscreteScheduler"), {}),
             (make("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"), {}),
             (make("FlowMatchEulerDiscreteScheduler", stochastic_sampling=True), {})]
    for made, more in dicey:
        made.set_timesteps(3)
        t = made.timesteps[0]
        for bad in (5, "a", [torch.Generator()]*3, [], [5, 6]):
            with pytest.raises(ValueError, match="generator"): made.step(CANVAS, t, CANVAS, generator=bad, **more)
        seeds = lambda *s: [torch.Generator().manual_seed(k) for k in s]
        both = made.step(CANVAS, t, CANVAS, generator=seeds(1, 2), **more).prev_sample
        made.set_timesteps(3)
        second = made.step(CANVAS[1:], t, CANVAS[1:], generator=seeds(2), **more).prev_sample
        torch.testing.assert_close(both[1:], second)
    ddim = dicey[1][0]
    for bad in (-0.1, 1.5, NAN, "a", None, True):
        with pytest.raises(ValueError, match="eta"): ddim.step(CANVAS, ddim.timesteps[0], CANVAS, eta=bad)
    for bad in (CANVAS[:1], 3, "a"):
        with pytest.raises(ValueError, match="variance_noise"):
            ddim.step(CANVAS, ddim.timesteps[0], CANVAS, eta=1, variance_noise=bad)
    with pytest.raises(ValueError, match="variance_noise"):
        ddim.step(CANVAS, ddim.timesteps[0], CANVAS, eta=1, variance_noise=CANVAS, generator=torch.Generator())


@pytest.mark.parametrize("name", OURS)
def test_add_noise_refuses_what_is_no_good(name):
    made = make(name)
    made.set_timesteps(4)
    t = made.timesteps[[1, 2]]
    assert made.add_noise(CANVAS, CANVAS, t).shape == CANVAS.shape
    assert made.add_noise(CANVAS, CANVAS, t[:1]).shape == CANVAS.shape
    assert torch.equal(made.add_noise(CANVAS, CANVAS, t[0].item()), made.add_noise(CANVAS, CANVAS, t[[0, 0]]))
    for bad in (None, "a", [5000, 2], [-1, 3], [NAN, 1], True, torch.tensor([True, False]), 5j, t.repeat(2)[:3], t[:0]):
        with pytest.raises(ValueError, match="timestep"): made.add_noise(CANVAS, CANVAS, bad)
    assert made.add_noise(CANVAS[:0], CANVAS[:0], t[:0]).shape == CANVAS[:0].shape
    for bad in (None, 3, CANVAS[:1], CANVAS.long()):
        with pytest.raises(ValueError, match="noise"): made.add_noise(CANVAS, bad, t)
        if bad is CANVAS[:1]: continue
        with pytest.raises(ValueError, match="original_samples|noise"): made.add_noise(bad, CANVAS, t)


def test_functions_of_the_chapter_refuse_what_is_no_good():
    made, t = make("DDPMScheduler"), torch.tensor([3, 5])
    for bad in (None, "a", CANVAS[:1], CANVAS.long(), CANVAS*1j):
        with pytest.raises(ValueError, match="noise"): scheduler.training_target(made, CANVAS, bad, t)
        with pytest.raises(ValueError, match="x0|noise"): scheduler.training_target(made, bad, CANVAS, t)
        if torch.is_tensor(bad) and len(bad) == 1: continue
        with pytest.raises(ValueError, match="noise"): scheduler.sample(lambda x, t: x, made, bad, 2)
        with pytest.raises(ValueError, match="x0"): scheduler.dynamic_threshold(bad)
    for bad in (-0.1, 2, "a", None):
        with pytest.raises(ConfigError, match="ratio"): scheduler.dynamic_threshold(CANVAS, bad)
    betas = torch.linspace(0.1, 0.2, 5)
    assert scheduler.rescale_zero_terminal_snr(betas)[-1] == 1
    for bad in (None, "a", 5, betas[:0], betas[:1], betas > 0, betas*0, betas + 2, betas.long(), betas[None]):
        with pytest.raises(ValueError, match="betas"): scheduler.rescale_zero_terminal_snr(bad)


def test_what_the_network_says_has_a_name_or_is_refused():
    for kind in ("v-prediction", "noise", None, 3, "flow"):
        with pytest.raises(ConfigError): scheduler.prediction_target(kind, CANVAS, CANVAS, 0.8, 0.6)
        with pytest.raises(ConfigError): scheduler.split_mixture(kind, CANVAS, CANVAS, 0.8, 0.6)


@pytest.mark.parametrize("dtype,share", [(torch.float16, 0.01), (torch.bfloat16, 0.08)])
@pytest.mark.parametrize("name", [n for n in OURS if "thresholding" in OURS[n].config_keys()])
def test_thresholding_in_half_precision_ends_near_the_same_pictures(name, dtype, share):
    for most in (0.5, 1.0, 2.0):
        config = dict(thresholding=True, sample_max_value=most, prediction_type="sample")
        made = make(name, **config)
        full, half = walk(made, 6)[-1], walk(make(name, **config), 6, x=CANVAS.to(dtype))[-1]
        assert half.dtype == dtype and (half.float() - full).norm() < share*full.norm()
        same(walk(made, 6), walk(getattr(diffusers, name)(**config), 6), (name, most))
    with pytest.raises(ValueError, match="pictures"):
        made.step(torch.randn(5), made.timesteps[0], torch.randn(5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [n for n in OURS if n != "PNDMScheduler"])
def test_a_step_in_half_precision_is_one_in_float32_rounded_at_the_end(name, dtype):
    for prediction in ("epsilon", "v_prediction", "sample"):
        config = {} if name.startswith("Flow") else dict(prediction_type=prediction)
        half, full = make(name, **config), make(name, **config)
        x, output = CANVAS.to(dtype), CANVAS.flip(1).to(dtype)
        for made in (half, full): made.set_timesteps(7)
        t = half.timesteps[3]
        a = half.step(output, t, x, generator=torch.Generator().manual_seed(0)).prev_sample
        dicey = name in ("DDPMScheduler", "EulerAncestralDiscreteScheduler")  # noise drawn in half precision
        share = 0.02 if dicey else 0
        b = full.step(output.float(), t, x.float(), generator=torch.Generator().manual_seed(0)).prev_sample.to(dtype)
        torch.testing.assert_close(a, b, rtol=share, atol=share)


def test_ends_of_the_levels_that_a_class_has_no_key_for_are_not_half_obeyed():
    "diffusers reads sigma_min from a config that is not its own."
    for ends in (dict(sigma_min=0.1), dict(sigma_max=9.0)):
        for respace in (dict(use_karras_sigmas=True), dict(use_exponential_sigmas=True)):
            config = EulerDiscreteScheduler(**ends, **respace).config
            for cls in (HeunDiscreteScheduler, DPMSolverMultistepScheduler):
                with pytest.raises(ConfigError, match=next(iter(ends))): cls.from_config(config)
            opened(EulerAncestralDiscreteScheduler, config)
        for cls in (HeunDiscreteScheduler, DPMSolverMultistepScheduler):  # with no respacing they mean nothing
            made, said = opened(cls, EulerDiscreteScheduler(**ends).config)
            assert len(said) == 1 and next(iter(ends)) in said[0]
