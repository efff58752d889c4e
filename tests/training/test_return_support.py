"""The support that is suggested where none is established."""

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from dime.algorithms.registry import find_algorithm
from dime.envs.environment import Environment
from dime.envs.registry import make
from dime.errors import DimeError
from dime.training.presets import make_config, preset_settings
from dime.training.return_support import (
    discounted_returns,
    entropy_share,
    require_support,
    round_up,
)
from tests.envs.stub import Stub
from tests.training.walk import at, walks


class Rewards(Stub):
    """The same reward in every step; the last of 40 steps, which terminates, may have another."""

    def __init__(self, reward, last=None):
        super().__init__()
        self.reward, self.last = reward, last

    def step(self, action):
        obs, _, _, _, info = super().step(action)
        ends = self.last is not None and self.steps == 40
        return obs, self.last if ends else self.reward, ends, False, info


def suggested(env, algorithm="dime", bootstrap=True):
    config = make_config("walk", algorithm, "laptop", bootstrap_at_time_limits=bootstrap)
    with pytest.raises(DimeError) as refusal:
        require_support(config, Environment(TimeLimit(env, 50), "Here-v0"))
    return str(refusal.value)


def test_a_time_limit_is_bootstrapped_across():
    returns = discounted_returns([-1.0] * 50, [False] * 50, 0.99)
    np.testing.assert_allclose(returns, -100.0)
    said = suggested(Rewards(-1.0))
    for part in ("[-100, -100]", "adds up to 16.4", "--critic.v-min -200 --critic.v-max 200"):
        assert part in said
    cut = 1 - 0.99**50
    assert f"[{-100 * cut:.4g}, -1]" in suggested(Rewards(-1.0), bootstrap=False)


def test_an_environment_that_raises_is_named_in_one_line():
    def broken():
        raise OSError("unplugged")

    config = make_config("walk", preset="laptop")
    with pytest.raises(DimeError, match="raised OSError: unplugged in the random steps"):
        require_support(config, make(walks(at(0, 3, broken))))


def test_returns_are_those_of_a_long_sum():
    generator = np.random.default_rng(0)
    rewards, ends = generator.normal(size=30), generator.random(30) < 0.2
    expected = []
    for start in range(30):
        total, weight = 0.0, 1.0
        for step in range(start, start + 3000):
            total += weight * rewards[step % 30]
            weight *= 0.9 * (not ends[step % 30])
        expected.append(total)
    returns = discounted_returns(rewards.tolist(), ends.tolist(), 0.9)
    np.testing.assert_allclose(returns, expected, atol=1e-12)


@pytest.mark.parametrize("discount", [1.0, 1.0 - 1e-13])
def test_without_a_discount_the_sum_is_that_of_the_steps(discount):
    returns = discounted_returns([-1.0] * 50, [False] * 50, discount)
    np.testing.assert_allclose(returns, np.arange(-50.0, 0.0))


def test_one_rare_reward_does_not_stand_for_all():
    said = suggested(Rewards(1.0, last=-100.0))
    assert "--critic.v-min -200 --critic.v-max 200" in said  # the last reward, and the entropy


def test_the_entropy_dominates_tiny_rewards():
    said = suggested(Rewards(-1e-6))
    for part in (
        "[-0.0001, -0.0001]",
        "Most of it",
        "--temperature.initial 6e-07",
        "v-min -20 ",
        "v-min -0.0002 ",
    ):
        assert part in said


def test_the_entropys_share():
    sac = find_algorithm("sac").config()  # -1 nat per dimension
    assert entropy_share(sac, 3) == pytest.approx(sac.temperature.initial * 3 * 99)
    dime = preset_settings("laptop", "dime", "Pendulum-v1")  # 4 nats, of which the prior has 2.335
    assert entropy_share(dime, 2) == pytest.approx(0.1 * 1.6648 * 2 * 99, rel=1e-4)
    assert entropy_share(find_algorithm("diffusion-ql").config(), 2) == 0.0


def test_rounded_up():
    assert [round_up(value) for value in (0.0, 0.03, 1.0, 116.0, 501.0)] == [1, 0.05, 1, 200, 1000]
