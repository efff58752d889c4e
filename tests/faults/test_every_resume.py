"""Every listed algorithm: two seeds in one program, stopped and resumed, bit for bit."""

import pytest

from dime.algorithms.registry import ALGORITHMS
from dime.training.presets import make_config
from dime.training.run import resume_run, start_run
from tests.algorithms.small import small_options
from tests.training.runs import SCHEDULE, assert_same_run, read_lines, shared_programs, status_of
from tests.training.walk import at, walks

pytestmark = pytest.mark.promise("R2")

LOOP = SCHEDULE | {
    "batch_size": 8,
    "replay_capacity": 20,  # it is full long before the end
    "seeds": [0, 7],
    "num_evaluation_episodes": 1,
    "updates_per_env_step": 2,
}
COMMON = {"env_step", "seed", "updates", "critic_loss", "critic_gradient_norm", "q_mean"}


# DIPO writes back into the replay, BRO resets, DACER keeps an estimate between updates.
QUICK = ("dime", "dipo")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.soak] * (name not in QUICK)) for name in ALGORITHMS],
)
def test_stopped_and_resumed_is_as_undisturbed(name, tmp_path, brake):
    algorithm = ALGORITHMS[name]
    options = LOOP | small_options(algorithm.config())

    def start(folder, env):
        config = make_config(env, name, "laptop", **options)
        return start_run(config, env, tmp_path / folder, progress=False)

    with shared_programs():
        assert start("straight", walks()).state == "finished"
        stopped = start("run", walks(at(1, 29, brake)))
        assert (stopped.state, stopped.env_step) == ("interrupted", 29)
        resumed = resume_run(tmp_path / "run", walks(), {}, progress=False)
    assert (resumed.state, resumed.env_step) == ("finished", 48)
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    assert status_of(tmp_path / "run")["state"] == "finished"

    metrics = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert {record["seed"] for record in metrics} == {0, 7}
    assert COMMON <= set(metrics[-1])
    evaluations = read_lines(tmp_path / "run" / "evaluations.jsonl")
    assert {(record["env_step"], record["mode"]) for record in evaluations} == {
        (env_step, mode) for env_step in (0, 16, 32, 48) for mode in algorithm.default_modes
    }
