import json

import numpy as np
import pytest

from dime.errors import DimeError
from dime.figures.curves import panels_of, read_reference, series_of
from dime.figures.runs import read_runs
from dime.statistics import bootstrap_interval, iqm
from tests.figures.make_run import make_run

MYO = "myoHandReachRandom-v0"


def only_curve(*folders):
    (panel,) = panels_of(read_runs(folders))
    (curve,) = panel.curves
    return curve


def scores(folder, mode="stochastic"):
    """By env step, then by seed, from the file itself."""
    table = {}
    for line in (folder / "evaluations.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["mode"] == mode:
            table.setdefault(record["env_step"], []).append(np.mean(record["returns"]))
    return table


def test_a_curve_is_the_iqm_of_the_records_with_its_interval(tmp_path):
    folder = make_run(tmp_path / "run", seeds=(0, 1, 2, 3, 4))
    series = only_curve(folder).series
    table = scores(folder)
    assert series.env_step.tolist() == list(table) == [0, 500, 1000, 1500]
    assert series.num_runs == 5 and series.num_left_out == 0
    for point, values in enumerate(table.values()):
        column = np.array(values)[:, None]
        assert series.lines[0, point] == pytest.approx(iqm(column))
        np.testing.assert_allclose(series.band[:, point], bootstrap_interval(column))
    assert series.lines.shape == (1, 4)


def test_fewer_than_three_runs_are_shown_each_for_itself(tmp_path):
    folder = make_run(tmp_path / "run", seeds=(0, 1))
    series = only_curve(folder).series
    assert series.band is None
    np.testing.assert_allclose(series.lines.T, list(scores(folder).values()))


def test_folders_of_a_kind_are_pooled_each_folder_and_seed_a_run(tmp_path):
    folders = [make_run(tmp_path / name) for name in "ab"]
    assert only_curve(*folders).series.num_runs == 6
    again = [folders[0], str(folders[0]), tmp_path / "b" / ".." / "a"]
    assert only_curve(*again).series.num_runs == 3
    assert "differ" not in " ".join(only_curve(*folders).remarks)


def test_modes_algorithms_and_environments_have_their_own_curves(tmp_path):
    modes = ("deterministic", "best_of_n", "stochastic")
    runs = [
        make_run(tmp_path / "a", "dm_control/walker-run", "dime", modes=modes),
        make_run(tmp_path / "b", "dm_control/walker-run", "crossq"),
        make_run(tmp_path / "c", "dm_control/dog-run", "dime"),
    ]
    panels = panels_of(read_runs(runs))
    assert [panel.environment for panel in panels] == [
        "dm_control/walker-run",
        "dm_control/dog-run",
    ]
    assert [curve.label for curve in panels[0].curves] == [
        "crossq, stochastic",
        "dime, stochastic",
        "dime, best of n",
        "dime, deterministic",
    ]


def test_only_env_steps_that_all_runs_share_are_drawn(tmp_path):
    folders = [
        make_run(tmp_path / "a", steps=(0, 500, 1000, 1500)),
        make_run(tmp_path / "b", steps=(0, 400, 1000)),
    ]
    series = only_curve(*folders).series
    assert series.env_step.tolist() == [0, 1000]
    assert series.num_left_out == 3


def test_runs_that_share_no_env_step_are_refused(tmp_path):
    with pytest.raises(DimeError, match="dime .stochastic. on dm_control/walker-run share no"):
        only_curve(make_run(tmp_path / "a", steps=(0, 5)), make_run(tmp_path / "b", steps=(1, 6)))


def test_seeds_that_were_never_evaluated_are_counted(tmp_path):
    folder = make_run(tmp_path / "run")
    lines = (folder / "evaluations.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["seed"] != 1]
    (folder / "evaluations.jsonl").write_text("".join(kept))
    curve = only_curve(folder)
    assert curve.series.num_runs == 2
    assert curve.remarks == ["1 of its seeds left out, not evaluated at all"]


def test_pooled_runs_with_other_settings_are_noticed(tmp_path):
    folders = [
        make_run(tmp_path / "a", seeds=(0,), settings={"discount": 0.99, "critic": {"v_max": 1}}),
        make_run(tmp_path / "b", seeds=(1,), settings={"discount": 0.9, "critic": {"v_max": 1}}),
    ]
    assert only_curve(*folders).remarks == ["pooled runs differ in discount"]


def test_the_score_of_a_myo_environment_is_its_success_rate(tmp_path):
    folder = make_run(tmp_path / "myo", MYO, success=True, seeds=(0, 1))
    (panel,) = panels_of(read_runs([folder]))
    assert panel.metric == "success_rate"
    np.testing.assert_allclose(panel.curves[0].series.lines[:, -1], [0.2, 0.4])


@pytest.mark.parametrize(("env", "success"), [(MYO, False), ("dime/MultiGoal-v0", True)])
def test_elsewhere_and_without_reports_it_is_the_return(tmp_path, env, success):
    folder = make_run(tmp_path / "run", env, success=success)
    (panel,) = panels_of(read_runs([folder]))
    assert panel.metric == "return"


def test_one_run_without_reports_makes_all_of_its_environment_returns(tmp_path):
    folders = [make_run(tmp_path / f"{flag}", MYO, success=flag) for flag in (True, False)]
    (panel,) = panels_of(read_runs(folders))
    assert panel.metric == "return"


def test_folders_that_cannot_be_drawn_are_refused(tmp_path):
    with pytest.raises(DimeError, match="nothing to draw"):
        read_runs([])
    with pytest.raises(DimeError, match="not a run"):
        read_runs(tmp_path)
    run = make_run(tmp_path / "run")
    evaluations = run / "evaluations.jsonl"
    with pytest.raises(DimeError, match="not a run"):
        read_runs([run, tmp_path / "nowhere"])
    evaluations.write_text('{"env_step": 0, "seed"')  # still being written
    with pytest.raises(DimeError, match="no evaluations yet.*Try again"):
        read_runs(run)
    (run / "status.json").write_text('{"state": "failed", "reason": "seed 0: no floor"}')
    with pytest.raises(DimeError, match="state is failed: seed 0: no floor.*leave this run out"):
        read_runs(run)
    evaluations.write_text('{"env_step": 0\n')
    with pytest.raises(DimeError, match="damaged"):
        read_runs(run)
    evaluations.write_text('{"env_step": 0, "mode": "stochastic", "success_last": null}\n')
    with pytest.raises(DimeError, match="damaged.*returns"):
        read_runs(run)
    (run / "config.json").write_text('{"format_version": 1, "env": "Ant-v5"}')
    with pytest.raises(DimeError, match="damaged.*training"):
        read_runs(run)


def test_an_evaluation_that_is_not_finite_leaves_a_gap():
    series = series_of([{0: 1.0, 1: float("nan")}, {0: 2.0, 1: 2.0}, {0: 3.0, 1: 3.0}], "runs")
    assert series.lines[0, 0] == 2.0 and np.isnan(series.lines[0, 1])


def test_settings_that_no_run_has_are_refused(tmp_path):
    folder = make_run(tmp_path / "run")
    with pytest.raises(DimeError, match="nearest: training.evaluate_every"):
        read_runs([folder], by=["training.evaluate_evry"])


SUMMARY = "environment,metric,env_step,iqm,ci_low,ci_high\n"
SCORES = "environment,metric,seed,env_step,score\n"


def written(tmp_path, text):
    path = tmp_path / "others.csv"
    path.write_text(text)
    return path


def test_the_shipped_curves():
    reference = read_reference("shipped")
    series = reference.find("dm_control/dog-run", "return")
    assert (series.env_step[0], series.env_step[-1]) == (1, 3_000_000)
    assert series.lines.shape == (1, 126) and series.band.shape == (2, 126)
    assert series.lines[0, -1] == pytest.approx(818.333)
    assert np.all(series.band[0] <= series.lines[0]) and np.all(series.lines[0] <= series.band[1])
    assert reference.find("dm_control/dog-run", "success_rate") is None
    assert reference.find("myoHandReachRandom-v0", "success_rate") is not None
    assert reference.find("Ant-v3-compatible", "return") is reference.find("Ant-v3", "return")
    assert reference.find("Ant-v5", "return") is None


def test_no_reference_is_none():
    assert read_reference(None) is None


def test_a_summary_is_taken_as_it_is_in_order_of_env_step(tmp_path):
    text = SUMMARY + "A,return,500,2,1,3\nA,return,0,1,0.5,1.5\nB,return,0,9,8,10\n"
    reference = read_reference(written(tmp_path, text))
    series = reference.find("A", "return")
    assert reference.name == "others"
    assert series.env_step.tolist() == [0, 500]
    assert series.lines.tolist() == [[1, 2]]
    assert series.band.tolist() == [[0.5, 1], [1.5, 3]]


def test_iqm_and_interval_are_computed_from_scores(tmp_path):
    rows = [f"A,return,{seed},{step},{seed * seed + step}" for seed in range(5) for step in (0, 10)]
    path = written(tmp_path, SCORES + "\n".join(rows) + "\n")
    series = read_reference(str(path)).find("A", "return")
    column = np.arange(5.0)[:, None] ** 2
    np.testing.assert_allclose(series.lines, [[iqm(column), iqm(column) + 10]])
    np.testing.assert_allclose(series.band[:, 0], bootstrap_interval(column))


def test_few_seeds_of_a_reference_have_no_interval_either(tmp_path):
    path = written(tmp_path, SCORES + "A,return,0,0,1\nA,return,1,0,2\nA,return,1,10,3\n")
    series = read_reference(path).find("A", "return")
    assert series.band is None and series.lines.tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no rows"),
        ("environment,step,score\nA,0,1\n", "columns are environment, step, score. It must be"),
        (SUMMARY, "no rows"),
        (SUMMARY + "A,return,0,1,2\n", "line 2: .*shorter"),
        (SUMMARY + "A,return,0,1,2,3\nA,return,x,1,2,3\n", "line 3: .*'x'"),
    ],
)
def test_other_files_are_refused(tmp_path, text, complaint):
    with pytest.raises(DimeError, match=complaint):
        read_reference(written(tmp_path, text))


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(DimeError, match="cannot be read.*shipped"):
        read_reference(tmp_path / "missing.csv")
    with pytest.raises(DimeError, match="cannot be read"):
        read_reference(tmp_path)
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DimeError, match="cannot be read"):
        read_reference(tmp_path / "picture.csv")
