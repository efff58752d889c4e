import importlib.util
import json
import re

import numpy as np
import pytest

from dime.errors import DimeError
from dime.figures.curves import panels_of
from dime.figures.runs import read_runs
from dime.figures.style import colour_of
from dime.report import report as writing
from dime.report import write_report
from dime.statistics import bootstrap_interval, iqm
from tests.figures.make_run import evaluation, make_run
from tests.report.made import (
    Read,
    make_grid,
    make_study,
    read,
    set_provenance,
    set_status,
)

HOSTILE = "\"><img src=x onerror='broken()'></script><script>broken()</script><!--&amp;"


@pytest.fixture
def report(tmp_path):
    """Writes a report and reads it."""
    return lambda *folders, **options: read(
        write_report(folders, tmp_path / "out" / "report.html", **options)
    )


def final_scores(folder, step, mode="stochastic"):
    """(seeds,), straight from the records."""
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return np.array(
        [np.mean(r["returns"]) for r in records if (r["env_step"], r["mode"]) == (step, mode)]
    )


def test_final_scores_are_the_statistics_of_the_records(tmp_path, report):
    study = make_grid(tmp_path / "study", envs=("dm_control/dog-run", "dm_control/dog-walk"))
    text = report(study).text("scores")
    by_algorithm = {}
    for env in ("dog-run", "dog-walk"):
        for algorithm in ("dime", "sac"):
            scores = final_scores(study / f"dm_control-{env}-{algorithm}", 1500)
            low, high = bootstrap_interval(scores[:, None])
            assert f"{iqm(scores[:, None]):.1f}" in text
            assert f"[{low:.1f}, {high:.1f}]" in text
            by_algorithm.setdefault(algorithm, []).append(scores / 1000)
    for tasks in by_algorithm.values():
        scores = np.stack(tasks, axis=1)
        low, high = bootstrap_interval(scores)
        assert f"{iqm(scores):.3f}" in text
        assert f"[{low:.3f}, {high:.3f}]" in text
    assert "All 2 environments DeepMind Control, return / 1000" in text


def test_charts_hold_the_curves_of_the_figures(tmp_path, report):
    study = make_grid(tmp_path / "study", modes=("stochastic", "deterministic"))
    data = report(study).data
    panels = panels_of(read_runs(study))
    assert list(data["charts"]) == [panel.environment for panel in panels]
    for panel in panels:
        drawn = data["charts"][panel.environment]["curves"]
        assert len(drawn) == len(panel.curves) == 4
        for shown, curve in zip(drawn, panel.curves, strict=True):
            assert (shown["kind"], shown["mode"]) == (curve.kind, curve.mode)
            assert shown["x"] == curve.series.env_step.tolist()
            np.testing.assert_allclose(shown["lines"], curve.series.lines, rtol=1e-5)
            np.testing.assert_allclose([shown["low"], shown["high"]], curve.series.band, rtol=1e-5)
            assert shown["tails"] == []
    looks = {look["kind"]: look for look in data["looks"]}
    assert looks["sac"]["colour"] == colour_of("sac").lower()
    assert looks["sac"]["dash"] != looks["dime"]["dash"]
    assert looks["sac"]["symbol"] != looks["dime"]["symbol"]


def test_each_algorithm_is_shown_in_its_official_mode_at_first(tmp_path, report):
    study = make_grid(tmp_path / "study", modes=("stochastic", "deterministic"))
    page = report(study)
    official = {
        (curve["kind"], curve["mode"])
        for chart in page.data["charts"].values()
        for curve in chart["curves"]
        if curve["official"]
    }
    assert official == {("dime", "stochastic"), ("sac", "deterministic")}
    modes = [
        attributes["data-mode"] for _, attributes in page.elements if "data-mode" in attributes
    ]
    assert modes == ["official", "stochastic", "deterministic"]
    shown = [a for _, a in page.elements if "data-mode" in a and "hidden" not in a]
    assert [attributes["data-mode"] for attributes in shown] == ["official"]


