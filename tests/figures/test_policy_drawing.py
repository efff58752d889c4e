"""Pictures of a policy: what they show is what the policy does, in every format."""

import imageio
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.critics.critics import CriticState
from dime.deploy.policy import Restored, restore_agents
from dime.errors import DimeError
from dime.figures.policy import (
    NUM_BINS,
    NUM_BOUND_CHAINS,
    DimeAgent,
    InspectOptions,
    PolicyView,
    StateView,
    bin_centres,
    view_policy,
)
from dime.figures.policy_drawing import (
    NUM_LAST_FRAMES,
    SHADES,
    bounds_figure,
    chains_figure,
    frames,
    inspect_policy,
    shown_steps,
)
from dime.training.presets import make_config
from tests.figures.layout import assert_free, caption
from tests.joint_critics import combined_value
from tests.training.runs import DIME, checkpoints, read_lines, start
from tests.training.walk import walks

BANDIT = "dime/TwoModeBandit-v0"
SIGNATURES = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture(scope="module")
def view(dime_run):
    return view_policy(dime_run, InspectOptions(env=walks()))


@pytest.fixture(scope="module")
def bandit(tmp_path_factory):
    """A run of a general bridge with scalar critics on the log-variance loss, on a line."""
    folder = tmp_path_factory.mktemp("line") / "run"
    critic = DIME["critic"] | {"head": "scalar"}
    changes = {"algorithm": "dime-gb", "critic": critic, "objective": "log-variance"}
    start(folder, BANDIT, **(DIME | changes))
    return folder


def made_view(dims=2, num_steps=16, num_states=3, action_dim=38, learn=True):
    """Views of any size, without a run."""
    generator = np.random.default_rng(0)
    bins = (NUM_BINS[dims],) * dims
    states = []
    for number in range(num_states):
        mass = generator.dirichlet(np.ones(np.prod(bins)), num_steps + 1)
        points = np.tanh(generator.normal(size=(num_steps + 1, 50, dims)))
        density = generator.uniform(1.0, 2.0, bins)
        density /= density.sum() * (2.0 / bins[0]) ** dims
        states.append(StateView(499 * number, mass.reshape(-1, *bins), points, density))
    sizes = np.geomspace(0.3, 0.003, num_steps)[:, None] * np.ones(action_dim)
    at = np.arange(0, 1000, 5)
    return PolicyView(
        source="run: dime on dm_control/dog-run, seed 0, after 1000000 env steps",
        plane=tuple(range(dims)),
        action_dim=action_dim,
        temperature=0.01,
        states=states,
        bounds=(at, np.sin(at / 100.0), np.full(len(at), 0.1)),
        target_bound=-1.665 * action_dim if learn else None,
        step_sizes=sizes,
        diffusion_scale=np.linspace(0.05, 0.3, action_dim),
        initial_scale=0.1,
        obs=np.zeros((1000, 223)),
        episode_return=987.6,
        prior_std=2.5,
    )


def test_the_states_are_those_of_the_runs_own_evaluation(dime_run, view):
    evaluations = read_lines(dime_run / "evaluations.jsonl")
    (record,) = [r for r in evaluations if (r["env_step"], r["mode"]) == (48, "stochastic")]
    assert view.episode_return == pytest.approx(record["returns"][0], rel=1e-12)
    assert len(view.obs) == record["lengths"][0]
    last = len(view.obs) - 1
    assert [state.env_step for state in view.states] == sorted({0, round(last / 2), last})


def test_shares_sum_to_one_and_densities_integrate_to_one(view):
    for state in view.states:
        assert state.mass.shape == (3, NUM_BINS[2], NUM_BINS[2])  # two denoising steps
        np.testing.assert_allclose(state.mass.sum(axis=(1, 2)), 1.0)
        assert state.density.sum() * (2.0 / NUM_BINS[2]) ** 2 == pytest.approx(1.0)


def test_the_density_is_exp_of_q_over_the_runs_temperature(dime_run, view):
    """In two bins, with Q as the policy's loss has it."""
    restored = restore_agents(dime_run)
    state = jax.tree.map(lambda leaf: leaf[0], restored.state)
    head = restored.config.settings.critic.make_head()
    centres = bin_centres(2)
    actions = jnp.array([[centres[3], centres[30]], [centres[20], centres[5]]])
    obs = jnp.broadcast_to(view.obs[0], (2, 2))
    q = combined_value(state.critics.online, state.critics.stats, obs, actions, head)
    density = view.states[0].density
    temperature = float(np.exp(state.temperature.log_value))
    assert view.temperature == pytest.approx(temperature)
    expected = float(q[0] - q[1]) / temperature
    assert np.log(density[3, 30] / density[20, 5]) == pytest.approx(expected, abs=1e-4)


