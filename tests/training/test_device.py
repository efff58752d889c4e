"""Runs whose environments are in the learner's program: the same runs as on the host."""

import dataclasses
import itertools
import json
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dime.training.device
import dime.training.host.episodes
from dime.envs.environment import Environment
from dime.envs.jax_env import JaxEnv, step_task
from dime.errors import DimeError
from dime.training.config import TrainingConfig
from dime.training.device import DeviceLearners, Pace, _newest, episode_key
from dime.training.faults import state_of
from dime.training.host.episodes import TRAINING, episode_seed
from dime.training.host.evaluation import evaluation_seeds, run_episodes
from dime.training.host.learners import HostLearners
from dime.training.presets import make_config
from dime.types import Counters, Delayed
from tests.training import runs
from tests.training.jax_walk import EPISODE_STEPS, TASK, JaxWalk, jax_walk
from tests.training.runs import (
    OPTIONS,
    agent_of,
    arrays_of,
    position_of,
    read_lines,
    resume,
    shared_programs,
    start,
    status_of,
    without_times,
)
from tests.training.walk import walks

TOY = OPTIONS | {
    "evaluation_modes": ["stochastic"],
    "seeds": [0],
    "updates_per_env_step": 1,
}
DIME = runs.DIME | {"evaluation_modes": ["stochastic"]}
WHOLE = {"log_every": 12, "checkpoint_every": 12, "num_random_steps": 12, "evaluate_every": 24}


@pytest.fixture(autouse=True)
def compiled_once():
    with shared_programs():
        yield


def config_of(algorithm=TOY, **options):
    config = make_config("walk", **algorithm)
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **options))


def on_device(config, env=None):
    environment = Environment(env or jax_walk())
    learners = DeviceLearners(config.training, agent_of(config), environment, None)
    learners.compile()
    learners.begin()
    return learners


def steps(learners, count, at_a_time=1000):
    """`count` env steps in calls of at most so many."""
    failures, end = {}, learners.env_step + count
    while learners.env_step < end:
        events = learners.step(min(at_a_time, end - learners.env_step))
        failures |= {failure.seed: failure for failure in events}
    return failures


def played(learners, mode, seeds):
    """The results of an evaluation."""
    *_, results = learners.evaluation(mode, seeds)
    return results


def stored(learners, index=0):
    """The seed's transitions so far, which the ring holds all."""
    return jax.tree.map(lambda ring: np.asarray(ring[index, : learners.env_step]), learners.replay)


def assert_near(one, other):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), one, other)


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture
def device_seeds(monkeypatch):
    """The host resets training episodes with the seeds that the device would take."""

    def seed_of(seed, stream, *numbers):
        if stream != TRAINING:
            return episode_seed(seed, stream, *numbers)
        return int(episode_key(jax.random.key(seed), jnp.int32(0), jnp.int32(numbers[0]))[1])

    monkeypatch.setattr(dime.training.host.episodes, "episode_seed", seed_of)


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        pytest.param(DIME, {}, marks=pytest.mark.soak),
        (TOY, {"seeds": (0, 7), "bootstrap_at_time_limits": False, "env_steps_per_update": 3}),
    ],
    ids=["DIME", "TOY"],
)
def test_it_makes_what_the_host_makes(device_seeds, algorithm, options):
    whole = config_of(algorithm, **options)
    config, environment = whole.training, lambda: Environment(jax_walk())
    made = {seed: environment() for seed in config.seeds}
    host = HostLearners(config, agent_of(whole), made, environment)
    host.compile()
    host.begin()
    for _ in range(20):  # the ring is full then; 12 of them are random, 8 learn
        assert host.step(1) == []
    device = on_device(whole)
    assert steps(device, 20) == {}
    assert (device.env_step, device.update) == (host.env_step, host.update)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), device.metrics, host.metrics
    )
    for index in range(len(config.seeds)):
        theirs, ours = stored(device, index), stored(host, index)
        np.testing.assert_array_equal(theirs.terminated, ours.terminated)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), theirs, ours)
        assert_near(state_of(device.state, index), state_of(host.state, index))
    for theirs, ours in zip(device.episodes(), host.episodes(), strict=True):
        assert theirs.number == ours.number > 2
        assert theirs.last_length == ours.last_length
        assert theirs.last_return == pytest.approx(ours.last_return, abs=1e-4)
        assert theirs.episode_return == pytest.approx(ours.episode_return, abs=1e-4)
    seeds = [evaluation_seeds(seed, 20, 2) for seed in config.seeds]
    for mode in config.evaluation_modes:
        theirs = played(device, mode, seeds)
        environments = [Environment(jax_walk()) for _ in range(2 * len(seeds))]
        ours = run_episodes(environments, seeds, host.evaluation_actions(mode))
        for one, other in zip(sum(theirs, []), sum(ours, []), strict=True):
            assert (one.seed, one.length, one.success_any) == (other.seed, other.length, None)
            assert one.episode_return == pytest.approx(other.episode_return, abs=1e-4)


