"""What the presets start from, for algorithms and environments."""

from dataclasses import fields

import pytest

from dime.algorithms.registry import ALGORITHMS
from dime.cli.commands import Train
from dime.training.presets import _OF_EVERY_RUN, PRESETS, preset_settings, preset_training


def settings(algorithm, env="dm_control/dog-run", preset="paper"):
    return preset_settings(preset, algorithm, env)


def training(algorithm, env="dm_control/dog-run", preset="paper"):
    return preset_training(preset, algorithm, env)


def test_what_every_run_has_are_the_options_of_dime_train():
    assert {field.name for field in fields(Train)} - {"training", "settings"} == _OF_EVERY_RUN


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_evaluated_in_the_official_mode_and_a_common_one(name, preset):
    modes = training(name, preset=preset).evaluation_modes
    assert modes[0] == ALGORITHMS[name].official_mode
    assert "stochastic" in modes and len(set(modes)) == 2


def test_official_modes():
    official = {name: algorithm.official_mode for name, algorithm in ALGORITHMS.items()}
    assert official | {
        "dime": "stochastic", "dime-gaussian": "stochastic", "dime-gb": "stochastic",
        "sac": "deterministic", "crossq": "deterministic", "bro": "deterministic",
        "bro-fast": "deterministic", "dacer": "observation_seeded", "qsm": "stochastic",
        "dipo": "noise_free", "qvpo": "best_of_n", "diffusion-ql": "softmax_of_n",
        "consistency-ac": "softmax_of_n",
    } == official  # fmt: skip


def test_updates_and_batches_of_the_papers_tables():
    updates = {name: training(name).updates_per_env_step for name in ALGORITHMS}
    expected = dict.fromkeys(("dime", "dime-gaussian", "dime-gb", "crossq", "bro-fast"), 2)
    expected |= dict.fromkeys(("sac", "dacer", "qsm", "dipo", "qvpo", "diffusion-ql"), 1)
    assert updates | expected | {"bro": 10, "consistency-ac": 1} == updates
    assert (training("bro").batch_size, training("bro").num_random_steps) == (128, 2_500)
    assert training("diffusion-ql").replay_capacity == 100_000
    assert training("qvpo").num_random_steps == 10_000


def test_crossq_keeps_its_original_settings_on_gym():
    ours, gym = settings("crossq"), settings("crossq", "Humanoid-v4")
    assert (ours.policy.num_hidden_layers, ours.policy.learning_rate) == (3, 7e-4)
    assert (ours.critic.learning_rate, ours.temperature.learning_rate) == (7e-4, 3e-4)
    assert (gym.policy.num_hidden_layers, gym.policy.learning_rate) == (2, 1e-3)
    assert (gym.critic.learning_rate, gym.temperature.learning_rate) == (1e-3, 1e-3)
    assert training("crossq", "Ant-v3-compatible").updates_per_env_step == 1
    assert settings("crossq", "Swimmer-v4").discount == 0.9999
    assert settings("crossq", "Humanoid-v4", "released") == gym
    released = settings("crossq", preset="released")  # on dm_control, by the submission script
    assert released.policy.num_hidden_layers == 2
    rates = (
        part.learning_rate for part in (released.policy, released.critic, released.temperature)
    )
    assert set(rates) == {8e-4}


def test_settings_by_environment():
    assert settings("qsm").alignment == 100.0
    assert settings("qsm", "Ant-v3-compatible").alignment == 1.0
    assert settings("qsm", "myoHandReachRandom-v0").alignment == 50.0
    assert settings("qsm", "Ant-v4", "released").alignment == 50.0
    assert settings("qsm", "Ant-v4", "laptop").alignment == 1.0
    assert settings("dacer").noise.std_per_scale == 0.1
    assert settings("dacer", "Humanoid-v4").noise.std_per_scale == 0.15
    cheetah = settings("dipo", "HalfCheetah-v4")
    assert (cheetah.improvement.num_steps, cheetah.target_policy_delay) == (40, 2)
    ant = settings("dipo", "Ant-v4", "released")
    assert (ant.policy.max_gradient_norm, ant.critic.max_gradient_norm) == (0.8, 0.8)
    assert settings("dipo").improvement.max_gradient_norm_per_dim == 0.1


def test_released_presets_do_what_the_authors_codes_do():
    assert settings("dipo").improvement.write_back
    assert not settings("dipo", preset="released").improvement.write_back
    ending = {
        name
        for name in ALGORITHMS
        if not training(name, preset="released").bootstrap_at_time_limits
    }
    assert ending == {"dipo", "qvpo", "diffusion-ql", "consistency-ac"}
    assert all(
        training(name, preset=preset).bootstrap_at_time_limits
        for name in ALGORITHMS
        for preset in ("paper", "laptop")
    )
    assert settings("qvpo", preset="released").policy.learning_rate == 1e-4
    assert training("dacer", preset="released").env_steps_per_update == 20
    assert training("consistency-ac", preset="released").env_steps_per_update == 12
    assert settings("qsm", preset="released").policy.num_denoising_steps == 5


@pytest.mark.parametrize("name", ["diffusion-ql", "consistency-ac"])
def test_the_distributional_variants_know_the_support(name):
    critic = settings(name).critic
    assert (critic.head, critic.v_min, critic.v_max) == ("scalar", -200.0, 200.0)


@pytest.mark.parametrize("preset", ["paper", "laptop"])
def test_playgrounds_tasks_are_set_as_those_of_dm_control(preset):
    def support(env):
        critic = preset_settings(preset, "dime", env).critic
        return critic.v_min, critic.v_max

    ours = support("playground/CartpoleSwingup")
    assert ours == support("dm_control/cartpole-swingup") != (None, None)
