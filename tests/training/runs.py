"""Tiny runs for tests: started, resumed, compared. All of one size, so that they share programs.

They train the toy algorithm, which compiles in a second, unless a test is about a real one.
"""

import contextlib
import dataclasses
import functools
import json
import signal

import jax
import numpy as np
import pytest
import safetensors.numpy

import dime.training.device
import dime.training.host.learners
import dime.training.loop
from dime.algorithms.registry import ALGORITHMS, find_algorithm
from dime.training.device import DevicePrograms
from dime.training.host.programs import Programs
from dime.training.presets import make_config
from dime.training.run import resume_run, start_run
from dime.types import EnvSpec
from tests.training.toy import NAME
from tests.training.walk import walks

LOOP = {
    "batch_size": 8,
    "replay_capacity": 20,
    "num_evaluation_episodes": 2,
    "evaluation_modes": ["stochastic", "deterministic", "best_of_n"],
}
DIME_SIZES = LOOP | {
    "policy": {"num_denoising_steps": 2, "hidden_dim": 8, "num_hidden_layers": 1},
    "critic": {
        "hidden_dim": 8,
        "num_hidden_layers": 1,
        "num_atoms": 11,
        "v_min": -50.0,
        "v_max": 50.0,
    },
    "num_action_candidates": 2,
}
SCHEDULE = {
    "num_env_steps": 48,
    "num_random_steps": 12,
    "evaluate_every": 16,
    "log_every": 10,
    "checkpoint_every": 15,
    "max_env_restarts": 0,
    "tensorboard": False,
}
OPTIONS = {"algorithm": NAME} | LOOP | SCHEDULE
DIME = {"algorithm": "dime"} | DIME_SIZES | SCHEDULE
RECORDS = ("metrics.jsonl", "evaluations.jsonl")


def as_words(options, prefix="--"):
    """Options as the command line takes them."""
    words = []
    for name, value in options.items():
        flag = prefix + name.replace("_", "-")
        if isinstance(value, dict):
            words += as_words(value, f"{flag}.")
        elif isinstance(value, bool):
            words.append(flag if value else f"{prefix}no-{name}")
        elif isinstance(value, list | tuple):
            words += [flag, *map(str, value)]
        else:
            words += [flag, str(value)]
    return words


def agent_of(config, obs_dim=2, action_dim=2):
    """The agent of a run's config; by default on walks."""
    spec = EnvSpec(obs_dim, action_dim, config.training.replay_capacity)
    return find_algorithm(config.algorithm).make(config.settings, spec)


_programs = {}
_MOST_PROGRAMS = 12  # compiled code takes memory maps, of which a process has 65 530


def _kept(key, make):
    """What `make` made for this key, compiled under the same settings, if that is not long ago."""
    key = (key, jax.config.read("jax_disable_most_optimizations"))  # rounds otherwise
    made = _programs.pop(key) if key in _programs else make()
    _programs[key] = made  # the newest
    while len(_programs) > _MOST_PROGRAMS:
        del _programs[next(iter(_programs))]
    return made


_cached = functools.cache(functools.cache)  # one cache for each algorithm's `make`


def _shared(agent, config, spec, num_seeds):
    """Programs are compiled once for everything that they depend on."""
    storage = config.effective_capacity, config.replay_dtype
    relevant = (storage, config.num_evaluation_episodes, config.batch_size)
    relevant += (config.evaluation_modes, config.updates_per_round)
    relevant += (config.overlap, config.matmul_precision)
    key = (agent.init, relevant, spec, num_seeds)  # a function of its own for each agent
    # JAX's check for reused keys refuses every vmapped scan over keys, also `split` and scan.
    with jax.debug_key_reuse(num_seeds == 1):
        return _kept(key, lambda: Programs(agent, config, spec, num_seeds))


def _shared_on_device(context, keys):
    """The same for programs with environments in them, which depend on more."""
    config = dataclasses.asdict(context.config)
    config |= {"seeds": None, "num_env_steps": context.config.effective_capacity}
    key = (context.task, context.time_limit, context.agent.init, repr(config), context.spec)
    key += (keys.shape,)
    with jax.debug_key_reuse(False):  # refuses scans over keys
        return _kept(key, lambda: DevicePrograms(context, keys))


_initialisers = {}


def _shared_partial(function, agent):
    """The same object for the same agent, so that `jit` finds what it has compiled for it."""
    return _initialisers.setdefault((function, agent.init), functools.partial(function, agent))