@pytest.mark.parametrize("envs", [1, 4])
def test_how_env_steps_are_divided_among_calls_changes_nothing(envs):
    config = config_of(envs_per_seed=envs, **WHOLE)
    single, several = on_device(config), on_device(config)
    steps(single, 36, at_a_time=envs)
    steps(several, 36)
    assert_equal(single.snapshot(), several.snapshot())
    assert (single.update, single.episodes()) == (several.update, several.episodes())
    assert_equal(single.replay, several.replay)


def test_environments_of_a_seed_step_together_each_with_episodes_of_its_own():
    learners = on_device(config_of(envs_per_seed=4, replay_capacity=48, **WHOLE))
    steps(learners, 48)
    assert (learners.env_step, learners.update) == (48, 36)  # TOY makes one each
    rows = stored(learners)
    key = jax.random.key(0)
    for environment in range(4):
        env, number, ended = jax_walk(), -1, True
        for row in range(environment, 48, 4):
            if ended:
                number, ended = number + 1, False
                seed = int(episode_key(key, jnp.int32(environment), jnp.int32(number))[1])
                obs, _ = env.reset(seed=seed)
            np.testing.assert_allclose(rows.obs[row], obs, atol=1e-6)
            obs, reward, terminated, truncated, _ = env.step(rows.action[row])
            np.testing.assert_allclose(rows.next_obs[row], obs, atol=1e-6)
            assert rows.reward[row] == pytest.approx(reward, abs=1e-6)
            assert rows.terminated[row] == terminated
            ended = terminated or truncated
        assert number > 0
    actions = rows.action.reshape(12, 4, 2)
    assert len(np.unique(actions.reshape(-1, 2), axis=0)) == 48
    episodes = learners.episodes()[0]
    assert episodes.number >= 4 and 1 <= episodes.last_length <= EPISODE_STEPS


def test_fewer_updates_than_turns_and_more_than_one_in_a_turn():
    rare = on_device(config_of(envs_per_seed=4, env_steps_per_update=12, **WHOLE))
    steps(rare, 36)
    assert rare.update == 2  # after 24 and 36 env steps
    often = on_device(config_of(envs_per_seed=4, env_steps_per_update=2, **WHOLE))
    steps(often, 20)
    assert often.update == 2 * 2  # after 16 and 20, half of their four each


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (TOY, {}),
        (TOY, {"seeds": [3, 5], "envs_per_seed": 2}),
        pytest.param(DIME, {"seeds": [3, 5]}, marks=pytest.mark.soak),  # leaves of many kinds
    ],
    ids=["TOY", "TOY-two seeds", "DIME"],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, algorithm, options):
    whole = algorithm | {"checkpoint_every": 14, **options}
    start(tmp_path / "whole", env=jax_walk, **whole)
    records = itertools.count(1)
    part = start(tmp_path / "part", env=jax_walk, callback=lambda _: next(records) > 6, **whole)
    assert part.state == "interrupted" and 0 < part.env_step < 48
    assert resume(tmp_path / "part", env=jax_walk).state == "finished"
    assert_equal(arrays_of(tmp_path / "part"), arrays_of(tmp_path / "whole"))
    one, other = position_of(tmp_path / "part"), position_of(tmp_path / "whole")
    assert one == other and one["on_device"] is True
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        lines = [without_times(read_lines(tmp_path / run / name)) for run in ("part", "whole")]
        for line in [*lines[0], *lines[1]]:
            line.pop("env_steps_per_s", None), line.pop("updates_per_s", None)
        assert lines[0] == lines[1] and lines[0]


def test_records_are_those_of_any_run(tmp_path):
    start(tmp_path / "device", env=jax_walk, **TOY)
    start(tmp_path / "host", **TOY)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        device, host = (read_lines(tmp_path / run / name) for run in ("device", "host"))
        assert [(r["env_step"], r["seed"], set(r)) for r in device] == [
            (r["env_step"], r["seed"], set(r)) for r in host
        ]
    assert set(status_of(tmp_path / "device")) == set(status_of(tmp_path / "host"))


def test_a_seed_whose_environment_breaks_leaves_and_the_others_stay_as_they_were():
    task = JaxWalk(nan_above=0.9)
    config = config_of(seeds=(0, 1, 2, 3), replay_capacity=48)
    learners = on_device(config, JaxEnv(task, EPISODE_STEPS))
    seeds = config.training.seeds
    alone = {seed: on_device(config_of(seeds=(seed,), replay_capacity=48)) for seed in seeds}
    failures = steps(learners, 40, at_a_time=8)
    assert failures and learners.seeds, "choose another limit: some are to fail, not all"
    assert set(failures) | set(learners.seeds) == set(seeds)
    for seed, failure in failures.items():
        assert failure.poisoned and "observation" in failure.reason
        steps(alone[seed], 40)
        first = np.flatnonzero(stored(alone[seed]).next_obs[:, 0] > 0.9)[0] + 1
        assert failure.env_step == first
    for index, seed in enumerate(learners.seeds):
        steps(alone[seed], 40)
        assert_near(state_of(learners.state, index), state_of(alone[seed].state, 0))


