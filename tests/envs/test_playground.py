"""MuJoCo Playground's tasks, outside of the learner's program and in it."""

import json

import jax
import numpy as np
import pytest

import dime
from dime.envs import make, make_env
from dime.envs.registry import list_environments
from dime.errors import DimeError
from tests import listed

pytest.importorskip("mujoco_playground")

CARTPOLE = "playground/CartpoleBalance"


def test_the_suite_is_listed():
    ids = list_environments()["playground"]
    assert ids == listed.playground()
    assert len(ids) == 25 and CARTPOLE in ids


def test_sizes_and_time_limit_are_the_suites_own():
    environment = make("playground/HumanoidRun")
    assert (environment.obs_dim, environment.action_dim) == (67, 21)
    assert environment.max_episode_steps == 1000
    assert environment.frames_per_second == 40


def test_an_episode_can_be_played_and_seen():
    environment = make(CARTPOLE, {"episode_length": 3}, render=True)
    first = environment.reset(4)
    result = environment.step([1.0])
    picture = environment.render()
    assert picture.shape == (480, 480, 3) and picture.std() > 5.0
    for _ in range(2):
        result = environment.step([1.0])
    assert result.truncated and 0.0 < result.reward <= 1.0
    assert not np.array_equal(environment.render(), picture)  # the cart has moved
    np.testing.assert_array_equal(environment.reset(4), first)
    assert not np.array_equal(environment.reset(5), first)
    environment.close()


@pytest.mark.parametrize(
    ("id", "kwargs", "words"),
    [
        ("playground/HumanoidRum", {}, "Nearest: playground/HumanoidRun"),
        ("playground/", {}, "There is no environment 'playground/'"),
        ("playground/FishSwim", {}, "The task Swim cannot be compiled"),
        (CARTPOLE, {"episode_lengths": 3}, "could not be made with .*episode_lengths"),
        (CARTPOLE, {"episode_length": "long"}, "could not be made with .*cannot be casted"),
        (CARTPOLE, {"action_repeat": 2}, "actions are not repeated"),
        (CARTPOLE, {"episode_length": 0}, "max_episode_steps is 0"),
        (CARTPOLE, {"sim_dt": -1.0}, "must be a multiple of sim_dt -1.0"),
        (CARTPOLE, {"ctrl_dt": 0.015}, "ctrl_dt 0.015 must be a multiple"),
        (CARTPOLE, {"impl": "warp"}, "needs a GPU"),
        (CARTPOLE, {"vision": True}, "pictures"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_reason(id, kwargs, words):
    with pytest.raises(DimeError, match=words):
        make_env(id, **kwargs)


def test_a_process_of_its_own_is_refused(tmp_path):
    with pytest.raises(DimeError, match="env_process does not go with"):
        dime.train(CARTPOLE, run_dir=tmp_path / "run", env_process=True)
    assert not (tmp_path / "run").exists()


@jax.debug_key_reuse(False)  # refuses scans over the keys of several seeds
def test_it_trains_in_one_program_and_is_evaluated_elsewhere(tmp_path):
    small = {"hidden_dim": 8, "num_hidden_layers": 1}
    result = dime.train(
        env=CARTPOLE,
        algorithm="sac",
        env_kwargs={"episode_length": 20},
        run_dir=tmp_path / "run",
        seeds=[0, 1],
        envs_per_seed=2,
        num_env_steps=80,
        num_random_steps=40,
        evaluate_every=40,
        num_evaluation_episodes=2,
        evaluation_modes=["deterministic"],
        log_every=40,
        policy=small,
        critic=small,
        tensorboard=False,
    )
    assert result.state == "finished"
    read = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in read]
    assert [(r["env_step"], r["seed"]) for r in records] == [
        (step, seed) for step in (0, 40, 80) for seed in (0, 1)
    ]
    assert all(r["lengths"] == [20, 20] and min(r["returns"]) > 5.0 for r in records)
    again = dime.evaluate(tmp_path / "run", "deterministic")
    for played, record in zip(again, records[-2:], strict=True):
        assert played["episode_seeds"] == record["episode_seeds"]
        np.testing.assert_allclose(played["returns"], record["returns"], rtol=1e-3)