@contextlib.contextmanager
def shared_programs():
    """Inside, runs of the same sizes in this process share compiled programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dime.training.host.learners, "Programs", _shared)
        patch.setattr(dime.training.host.learners, "partial", _shared_partial)
        patch.setattr(dime.training.device, "DevicePrograms", _shared_on_device)
        for name, algorithm in ALGORITHMS.items():
            algorithm = dataclasses.replace(algorithm, make=_cached(algorithm.make))
            patch.setitem(ALGORITHMS, name, algorithm)
        yield


def start(folder, env=None, callback=None, progress=False, **options):
    """Trains in `folder`, on walks and with the toy algorithm if nothing else is given."""
    env = env or walks()
    config = make_config(env, **(OPTIONS | options))
    with shared_programs():
        return start_run(config, env, folder, callback, progress)


def resume(folder, env=None, callback=None, **changes):
    """Continues what `start` began."""
    with shared_programs():
        return resume_run(folder, env or walks(), changes, callback, progress=False)


class Brake:
    """Asks the run that is going on to stop, as SIGTERM does, but without the delay of a signal."""

    def __init__(self, monkeypatch):
        brake = self

        class Known(dime.training.loop.Interruption):
            def __init__(self, leave):
                super().__init__(leave)
                brake.interruption = self

        monkeypatch.setattr(dime.training.loop, "Interruption", Known)

    def __call__(self):
        self.interruption.requested = signal.SIGTERM


def checkpoints(run_dir):
    """Folders of the complete checkpoints, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-*"))


def arrays_of(run_dir, checkpoint=None):
    """Every array of the newest checkpoint by name; transitions by their number.

    Read without the package's own reader, which may share a mistake with its writer.
    """
    folder = checkpoint or checkpoints(run_dir)[-1]
    arrays = {}
    for name in ("state", "episodes"):
        loaded = safetensors.numpy.load_file(folder / f"{name}.safetensors")
        arrays |= {f"{name}/{key}": value for key, value in loaded.items()}
    run = json.loads((folder / "run.json").read_text())
    capacity = json.loads((run_dir / "config.json").read_text())["training"]["replay_capacity"]
    for segment in json.loads((folder / "manifest.json").read_text())["content"]["replay"]:
        rows = safetensors.numpy.load_file(run_dir / "checkpoints" / "replay" / segment["file"])
        for number in range(max(segment["start"], run["env_step"] - capacity), segment["stop"]):
            for key, value in rows.items():
                arrays[f"replay/{number}/{key}"] = value[:, number - segment["start"]]
    return arrays


def position_of(run_dir):
    """The newest checkpoint's counters and positions, but for times and sizes of files."""
    position = json.loads((checkpoints(run_dir)[-1] / "run.json").read_text())
    return {name: v for name, v in position.items() if name not in ("wall_time_s", "record_bytes")}


def read_lines(file):
    """The records of a file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def without_times(records):
    """The records without what a clock measured: names that end in _s."""
    return [{k: v for k, v in record.items() if not k.endswith("_s")} for record in records]


def status_of(run_dir):
    """The content of status.json."""
    return json.loads((run_dir / "status.json").read_text())


def assert_no_record_twice(run_dir):
    """No (env_step, mode, seed) stands twice in the records."""
    for name in RECORDS:
        places = [(r["env_step"], r.get("mode"), r["seed"]) for r in read_lines(run_dir / name)]
        assert len(set(places)) == len(places), f"{name}: {places}"


def assert_same_arrays(one, other):
    """Bit for bit, with the same names, shapes and types."""
    assert set(one) == set(other)
    for name, array in one.items():
        assert (array.shape, array.dtype) == (other[name].shape, other[name].dtype), name
        assert array.tobytes() == other[name].tobytes(), name


def assert_same_run(one, other):
    """The newest checkpoints and all records of two runs are equal, but for times."""
    assert_same_arrays(arrays_of(one), arrays_of(other))
    assert position_of(one) == position_of(other)
    for name in RECORDS:
        mine, others = (without_times(read_lines(run / name)) for run in (one, other))
        assert mine == others, name
        assert_no_record_twice(one)
    timeless = [
        {k: v for k, v in status_of(run).items() if k not in ("wall_time_s", "process")}
        for run in (one, other)
    ]
    assert timeless[0] == timeless[1]


def assert_finite(arrays):
    """No NaN and no infinity anywhere."""
    for name, array in arrays.items():
        assert np.isfinite(array).all(), name
