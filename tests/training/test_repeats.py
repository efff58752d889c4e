"""R2: an environment that does not repeat its episodes is found, and the run says so."""

from dataclasses import replace

import numpy as np
import pytest

from dime.algorithms.registry import ALGORITHMS
from dime.deploy.evaluate import evaluate
from dime.envs import make
from dime.envs.environment import Environment
from dime.training.config import RunConfig, TrainingConfig
from dime.training.host.episodes import (
    KEEPS_STATE,
    NOT_TRIED,
    why_not_repeatable,
)
from dime.training.run import resume_run, start_run
from tests.training.runs import SCHEDULE, position_of, status_of
from tests.training.toy import NAME, TOY, ToyConfig
from tests.training.walk import Walk

pytestmark = pytest.mark.promise("R2")


class Worn(Walk):
    """Slips more with every step that it has ever taken."""

    def step(self, action):
        return super().step(np.asarray(action) * 0.9**self.total_steps)


class GlobalDraws(Walk):
    """Seeds NumPy's global generator, as others that use it do."""

    def reset(self, *, seed=None, options=None):
        np.random.seed(seed)
        return super().reset(seed=seed)

    def step(self, action):
        return super().step(np.asarray(action) + 0.1 * np.random.randn(2))


class Unseeded(Walk):
    """Starts where it likes."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None)


class Rewarding(Walk):
    """Only its rewards know of its past."""

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, float(self.total_steps), *rest


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Walk, None),
        (Worn, KEEPS_STATE),
        (Rewarding, KEEPS_STATE),
        (Unseeded, KEEPS_STATE),
        (GlobalDraws, KEEPS_STATE),
    ],
)
def test_why_an_episode_is_not_repeated(kind, reason):
    state = np.random.get_state()[1].tobytes()
    assert why_not_repeatable(Environment(kind())) == reason
    assert np.random.get_state()[1].tobytes() == state


def test_a_process_of_its_own_shares_nothing():
    env = make(GlobalDraws, process_timeout_s=60.0)
    assert why_not_repeatable(env) is None
    env.close()


def test_a_run_says_once_that_its_resume_is_approximate(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ALGORITHMS, "toy", TOY)
    training = TrainingConfig(**(SCHEDULE | {"batch_size": 8, "num_evaluation_episodes": 2}))
    config = RunConfig(
        env="Worn", env_is_object=True, algorithm="toy", training=training, settings=ToyConfig()
    )

    def stop(record):
        return record["env_step"] == 20

    assert start_run(config, Worn, tmp_path / "run", stop).state == "interrupted"
    stopped = status_of(tmp_path / "run")["resume"]
    assert resume_run(tmp_path / "run", Worn, {}).state == "finished"
    assert stopped == status_of(tmp_path / "run")["resume"] == f"approximate: {KEEPS_STATE}"
    assert capsys.readouterr().out.count(KEEPS_STATE) == 1
    # Its evaluations were made in new environments, as this one is.
    evaluate(tmp_path / "run", env=Worn)


def toy_run(folder, make, stop_at, **options):
    training = TrainingConfig(**(SCHEDULE | {"batch_size": 8, "num_evaluation_episodes": 2}))
    config = RunConfig(
        env="Walk",
        env_is_object=True,
        algorithm=NAME,
        training=replace(training, **options),
        settings=ToyConfig(),
    )
    start_run(config, make, folder, lambda record: record["env_step"] == stop_at)
    return status_of(folder)["resume"]


class NoEarlyResets(Walk):
    """As monitors that insist on whole episodes."""

    steps, over = 0, True

    def reset(self, *, seed=None, options=None):
        assert self.over, "reset before the episode's end"
        self.over = False
        return super().reset(seed=seed)

    def step(self, action):
        *answer, terminated, truncated, info = super().step(action)
        self.over = terminated or truncated
        return *answer, terminated, truncated, info


def test_an_environment_that_refuses_the_trial_is_trained_on(tmp_path):
    resume = toy_run(tmp_path / "run", NoEarlyResets, None, max_env_restarts=0)
    assert resume == f"approximate: {NOT_TRIED}"
    assert status_of(tmp_path / "run")["state"] == "finished"


def test_a_run_without_evaluations_has_tried_nothing(tmp_path):
    assert toy_run(tmp_path / "run", Worn, 20, evaluation_modes=()) == "not tried"


def test_a_clean_trial_later_does_not_make_a_run_exact(tmp_path):
    before = toy_run(tmp_path / "run", Worn, 20)
    assert before == f"approximate: {KEEPS_STATE}"
    resume_run(tmp_path / "run", Walk, {}, progress=False)
    assert status_of(tmp_path / "run")["resume"] == before


def test_a_run_that_repeats_itself_is_exact(straight):
    assert status_of(straight)["resume"] == "exact"
    assert position_of(straight)["unrepeatable"] is None
