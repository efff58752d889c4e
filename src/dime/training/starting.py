"""From a config to a run."""

from contextlib import closing
from pathlib import Path

from dime.errors import DimeError, describe
from dime.training.config import EnvLike, RunConfig
from dime.training.loop import RunResult
from dime.training.presets import lacks_support
from dime.training.return_support import refuse_unknown_support
from dime.training.run import Hooks, environment_maker, start_run


def run_config(
    config: RunConfig, env: EnvLike, run_dir: str | Path | None, hooks: Hooks
) -> RunResult:
    """Runs a config, once the critic's support is known."""
    require_support(config, env)
    return start_run(config, env, Path(run_dir) if run_dir else None, hooks)


def require_support(config: RunConfig, env: EnvLike) -> None:
    """Raises `DimeError`, with a proposal, where the critic's support is still to be given."""
    if lacks_support(config.settings):
        with closing(environment_maker(config, env)()) as made:
            bootstrap = config.training.bootstrap_at_time_limits
            try:
                refuse_unknown_support(made, config.settings, bootstrap)
            except DimeError:
                raise
            except Exception as error:  # whatever a user's environment raises
                raise DimeError(
                    f"{made.name} raised {describe(error)} in the random steps that were to "
                    "suggest a support of the critic's returns. Fix the environment, or give "
                    "--critic.v-min and --critic.v-max."
                ) from error