def test_of_a_known_q_the_density_is_the_closed_form(dime_run, monkeypatch):
    """Q couples three dimensions; the one that is not drawn stays at its mean."""
    agent = DimeAgent.of(restore_agents(dime_run), 0, dime_run)
    precision = np.array([[30.0, 10.0, -8.0], [10.0, 20.0, 5.0], [-8.0, 5.0, 25.0]], np.float32)

    class Quadratic:
        def combined_value(self, action):
            return -0.5 * jnp.einsum("...i,ij,...j->...", action, precision, action)

    monkeypatch.setattr(CriticState, "outputs", lambda critics, obs, action: action)
    monkeypatch.setattr(type(agent.config.critic), "make_head", lambda config: Quadratic())
    mean = np.array([9.0, 0.4, 9.0])  # of what is drawn the mean does not matter
    density = agent.density(np.zeros(2, np.float32), mean, (2, 0))
    # Given dimension 1, the others are Gaussian: precision P / T, mean -P^-1 p 0.4.
    block = precision[np.ix_([2, 0], [2, 0])]
    centre = -np.linalg.solve(block, precision[[2, 0], 1] * 0.4)
    grid = np.stack(np.meshgrid(bin_centres(2), bin_centres(2), indexing="ij"), axis=-1)
    offset = grid - centre
    exponent = -0.5 * np.einsum("xyi,ij,xyj->xy", offset, block, offset) / agent.temperature
    expected = np.exp(exponent)
    expected /= expected.sum() * (2.0 / NUM_BINS[2]) ** 2
    np.testing.assert_allclose(density, expected, rtol=1e-3, atol=1e-4)


def test_the_entropy_bound_is_minus_the_mean_log_prob(dime_run, view):
    policy = jax.tree.map(lambda leaf: leaf[0], restore_agents(dime_run).state).policy.module
    at, mean, error = view.bounds
    obs = view.obs[at]
    repeated = jnp.broadcast_to(obs, (NUM_BOUND_CHAINS, *obs.shape))
    log_prob = policy.sample(repeated, jax.random.key(1)).log_prob
    np.testing.assert_allclose(mean, -log_prob.mean(axis=0), rtol=1e-4, atol=1e-4)
    spread = log_prob.std(axis=0, ddof=1) / np.sqrt(NUM_BOUND_CHAINS)
    np.testing.assert_allclose(error, spread, rtol=1e-3)


def test_the_target_is_that_of_the_running_cost_with_the_priors_share(view):
    assert view.target_bound == pytest.approx(2 * -1.665, abs=1e-3)  # the paper's, two dimensions


def test_scales_and_step_sizes_are_the_policys(dime_run, view):
    record = read_lines(dime_run / "metrics.jsonl")[-1]
    np.testing.assert_allclose(view.diffusion_scale, record["diffusion_scale"], rtol=1e-5)
    np.testing.assert_allclose(view.step_sizes.mean(axis=1), record["step_sizes"], rtol=1e-5)


def test_a_plane_has_a_row_per_state_and_a_panel_per_step(view):
    figure = chains_figure(view)
    columns = len(shown_steps(2)) + 1
    assert len(figure.axes) == len(view.states) * columns
    for row, state in enumerate(view.states):
        panels = figure.axes[row * columns : (row + 1) * columns]
        for axes, step in zip(panels, shown_steps(2), strict=False):
            drawn = axes.collections[0].get_array()
            np.testing.assert_array_equal(drawn.reshape(state.mass[step].shape), state.mass[step].T)
        drawn = panels[-1].collections[0].get_array()
        np.testing.assert_allclose(drawn.sum(), 1.0)
        assert panels[0].get_ylabel() == f"env step {state.env_step}\naction 1"
    assert "seed 0, after 48 env steps" in caption(figure)
    assert "One episode with stochastic actions" in caption(figure)
    assert "slice" not in caption(figure)


def test_a_line_has_prior_chain_actions_and_density_in_one_panel(bandit):
    view = view_policy(bandit, InspectOptions())
    assert view.plane == (0,) and view.action_dim == 1
    (state,) = view.states  # an episode of one step
    (axes,) = chains_figure(view).axes
    drawn = axes.collections[0].get_array().reshape(NUM_BINS[1], 3)
    np.testing.assert_array_equal(drawn, state.mass.T)
    np.testing.assert_allclose(drawn.sum(axis=0), 1.0)
    curve = axes.lines[-1]
    base = curve.get_xdata().min()
    height = curve.get_xdata() - base
    assert np.corrcoef(height, state.density)[0, 1] == pytest.approx(1.0)
    assert axes.get_title().startswith("env step 0: total variation ")