def test_fewer_than_three_seeds_have_no_interval_and_it_says_so(tmp_path, report):
    run = make_run(tmp_path / "run", seeds=(0, 1))
    page = report(run)
    text = page.text("scores")
    assert f"{final_scores(run, 1500).mean():.1f}" in text
    assert "2 seeds, no interval" in text
    assert "[" not in text
    (curve,) = page.data["charts"]["dm_control/walker-run"]["curves"]
    assert curve["low"] is None
    assert len(curve["lines"]) == 2


def test_unequal_seeds_are_all_used_and_said(tmp_path, report):
    runs = [
        make_run(tmp_path / "a", "dm_control/dog-run", seeds=range(3)),
        make_run(tmp_path / "b", "dm_control/dog-walk", seeds=range(5)),
    ]
    text = report(*runs).text("scores")
    scores = np.concatenate([final_scores(run, 1500) for run in runs]) / 1000
    assert f"{iqm(scores[:, None]):.3f}" in text
    assert "3 to 5 seeds" in text
    assert "Numbers of seeds differ" in text
    assert "environments with more seeds weigh more in dime" in text


def test_a_run_that_ended_early_shortens_the_comparison_but_hides_nothing(tmp_path, report):
    runs = [make_run(tmp_path / f"run-{seed}", seeds=(seed,)) for seed in range(3)]
    runs.append(make_run(tmp_path / "early", seeds=(3,), steps=(0, 500)))
    set_status(runs[-1], "failed", "the simulator <b>exploded</b>", env_step=700)
    page = report(*runs)
    (curve,) = page.data["charts"]["dm_control/walker-run"]["curves"]
    assert curve["x"] == [0, 500]
    assert [tail["x"] for tail in curve["tails"]] == [[500, 1000, 1500]] * 3
    assert "at 500 env steps" in page.text("scores")
    assert "Thin dotted lines" in page.text("curves")
    assert "early failed 700 of 1.5k the simulator <b>exploded</b>" in page.text("trouble")
    assert "(3 of 4 seeds)" in page.text("curves")