@pytest.mark.parametrize(
    ("broken", "told"), [("obs", "observation"), ("reward", "reward")], ids=str
)
def test_what_broke_is_named(broken, told):
    task = JaxWalk(nan_above=-10.0, broken=broken)
    learners = on_device(config_of(), JaxEnv(task, EPISODE_STEPS))
    (failure,) = learners.step(1)  # a random step: nothing has learnt from it yet
    assert failure.reason == f"{told} became NaN or infinite at env step 1"


def test_the_first_observation_of_all_is_looked_at_too():
    task = JaxWalk()
    bad = episode_key(jax.random.key(3), jnp.int32(0), jnp.int32(0))

    def reset(rng):
        first = TASK.reset(rng)
        return first._replace(obs=jnp.where((rng == bad).all(), jnp.nan, first.obs))

    task.reset = reset
    learners = DeviceLearners(
        config_of(seeds=(3, 4)).training,
        agent_of(config_of()),
        Environment(JaxEnv(task, EPISODE_STEPS)),
        None,
    )
    learners.compile()
    (failure,) = learners.begin()
    assert learners.seeds == [4]
    assert failure.reason == "observation became NaN or infinite at env step 0"


def test_an_observation_that_a_reset_breaks_is_named_too():
    task = JaxWalk()
    task.reset = lambda rng: TASK.reset(rng)._replace(obs=jnp.full(2, jnp.nan))
    task.step = lambda state, action: TASK.step(state._replace(obs=jnp.zeros(2)), action)
    learners = on_device(config_of(), JaxEnv(task, 1))
    (failure,) = learners.step(1)
    assert failure.reason == "observation became NaN or infinite at env step 1"


def test_a_policy_that_is_no_number_is_named_by_its_metrics_and_action():
    learners = on_device(config_of())
    steps(learners, 12)
    poisoned = jax.tree.map(
        lambda leaf: leaf * jnp.nan if leaf.dtype == jnp.float32 else leaf, learners.state
    )
    learned = learners._now.learned._replace(state=poisoned)
    learners._keep(learners._now._replace(learned=learned))
    (failure,) = learners.step(1)
    assert failure.env_step == 13 and failure.poisoned
    assert "weight" in failure.reason and "action" in failure.reason
    assert "reward" not in failure.reason and "observation" not in failure.reason


def test_products_of_the_task_are_float32_whatever_the_learners_are():
    text = str(
        jax.make_jaxpr(partial(step_task, TASK))(TASK.reset(jax.random.PRNGKey(0)), jnp.ones(2))
    )
    assert "dot_general" in text
    with jax.default_matmul_precision("BF16_BF16_F32"):
        inside = str(
            jax.make_jaxpr(partial(step_task, TASK))(TASK.reset(jax.random.PRNGKey(0)), jnp.ones(2))
        )
    assert inside == text and "BF16" not in inside


def test_a_call_lasts_about_a_quarter_of_a_second(monkeypatch):
    now = 0.0
    monkeypatch.setattr(dime.training.device.time, "perf_counter", lambda: now)
    pace, made = Pace(), []

    def steps_of(seconds):
        def steps(count):
            nonlocal now
            made.append(count)
            now += count * seconds

        return steps

    for _ in range(10):
        pace.run(steps_of(0.01), 1000)
    assert made == [1, 2, 4, 8, 16, 25, 25, 25, 25, 25]
    pace.run(steps_of(0.01), 3)
    assert made[-1] == 3
    for _ in range(3):
        pace.run(steps_of(1.0), 1000)
    assert made[-1] == 1


def test_quick_random_steps_do_not_make_the_first_call_that_learns_long(monkeypatch):
    learners = on_device(config_of())
    calls = []
    advance = learners._programs.advance

    def noted(trained, keys, count):
        calls.append((int(trained.at.env_step), int(count)))
        return advance(trained, keys, count)

    monkeypatch.setattr(learners, "_programs", SimpleNamespace(advance=noted))
    while learners.env_step < 20:
        learners.step(1000)
    assert [at for at, _ in calls if at <= 12][-1] == 12  # the last random one ends a call
    assert dict(calls)[12] == 1