def test_a_line_of_a_wider_action_is_a_slice_and_has_no_total_variation(dime_run):
    view = view_policy(dime_run, InspectOptions(plane=[1], env=walks()))
    figure = chains_figure(view)
    assert figure.axes[0].get_ylabel() == "action 1"
    assert "total variation" not in figure.axes[0].get_title()
    assert "a slice" in caption(figure)
    assert view.states[0].density.shape == (NUM_BINS[1],)


def test_an_animation_has_a_frame_per_denoising_step(view):
    pictures = list(frames(view))
    assert len(pictures) == 3 + NUM_LAST_FRAMES - 1
    for picture in pictures:
        assert picture.dtype == np.uint8 and picture.shape[2] == 3
        assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert (pictures[0] != pictures[1]).any()
    np.testing.assert_array_equal(pictures[-1], pictures[-2])


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_everything_is_written_in_the_format_of_its_suffix(tmp_path, bandit, suffix):
    written = inspect_policy(
        bandit, tmp_path / "new" / "folder", InspectOptions(figure_suffix=suffix)
    )
    assert [path.name for path in written] == [
        f"chains{suffix}",
        f"bounds{suffix}",
        "animation.gif",
    ]
    for path in written[:2]:
        assert path.read_bytes().startswith(SIGNATURES[suffix])
    animation = imageio.mimread(written[2])
    assert len(animation) == 3  # the last is shown for longer


def test_an_animation_as_mp4(tmp_path, bandit):
    pytest.importorskip("imageio_ffmpeg")
    written = inspect_policy(bandit, tmp_path, InspectOptions(animation_suffix=".mp4"))
    assert written[2].read_bytes()[4:8] == b"ftyp"


def test_another_seed_and_another_checkpoint(dime_run):
    older = checkpoints(dime_run)[0]
    assert (
        "after 45 env steps"
        in view_policy(dime_run, InspectOptions(env=walks(), checkpoint=older)).source
    )
    with pytest.raises(DimeError, match=r"has no seed 3 .* there are \[0\]"):
        view_policy(dime_run, InspectOptions(env=walks(), seed=3))


@pytest.mark.parametrize(
    "plane",
    [(0, 2), (-1, 0), (1, 1), (), (0, 1, 1)],
)
def test_planes_that_there_are_not_are_refused(dime_run, plane):
    with pytest.raises(DimeError, match="one or two different action dimensions of 0 to 1"):
        view_policy(dime_run, InspectOptions(plane=plane, env=walks()))


def test_a_plane_of_a_one_dimensional_action_is_refused(bandit):
    with pytest.raises(DimeError, match="action dimensions of 0 to 0"):
        view_policy(bandit, InspectOptions(plane=(0, 1)))


def test_what_cannot_be_drawn_is_refused(tmp_path, dime_run):
    with pytest.raises(DimeError, match="num_states is 0"):
        view_policy(dime_run, InspectOptions(num_states=0))
    with pytest.raises(DimeError, match="passed as a Python object"):
        view_policy(dime_run, InspectOptions())
    with pytest.raises(DimeError, match=r"\.png, \.pdf or \.svg"):
        inspect_policy(dime_run, tmp_path, InspectOptions(figure_suffix=".txt"))
    with pytest.raises(DimeError, match=r"\.gif or \.mp4"):
        inspect_policy(dime_run, tmp_path, InspectOptions(animation_suffix=".avi"))
    with pytest.raises(DimeError, match="not a run"):
        inspect_policy(tmp_path, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DimeError, match="animation.gif cannot be written to"):
        inspect_policy(dime_run, tmp_path / "file")


@pytest.mark.parametrize("algorithm", ["sac", "dacer", "dime-gaussian"])
def test_other_algorithms_are_refused_with_those_that_work(tmp_path, dime_run, algorithm):
    restored = restore_agents(dime_run)
    config = make_config("dime/MultiGoal-v0", algorithm, "laptop")
    other = Restored(**(restored._asdict() | {"config": config}))
    with pytest.raises(DimeError, match=f"a run of {algorithm}, .* of runs of dime and dime-gb"):
        DimeAgent.of(other, 0, tmp_path)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("num_steps", [1, 32])
def test_texts_do_not_overlap(dims, num_steps):
    view = made_view(dims, num_steps)
    assert_free(chains_figure(view))
    assert_free(bounds_figure(view))
    assert_free(bounds_figure(made_view(dims, num_steps, action_dim=2, learn=False)))


def test_shades_are_told_apart_in_grey():
    lightness = SHADES(np.linspace(0.0, 1.0, 50))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) < 0.0).all()
