"""The programs of a run: every draw has a key of its own, and counters count as they say."""

import ast
import itertools
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dime.training.host.programs
from dime.errors import DimeError
from dime.training.config import TrainingConfig, replace_nested
from dime.training.host.learners import HostLearners
from dime.training.host.programs import (
    Programs,
    StepInputs,
    advance,
    counters,
    evaluation_actions,
    evaluation_inputs,
    initialise,
    learn,
    matmul_precision,
    over_seeds,
    random_actions,
    seed_keys,
)
from dime.training.replay import empty_replay
from dime.types import Counters, Delayed, EnvSpec, Transition
from tests.training.toy import ToyConfig, toy

SPEC = EnvSpec(obs_dim=2, action_dim=1)
CONFIG = TrainingConfig(
    batch_size=16, replay_capacity=50, num_evaluation_episodes=2, updates_per_env_step=3
)
AGENT = toy(ToyConfig(), SPEC)


class Run:
    """The programs of these seeds, driven as the loop does, on made-up transitions."""

    def __init__(self, programs, seeds):
        self.programs, self.keys = programs, seed_keys(tuple(seeds))
        self.seeds = seeds
        self.state = initialise(AGENT, self.keys)
        self.replay = empty_replay(CONFIG, SPEC, len(seeds))
        self.env_step = self.update = 0

    def transition(self):
        rows = [
            np.random.default_rng([seed, self.env_step]).normal(size=6).astype(np.float32)
            for seed in self.seeds
        ]
        rows = jnp.asarray(np.stack(rows))
        ended = jnp.zeros(len(self.seeds), bool)
        return Transition(rows[:, :2], rows[:, 2:3], rows[:, 3], rows[:, 4:], ended)

    def store(self):
        self.env_step += 1
        at = counters(self.env_step, self.update)
        self.replay = self.programs.store(self.replay, self.transition(), at)

    def advance(self):
        self.env_step += 1
        transition = self.transition()
        at = counters(self.env_step, self.update)
        inputs = StepInputs(transition, transition.next_obs, self.keys, at)
        self.replay, learned, action = self.programs.advance(self.state, self.replay, inputs)
        self.state = learned.state
        self.update += CONFIG.updates_per_env_step
        return jax.device_get((action, learned.metrics, learned.finite))


@pytest.fixture(scope="module")
def programs():
    """By number of seeds."""
    with jax.debug_key_reuse(False):  # it refuses every vmapped scan over keys
        return {number: Programs(AGENT, CONFIG, SPEC, number) for number in (1, 2)}


def test_random_actions_are_uniform_and_differ_by_env_step_and_seed():
    keys = seed_keys((0, 1))
    drawn = np.stack([random_actions(keys, counters(step, 0), (3,)) for step in range(500)])
    assert drawn.shape == (500, 2, 3)
    assert len(np.unique(drawn)) > 2900  # 3000 numbers of 2^23
    assert abs(drawn.mean()) < 0.05 and abs((drawn**2).mean() - 1 / 3) < 0.02
    assert drawn.min() >= -1.0 and drawn.max() <= 1.0 and np.abs(drawn).max() > 0.99


def test_batches_updates_and_actions_change_with_the_env_step(programs):
    run = Run(programs[1], [0])
    for _ in range(60):  # the ring is full: what is drawn depends on the key alone
        run.store()
    told = [run.advance()[1] for _ in range(20)]
    for name in ("index", "key"):
        values = [np.asarray(metrics[name]).tobytes() for metrics in told]
        assert len(set(values)) == 20, name
    assert [metrics["env_step_seen"].item() for metrics in told] == list(range(61, 81))
    # Of the three updates of a step the last one is told; the first of all is number 0.
    assert [metrics["update_seen"].item() for metrics in told] == list(range(2, 62, 3))


def test_delayed_metrics_are_those_of_the_last_update_that_was_due():
    delayed = Delayed(("update_seen",), lambda number: number % 5 == 0)
    agent = AGENT._replace(delayed=delayed)
    keys = seed_keys((0,))
    state, replay = initialise(agent, keys), empty_replay(CONFIG, SPEC, 1)
    one_step = jax.jit(partial(learn, agent, CONFIG))
    learners = SimpleNamespace(_agent=agent, config=CONFIG, metrics=None, update=0)
    seen = []
    for env_step in range(1, 5):
        learned = one_step(state, replay, keys, counters(env_step, learners.update))
        HostLearners._keep(learners, learned)
        seen.append(learners.metrics["update_seen"].item())
    assert seen == [0, 5, 5, 10]  # updates 0 to 2, 3 to 5, 6 to 8, 9 to 11
    assert learners.metrics["env_step_seen"].item() == 4


def test_the_updates_of_a_step_have_batches_and_keys_of_their_own(programs):
    seen = []

    def update(state, batch, key, at):
        state, metrics = AGENT.update(state, batch, key, at)
        seen.append((metrics["index"].tobytes(), metrics["key"].item(), int(at.update)))
        return state, metrics

    with jax.disable_jit(), jax.debug_key_reuse(False):
        agent = AGENT._replace(update=update)
        run = Run(programs[1], [0])
        transition = run.transition()
        for number in range(2):
            at = Counters(jnp.int32(101 + number), jnp.int32(3 * number))
            inputs = StepInputs(transition, transition.next_obs, run.keys, at)
            run.replay, (run.state, *_), _ = advance(agent, CONFIG, run.state, run.replay, inputs)
    for part in range(3):
        assert len({one[part] for one in seen}) == 6
    assert [one[2] for one in seen] == list(range(6))


