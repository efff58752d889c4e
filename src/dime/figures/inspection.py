"""Pictures of a trained diffusion policy: what `dime inspect` writes."""

from collections.abc import Iterable
from pathlib import Path

from dime.errors import DimeError
from dime.figures.canvas import check_output, save
from dime.figures.policy_figures import bounds_figure, chains_figure
from dime.figures.policy_films import check_film, write_film
from dime.figures.policy_views import view_policy
from dime.training.config import EnvLike


def inspect_policy(  # noqa: PLR0913  everything past the second is keyword-only
    run_dir: str | Path,
    output_dir: str | Path,
    *,
    checkpoint: str | Path | None = None,
    num_states: int = 3,
    plane: Iterable[int] | None = None,
    seed: int | None = None,
    env: EnvLike | None = None,
    suffixes: tuple[str, str] = (".png", ".gif"),
) -> list[Path]:
    """Draws what a run's policy does in states of one episode, played with stochastic actions.

    - `chains`: the chains' marginals by denoising step beside exp(Q / temperature), with Q as the
      policy's loss has it and the temperature of the checkpoint;
    - `bounds`: the entropy bound along the episode, the learnt diffusion scales, the step sizes;
    - `film`: the chains on their way from the prior to actions.

    The episode is the first one of the seed's evaluation at that env step.

    Args:
        run_dir: folder of a run of `dime` or `dime-gb`.
        output_dir: where to; made if it is not there.
        checkpoint: another checkpoint's folder than the newest one.
        num_states: how many states, spread evenly over the episode.
        plane: one action dimension or two; by default the first two, or the only one.
        seed: which of the run's seeds; the first one by default.
        env: needed where the run's environment was passed as an object: the same again.
        suffixes: formats of the figures (.png, .svg, .pdf) and of the film (.gif, .mp4).

    Returns:
        The files written.

    Raises:
        DimeError: not a run of DIME, no checkpoint or a damaged one, an action dimension or a
            seed that there is not, or the pictures cannot be written.
    """
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DimeError(f"{folder} is no folder to write to: {error}.") from error
    chains, bounds = (check_output(folder / f"{name}{suffixes[0]}") for name in _FIGURES)
    film = folder / f"film{suffixes[1]}"
    check_film(film)
    view = view_policy(
        run_dir, checkpoint=checkpoint, num_states=num_states, plane=plane, seed=seed, env=env
    )
    return [
        save(chains_figure(view), chains),
        save(bounds_figure(view), bounds),
        write_film(view, film),
    ]


_FIGURES = "chains", "bounds"
