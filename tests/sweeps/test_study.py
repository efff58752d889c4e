"""Studies: what a file means, and what is refused before any trial starts."""

import dataclasses

import pytest

from dime.errors import DimeError
from dime.sweeps.study import (
    Study,
    nested,
    read_study,
    shipped_studies,
    source_of,
    trials_of,
    varied_settings,
)

BANDIT = "dime/TwoModeBandit-v0"
SMALL = {
    "environments": [BANDIT],
    "algorithms": ["dime"],
    "preset": "laptop",
    "settings": {"num_env_steps": 40, "num_random_steps": 10},
}


def trials(**changes):
    return trials_of(read_study(SMALL | changes))


def test_a_grid_is_every_combination_with_the_settings_of_all():
    found = trials(
        environments=[BANDIT, "dime/MultiGoal-v0"],
        grid={"policy.num_denoising_steps": [2, 4], "batch_size": [8, 16]},
        seeds=3,
    )
    assert len(found) == 2 * 2 * 2 * 3
    assert len({trial.name for trial in found}) == len(found)
    seen = {
        (
            trial.config.env,
            trial.config.settings.policy.num_denoising_steps,
            trial.config.training.batch_size,
            trial.config.training.seeds,
        )
        for trial in found
    }
    assert len(seen) == len(found)
    assert {trial.config.training.num_env_steps for trial in found} == {40}
    assert {trial.config.preset for trial in found} == {"laptop"}


def test_seeds_can_share_a_trial_and_the_last_one_takes_the_rest():
    found = trials(seeds=5, seeds_per_trial=2)
    assert [trial.config.training.seeds for trial in found] == [(0, 1), (2, 3), (4,)]
    assert found[0].name == "dime-TwoModeBandit-v0_dime_seeds-0-1"


def test_an_environment_can_have_options_of_its_own():
    goal = "dime/MultiGoal-v0"
    own = {goal: {"num_env_steps": 60}}
    found = trials(environments=[BANDIT, goal], by_environment=own)
    steps = {trial.config.env: trial.config.training.num_env_steps for trial in found}
    assert steps == {BANDIT: 40, goal: 60}


def test_arms_have_options_of_their_own():
    arms = [
        {"algorithm": "dime", "critic.head": "scalar"},
        {"algorithm": "sac", "batch_size": 4, "preset": "paper"},
    ]
    plain, scalar, sac = trials(arms=arms)
    assert plain.config.settings.critic.head == "categorical"
    assert scalar.config.settings.critic.head == "scalar"
    assert (sac.config.algorithm, sac.config.preset) == ("sac", "paper")
    assert sac.config.training.batch_size == 4


def test_what_varies_is_what_differs_within_an_algorithm_and_environment():
    found = trials(
        environments=[BANDIT, "dime/MultiGoal-v0"],  # their supports differ
        algorithms=["dime", "sac"],
        seeds=2,
        arms=[{"algorithm": "dime", "critic.head": "scalar"}],
    )
    assert varied_settings(found) == ("settings.critic.head",)
    assert varied_settings(trials(seeds=2)) == ()
    only_one_has_it = trials(arms=[{"algorithm": "dime", "env_kwargs.render_mode": "rgb_array"}])
    assert varied_settings(only_one_has_it) == ("env_kwargs.render_mode",)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"sedes": 3}, "no option 'sedes'; nearest: seeds"),
        ({"grid": {"batch_size": []}}, "batch_size is []; it must be a list of at least one"),
        ({"grid": {"batch_size": 8}}, "batch_size is 8; it must be a list"),
        ({"grid": {"batch_sise": [8]}}, "no option 'batch_sise'; nearest: batch_size"),
        ({"grid": {"policy.hiden_dim": [8]}}, "nearest: policy.hidden_dim"),
        ({"grid": {"batch_size": [8, 8]}}, "would share the folder"),
        ({"algorithms": ["dime", "dime"]}, "would share the folder"),
        ({"environments": []}, "names no environments"),
        ({"algorithms": []}, "names no algorithms"),
        ({"algorithms": ["dmie"]}, "nearest: dime"),
        ({"environments": ["dm_control/cartpole-swingpu"]}, "cartpole-swingup"),
        ({"environments": ["Pendulum-v1"]}, "No support of the critic's returns"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": []}, "no seeds"),
        ({"seeds": [1, 1], "seeds_per_trial": 2}, "A seed occurs twice"),
        ({"seeds_per_trial": 0}, "seeds_per_trial is 0"),
        ({"cpus": 0}, "cpus is 0"),
        ({"retries": -1}, "retries is -1"),
        ({"name": "../elsewhere"}, "name is '../elsewhere'"),
        ({"arms": [{"batch_size": 3}]}, "names no algorithm"),
        ({"grid": {"batch_size": [8]}, "search": {"num_samples": 2}}, "a grid and a search"),
        ({"by_environment": {"dime/TwoModeBandits": {}}}, "nearest: dime/TwoModeBandit-v0"),
        ({"by_environment": {BANDIT: 3}}, "no table"),
        ({"preset": "labtop"}, "nearest: laptop"),
    ],
)
def test_refused_before_any_trial_starts(changes, said):
    with pytest.raises(DimeError) as refusal:
        trials(**changes)
    assert said in str(refusal.value)