def test_training_episodes_are_as_long_as_their_environment_says(monkeypatch):
    monkeypatch.setattr(dime.training.device, "MAX_EPISODE_STEPS", 3)
    far = JaxWalk()
    far.step = lambda state, action: TASK.step(state, 0.0 * action)._replace(done=jnp.zeros(()))
    learners = on_device(config_of(), JaxEnv(far, 5))
    steps(learners, 12)
    assert learners.episodes()[0].last_length == 5
    (results,) = played(learners, "stochastic", [[1, 2]])
    assert [result.length for result in results] == [3, 3]


def test_a_run_all_of_whose_seeds_break_fails_and_says_at_which_step(tmp_path):
    task = JaxWalk(nan_above=-10.0)
    options = TOY | {"evaluate_every": 48}
    result = start(tmp_path / "run", env=lambda: JaxEnv(task, EPISODE_STEPS), **options)
    assert result.state == "failed"
    assert "non-finite observation or reward (in an evaluation) at step 1 " in result.reason


def test_an_evaluation_that_meets_no_number_takes_its_seed_out(tmp_path):
    task = JaxWalk(nan_above=-10.0)
    learners = on_device(config_of(seeds=(0,)), JaxEnv(task, EPISODE_STEPS))
    with pytest.raises(Exception, match="non-finite observation or reward") as caught:
        played(learners, "stochastic", [[1, 2]])
    assert [failure.seed for failure in learners.recover(caught.value)] == [0]


@pytest.mark.parametrize(
    ("env", "options", "told"),
    [
        (jax_walk, {"overlap": True}, "--overlap does not go with .*nothing waits for it"),
        (walks(), {"envs_per_seed": 2, "checkpoint_every": 16}, "envs_per_seed is 2, but .*one"),
        (jax_walk, {"envs_per_seed": 5}, "num_env_steps is 48; .* a multiple of 5"),
        (jax_walk, {"envs_per_seed": 12, **WHOLE, "env_steps_per_update": 5}, "divide that number"),
        (
            jax_walk,
            {"envs_per_seed": 24, **WHOLE, "num_random_steps": 0},
            "log_every is 12; .* a multiple of 24",
        ),
        (jax_walk, {"envs_per_seed": 0}, "envs_per_seed is 0"),
    ],
)
def test_what_does_not_go_together_is_refused_before_there_is_a_folder(
    tmp_path, env, options, told
):
    with pytest.raises(DimeError, match=told):
        start(tmp_path / "run", env=env, **options)
    assert not (tmp_path / "run").exists()


def test_more_environments_than_transitions_are_refused():
    with pytest.raises(DimeError, match="envs_per_seed is 4; a replay of 2 transitions"):
        TrainingConfig(envs_per_seed=4, replay_capacity=2, log_every=100, num_env_steps=1000)


def test_delayed_metrics_are_kept_until_they_are_due_again():
    """Rounds of two updates, of which every fifth makes the delayed metric; others give 0."""
    delayed = Delayed(("policy_loss",), lambda number: number % 5 == 0)
    config = SimpleNamespace(updates_per_round=2)
    context = SimpleNamespace(agent=SimpleNamespace(delayed=delayed), config=config)
    kept, seen = {"policy_loss": jnp.zeros(1), "critic_loss": jnp.zeros(1)}, []
    for update in range(0, 12, 2):
        made = update // 2 + 1.0 if {update, update + 1} & {0, 5, 10} else 0.0
        metrics = {"policy_loss": jnp.full(1, made), "critic_loss": jnp.full(1, float(update))}
        before = SimpleNamespace(
            at=Counters(jnp.int32(0), jnp.int32(update)), learned=SimpleNamespace(metrics=kept)
        )
        kept = _newest(context, SimpleNamespace(metrics=metrics), before)
        seen.append(kept["policy_loss"].item())
        assert kept["critic_loss"].item() == update
    assert seen == [1.0, 1.0, 3.0, 3.0, 3.0, 6.0]


def test_a_run_goes_on_only_where_it_was(tmp_path):
    start(tmp_path / "run", env=jax_walk, **TOY)
    with pytest.raises(DimeError, match="in one program with the learner. Resume it with"):
        resume(tmp_path / "run", env=walks(), num_env_steps=60)
    with pytest.raises(DimeError, match="env_process does not go with"):
        resume(tmp_path / "run", env=jax_walk, num_env_steps=60, env_process=True)
    other = JaxWalk()
    pair = jnp.zeros(2)
    other.reset = lambda rng: TASK.reset(rng)._replace(rng=pair)
    other.step = lambda state, action: TASK.step(
        TASK.reset(jax.random.PRNGKey(0)), action
    )._replace(rng=pair)
    before = json.loads((tmp_path / "run" / "config.json").read_text())
    with pytest.raises(DimeError, match="rng.* is uint32"):
        resume(tmp_path / "run", env=lambda: JaxEnv(other, EPISODE_STEPS), num_env_steps=60)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == before
