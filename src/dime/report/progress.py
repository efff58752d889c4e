"""How far a run came, and how fast, as its files say."""

from typing import Any, NamedTuple

from dime.figures.runs import LARGEST, Run


class Progress(NamedTuple):
    """What the records and status.json say of a run; None where they do not.

    Attributes:
        env_step: the last one known, of each seed.
        planned: env steps at which the run ends.
        wall_time_s: seconds up to the last record or status.
        pace: env steps per second of each seed, between its first and its last evaluation.
        seeds: the run's seeds.
        state: as in status.json; "unreadable" where nothing of the run can be drawn.
        reason: why it did not finish, or is not drawn.
    """

    env_step: int | None
    planned: int | None
    wall_time_s: float | None
    pace: float | None
    seeds: list[int]
    state: str
    reason: str

    @property
    def complete(self) -> bool:
        """Whether it ran to its end, as far as that is known."""
        short = (self.env_step or 0) < (self.planned or 0)
        return self.state in ("finished", "unknown") and not self.reason and not short


NOTHING = Progress(None, None, None, None, [], "unknown", "")


def progress_of(
    run: Run | None, config: dict[str, Any], status: dict[str, Any], problem: str
) -> Progress:
    """Whatever the run's files have, checked for its type."""
    training = config.get("training")
    training = training if isinstance(training, dict) else {}
    seeds = training.get("seeds")
    records = run.records if run else []
    steps = _numbers([*(record["env_step"] for record in records), status.get("env_step")])
    times = _numbers([record.get("wall_time_s") for record in records])
    planned = _numbers([status.get("num_env_steps"), training.get("num_env_steps")])
    return Progress(
        env_step=int(max(steps)) if steps else None,
        planned=int(planned[0]) if planned else None,
        wall_time_s=max([*times, *_numbers([status.get("wall_time_s")])], default=None),
        pace=_pace(records),
        seeds=[seed for seed in seeds if isinstance(seed, int)] if isinstance(seeds, list) else [],
        state=str(status.get("state", "unknown")),
        reason=_reason(run, status, problem),
    )


def _numbers(values: list[Any]) -> list[float]:
    """Those of the values that are numbers which a run can have."""
    numbers = [value for value in values if isinstance(value, int | float)]
    return [value for value in numbers if 0 <= value < LARGEST and not isinstance(value, bool)]


def _pace(records: list[dict[str, Any]]) -> float | None:
    """Env steps per second between the first and the last of these evaluations."""
    points = sorted(
        (record["env_step"], record["wall_time_s"])
        for record in records
        if _numbers([record.get("wall_time_s")])
    )
    if not points:
        return None
    (first, began), (last, ended) = points[0], points[-1]
    return (last - first) / (ended - began) if last > first and ended > began else None


def _reason(run: Run | None, status: dict[str, Any], problem: str) -> str:
    reasons = [str(status.get("reason") or ""), problem]
    failed = status.get("failed_seeds")
    for seed, failure in failed.items() if isinstance(failed, dict) else ():
        why = failure.get("reason", "") if isinstance(failure, dict) else failure
        reasons.append(f"seed {seed}: {why}")
    silent = _silent_seeds(run)
    if silent:
        reasons.append(f"no evaluation of {seed_text(silent)}")
    return "; ".join(reason for reason in reasons if reason)


def _silent_seeds(run: Run | None) -> list[int]:
    if run is None:
        return []
    evaluated = {record["seed"] for record in run.records}
    return [seed for seed in run.config["training"]["seeds"] if seed not in evaluated]


def seed_text(seeds: list[int]) -> str:
    """Seeds in a row as a range.

    >>> seed_text([0, 1, 2, 3]), seed_text([3, 7]), seed_text([])
    ('seeds 0–3', 'seeds 3, 7', '–')
    """
    if not seeds:
        return "–"
    in_a_row = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    text = f"{seeds[0]}–{seeds[-1]}" if in_a_row else ", ".join(map(str, seeds))
    return f"seed{'' if len(seeds) == 1 else 's'} {text}"