def test_files_of_both_kinds_and_the_small_variant(tmp_path):
    text = """
    environments = ["dime/TwoModeBandit-v0"]
    algorithms = ["sac"]
    seeds = 10
    [laptop]
    seeds = 2
    preset = "laptop"
    """
    toml = tmp_path / "mine.toml"
    toml.write_text(text)
    assert (read_study(toml).name, len(read_study(toml).seeds)) == ("mine", 10)
    small = read_study(toml, "laptop")
    assert (small.name, small.seeds, small.preset) == ("mine-laptop", (0, 1), "laptop")

    python = tmp_path / "other.py"
    python.write_text(f"STUDY = {SMALL!r}")
    assert read_study(python).name == "other"
    made = "Study('s', environments=('a',), arms=({'algorithm': 'sac'},))"
    python.write_text(f"from dime import Study\nSTUDY = {made}")
    assert read_study(python).name == "s"
    with pytest.raises(DimeError, match="no variant 'laptop'"):
        read_study(python, "laptop")


def test_files_as_editors_write_them(tmp_path):
    """With a byte-order mark, and lines that end in two characters."""
    toml = tmp_path / "mine.toml"
    toml.write_text('environments = ["a"]\r\nalgorithms = ["sac"]\r\n', "utf-8-sig", newline="")
    assert toml.read_bytes().startswith(b"\xef\xbb\xbf")
    assert read_study(toml).environments == ("a",)
    assert source_of(toml).startswith("environments")
    python = tmp_path / "mine.py"
    python.write_text(f"STUDY = {SMALL!r}", "utf-8-sig")
    assert read_study(python).name == "mine" and source_of(python).startswith("STUDY")


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.toml", None, "cannot be read"),
        ("a.toml", "seeds = ", "is not TOML"),
        ("a.toml", b"\xff\xfes\x00", "cannot be read .*utf-8"),
        ("a.py", None, "cannot be read"),
        ("a.py", "x = 1", "must define STUDY"),
        ("figure_44", None, "nearest: figure_4"),
    ],
)
def test_files_that_are_no_study(tmp_path, monkeypatch, name, text, said):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DimeError, match=said):
        read_study(name)


def test_a_study_may_be_passed_as_it_is():
    assert read_study(Study(environments=("a",), algorithms=("sac",))).name == "study"
    study = Study("mine", environments=(BANDIT,), algorithms=("sac",))
    assert read_study(study) == study
    assert dataclasses.asdict(read_study(dataclasses.asdict(study))) == dataclasses.asdict(study)


def test_dots_make_tables():
    assert nested({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


@pytest.mark.parametrize("variant", [None, "laptop"])
@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_can_start(name, variant):
    assert trials_of(read_study(name, variant))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"settings": {"seeds": [7]}}, "its place is the field seeds"),
        ({"grid": {"seeds": [[0], [1]]}}, "its place is the field seeds"),
        ({"arms": [{"algorithm": "sac", "env": "x"}]}, "its place is the field environments"),
        ({"settings": {"algorithm": "sac"}}, "its place is the field algorithms or arms"),
        ({"by_environment": {BANDIT: {"seeds": [5]}}}, "its place is the field seeds"),
        ({"settings": {"batch_size": 4, "batch_size.x": 1}}, "batch_size.x is set"),
        ({"settings": {"env_kwargs": 3}}, "env_kwargs is 3; it must be a table"),
        ({"seeds": 99999999999999999999}, "it must be 1 to 10000"),
        ({"grid": {"env_kwargs.x": ["y" * 300]}}, "is too long"),
    ],
)
def test_options_that_would_be_ignored_or_break_are_refused(changes, said):
    with pytest.raises(DimeError) as refusal:
        trials(**changes)
    assert said in str(refusal.value)


def test_a_python_study_that_cannot_be_run(tmp_path):
    for text in ("1 / 0", "STUDY = (", "import sys; sys.exit(3)", "import nowhere_at_all"):
        (tmp_path / "s.py").write_text(text)
        with pytest.raises(DimeError, match="cannot be run"):
            read_study(tmp_path / "s.py")