def test_only_stored_transitions_are_drawn(programs):
    run = Run(programs[1], [0])
    largest = []
    for step in range(1, 40):
        metrics = run.advance()[1]
        assert metrics["index"].max() < step
        largest.append(metrics["index"].max() == step - 1)
    assert any(largest[10:])  # the transition of this very step can be drawn


def test_exploring_actions_differ_by_env_step_and_seed(programs):
    run = Run(programs[2], [0, 1])
    obs = jnp.zeros((2, 2))
    actions = [run.programs.explore(run.state, obs, run.keys, counters(t, 0)) for t in range(50)]
    assert len(np.unique(np.stack(actions))) == 100


def test_a_seed_does_the_same_alone_and_in_company(programs):
    """Not promised to the last bit; but nothing of one seed may reach the other."""
    together, alone = Run(programs[2], [5, 9]), [Run(programs[1], [seed]) for seed in (5, 9)]
    for _ in range(3):
        for run in (together, *alone):
            run.store()
    for _ in range(4):
        action, metrics, finite = together.advance()
        singles = [run.advance() for run in alone]
        assert finite.shape == (2, len(metrics)) and finite.all()
        np.testing.assert_allclose(action, np.concatenate([s[0] for s in singles]), rtol=1e-5)
        for name in metrics:
            apart = np.concatenate([single[1][name] for single in singles])
            np.testing.assert_allclose(metrics[name], apart, rtol=1e-5, err_msg=name)


def test_the_flag_is_of_the_seed_that_has_a_nan(programs):
    run = Run(programs[2], [5, 9])
    run.store()
    run.state = {"weight": run.state["weight"].at[1, 0, 0].set(jnp.nan)}
    _, metrics, finite = run.advance()
    assert finite.all(axis=1).tolist() == [True, False]
    assert [sorted(metrics)[i] for i in np.flatnonzero(~finite[1])] == ["weight"]


def evaluated(mode, env_step, step, first_episode=0, count=2):
    keys = seed_keys((0,))
    inputs = evaluation_inputs(
        np.zeros((1, count, 2), np.float32), first_episode, step, keys, counters(env_step, 7)
    )
    return np.asarray(evaluation_actions(AGENT, mode, initialise(AGENT, keys), inputs))


def test_evaluation_keys_depend_on_mode_env_step_step_and_episode():
    places = list(itertools.product(("stochastic", "best_of_n"), (0, 500), (0, 1)))
    actions = [evaluated(*place) for place in places]
    assert len(np.unique(np.stack(actions))) == 2 * len(places)  # two episodes each


def test_an_episode_does_not_depend_on_how_many_are_played_beside_it():
    together = evaluated("stochastic", 500, 3, count=4)
    apart = [evaluated("stochastic", 500, 3, first, count=2) for first in (0, 2)]
    np.testing.assert_allclose(together, np.concatenate(apart, axis=1), rtol=1e-6)


def test_one_seed_goes_without_an_axis_and_comes_back_with_it():
    def shape(x, y):
        assert x.ndim == 1 and y["z"].ndim == 0
        return {"sum": x + y["z"]}

    for number in (1, 3):
        x, z = jnp.ones((number, 4)), jnp.arange(float(number))
        result = over_seeds(shape, x, {"z": z})["sum"]
        np.testing.assert_array_equal(result, x + z[:, None])


def test_seeds_give_the_keys_that_their_numbers_say():
    data = jax.random.key_data(seed_keys((3, 2**31 - 1)))
    for row, seed in zip(data, (3, 2**31 - 1), strict=True):
        np.testing.assert_array_equal(row, jax.random.key_data(jax.random.key(seed)))


def test_initial_states_differ_by_seed_and_do_not_depend_on_the_company():
    weight = initialise(AGENT, seed_keys((0, 1, 2)))["weight"]
    assert len(np.unique(weight)) == weight.size
    np.testing.assert_array_equal(weight[1:2], initialise(AGENT, seed_keys((1,)))["weight"])


def test_what_programs_depend_on():
    """Other tests share programs between runs whose configs differ in nothing of this."""
    tree = ast.parse(Path(dime.training.host.programs.__file__).read_text())
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("config")
    }
    assert read == {
        "num_evaluation_episodes", "batch_size", "evaluation_modes",
        "updates_per_round", "overlap", "matmul_precision",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "told"), [("float32", "f32"), ("tensorfloat32", "tf32"), ("bfloat16", "bf16")]
)
def test_matrix_products_on_a_gpu_are_as_exact_as_the_config_says(precision, told):
    config = TrainingConfig(matmul_precision=precision)
    matrix = jnp.ones((4, 4))
    texts = {}
    for platform in ("cuda", "cpu"):
        with matmul_precision(config, platform):
            traced = jax.jit(lambda a: a @ a).trace(matrix)
            texts[platform] = traced.lower(lowering_platforms=(platform,)).as_text()
    assert f"lhs_precision_type = {told}," in texts["cuda"].replace("accumulation", "")
    assert "algorithm" not in texts["cpu"]


def test_a_precision_that_does_not_exist_is_refused():
    with pytest.raises(DimeError, match="matmul_precision is 'float8'; it must be one of"):
        replace_nested(TrainingConfig(), {"matmul_precision": "float8"})