def test_no_run_is_dropped_silently(tmp_path, report):
    folder = tmp_path / "study"
    good = make_run(folder / "good")
    set_status(good, "finished")
    empty = make_run(folder / "empty", steps=())
    damaged = make_run(folder / "damaged")
    (damaged / "evaluations.jsonl").write_text("[1]\n{\n")
    strange = make_run(folder / "strange")
    record = evaluation(0, 0, "stochastic") | {"returns": ["many"]}
    (strange / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
    silent = make_run(folder / "silent", seeds=(5, 6))
    lines = (silent / "evaluations.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["seed"] == 5]
    (silent / "evaluations.jsonl").write_text("".join(kept))
    interrupted = make_run(folder / "interrupted")
    set_status(interrupted, "interrupted", "SIGTERM", env_step=1200)
    failed = make_run(folder / "failed")
    set_status(failed, "failed")
    place = failed / "failures" / "seed-1"
    place.mkdir(parents=True)
    (place / "failure.json").write_text(json.dumps({"reason": "NaN in the critic"}))
    (place / "traceback.txt").write_text("Traceback: line 7")
    begun = [good, empty, damaged, strange, silent, interrupted, failed]
    make_study(folder, trials=begun, planned=["later", "crashed"])
    (folder / "failures").mkdir()
    (folder / "failures" / "crashed.txt").write_text("Traceback\nRuntimeError: no GPU")
    page = report(folder)
    text = page.text("trouble")
    for run in begun[1:]:
        assert f"baselines/{run.name} " in text
    assert "baselines/good " not in text
    for reason in (
        "has no evaluations yet",
        "is damaged: line 1 is no record",
        "evaluations.jsonl, line 1, is damaged",
        "no evaluation of seed 6",
        "SIGTERM",
        "NaN in the critic",
        "Traceback: line 7",
        "baselines/later not begun",
        "baselines/crashed failed – RuntimeError: no GPU",
        "Traceback RuntimeError: no GPU",
    ):
        assert reason in text, reason
    assert "cannot be read: 8 (" in page.text("headline")
    assert all(f"baselines/{run.name} " in page.text("runs") for run in begun)


def test_runs_that_cannot_be_averaged_leave_the_others_alone(tmp_path, report):
    runs = [
        make_run(tmp_path / "a", "Ant-v5", steps=(0, 500)),
        make_run(tmp_path / "b", "Ant-v5", steps=(250, 750)),
        make_run(tmp_path / "c", "dm_control/dog-run"),
    ]
    page = report(*runs)
    assert list(page.data["charts"]) == ["dm_control/dog-run"]
    assert "share no evaluated env step" in page.text("curves")


def test_a_report_without_any_evaluation_is_written_all_the_same(tmp_path, report):
    run = make_run(tmp_path / "run", steps=())
    page = report(run)
    assert "No run has an evaluation" in page.text("scores")
    assert "run unknown – run has no evaluations yet" in page.text("trouble")


def test_texts_of_runs_cannot_become_markup(tmp_path, report):
    name = "a<img src=x>&'\""
    settings = {HOSTILE: HOSTILE, "discount": 0.9}
    runs = [
        make_run(tmp_path / "study" / name, HOSTILE, f"mine:{HOSTILE}", settings=settings),
        make_run(tmp_path / "study" / "other", HOSTILE, "sac", modes=(HOSTILE,)),
    ]
    set_status(runs[0], "failed", HOSTILE)
    set_provenance(runs[0], command=["dime", HOSTILE], device=HOSTILE, versions={HOSTILE: HOSTILE})
    place = runs[0] / "failures" / "seed-0"
    place.mkdir(parents=True)
    (place / "traceback.txt").write_text(HOSTILE)
    study = make_study(tmp_path / "study", HOSTILE, runs, planned=["x<y"], source=HOSTILE)
    page = report(study)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 3
    assert "img" not in tags
    assert not [key for _, attributes in page.elements for key in attributes if key[:2] == "on"]
    assert list(page.data["charts"]) == [HOSTILE]
    for part in ("title", "headline", "trouble", "settings", "runs", "reproduce"):
        assert HOSTILE in page.text(part) or part == "headline", part


def test_nothing_is_fetched_and_only_its_own_scripts_may_run(tmp_path, report):
    page = report(make_grid(tmp_path / "study"))
    addresses = [
        attributes[key] for _, attributes in page.elements for key in ("src", "href")
        if key in attributes
    ]  # fmt: skip
    assert all(address.startswith(("#", "data:")) for address in addresses)
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv")]
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    scripts = re.search("script-src ([^;]*)", policy)[1]
    assert "unsafe" not in scripts
    assert scripts.count("'sha256-") == 2


def test_settings_that_differ_are_side_by_side(tmp_path, report):
    dime = {"discount": 0.99, "critic": {"v_max": 100.0, "hidden_dim": 256}}
    sac = {"discount": 0.99, "critic": {"v_max": 200.0}}
    runs = [
        make_run(tmp_path / "a", settings=dime),
        make_run(tmp_path / "b", algorithm="sac", settings=sac),
    ]
    page = report(*runs)
    text = page.text("settings")
    assert "critic.v_max 100.0 200.0" in text
    assert "critic.hidden_dim 256 –" in text
    assert "discount 0.99" not in text
    assert '"discount": 0.99' in page.text("settings")


def test_pace_and_machine_are_shown(tmp_path, report):
    run = make_run(tmp_path / "run")
    set_provenance(run)
    page = report(run)
    assert "dime 10.0 10.0 to 10.0 1 day, 3:46:40 3 1 Fast GPU · Linux-6.1" in page.text("speed")
    assert "dime train" in page.text("reproduce")
    assert "/usr/bin" not in page.text("reproduce")
    assert "1.2.3 abc123 3.11.9 Linux-6.1 Fast GPU (gpu) jax 0.10.2" in page.text("reproduce")


def test_the_studys_file_is_in_the_report(tmp_path, report):
    run = make_run(tmp_path / "study" / "run")
    study = make_study(tmp_path / "study", trials=[run], source='seeds = 3\nname = "x"')
    assert 'seeds = 3 name = "x"' in report(study).text("reproduce")


def test_variants_of_a_study_have_separate_curves(tmp_path, report):
    runs = [
        make_run(tmp_path / "study" / f"n{n}", settings={"num_steps": n, "discount": 0.99})
        for n in (4, 16)
    ]
    study = make_study(tmp_path / "study", trials=runs, varied=["settings.num_steps"])
    kinds = [look["kind"] for look in report(study).data["looks"]]
    assert kinds == ["dime num_steps=4", "dime num_steps=16"]


def test_reference_is_drawn_if_there_is_one(tmp_path, report):
    study = make_grid(tmp_path / "study", algorithms=("dime",), steps=(0, 24_000, 48_000))
    page = report(study, reference="shipped")
    charts = page.data["charts"]
    assert charts["Ant-v5"]["reference"] is None
    published = charts["dm_control/dog-run"]["reference"]
    assert published["kind"] == "DIME, published"
    assert published["x"][0] <= 24_000 <= published["x"][-1] <= 72_000
    assert "DIME, published" in page.text("controls")


def test_success_is_the_score_of_myosuite(tmp_path, report):
    runs = [
        make_run(tmp_path / env, env, success=True)
        for env in ("myoHandReachRandom-v0", "myoHandKeyTurnRandom-v0")
    ]
    page = report(*runs)
    assert page.data["charts"]["myoHandReachRandom-v0"]["metric"] == "success rate"
    assert "All 2 environments MyoSuite 0.400" in page.text("scores")


def test_videos_are_inlined_smallest_first_and_the_rest_named(tmp_path, monkeypatch, report):
    sizes = {"dime": 30_000, "sac": 90_000, "bro": 60_000}
    runs = []
    for algorithm, size in sizes.items():
        run = make_run(tmp_path / algorithm, algorithm=algorithm)
        (run / "video.mp4").write_bytes(bytes(size))
        runs.append(run)
    second = make_run(tmp_path / "second", algorithm="dime", seeds=(4, 5, 6))
    (second / "video.mp4").write_bytes(b"later seed")
    bare = tmp_path / "bare.html"
    monkeypatch.setattr(writing, "MAX_BYTES", 0)
    size = write_report([*runs, second], bare).stat().st_size
    monkeypatch.setattr(writing, "MAX_BYTES", size + 100_000 + 130_000)
    page = report(*runs, second)
    videos = [attributes["src"] for tag, attributes in page.elements if tag == "video"]
    assert sorted(map(len, videos)) == [40_022, 80_022]
    assert "Left out, so that the file stays small: sac on dm_control/walker-run." in page.text(
        "videos"
    )
    assert (tmp_path / "out" / "report.html").stat().st_size < size + 230_000


def test_many_videos_stay_below_the_limit(tmp_path):
    runs = []
    for number, env in enumerate(["Ant-v5", "Hopper-v5", "Walker2d-v5"]):
        runs.append(make_run(tmp_path / str(number), env))
        (runs[-1] / "video.mp4").write_bytes(bytes(5_000_000))
    path = write_report(runs, tmp_path / "report.html")
    assert 17_000_000 < path.stat().st_size < 20_000_000
    assert "Left out" in read(path).text("videos")


@pytest.mark.parametrize("missing", ["plotly", "jinja2"])
def test_without_its_extra_it_says_what_to_install(tmp_path, monkeypatch, missing):
    run = make_run(tmp_path / "run")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else found(name)
    )
    with pytest.raises(DimeError, match=r"pip install 'dime-rl\[report\]'"):
        write_report(run, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_refusals_name_the_remedy(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(DimeError, match=r"name ending in \.html"):
        write_report(run, tmp_path / "report.pdf")
    with pytest.raises(DimeError, match="neither a run nor a study"):
        write_report([run, tmp_path], tmp_path / "report.html")
    with pytest.raises(DimeError, match="at least one run"):
        write_report([], tmp_path / "report.html")


def test_reading_a_page_notices_what_is_not_closed():
    with pytest.raises(AssertionError, match="closed by"):
        Read("<div><p></div>")
