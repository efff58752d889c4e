import numpy as np
import pytest

from dime.errors import DimeError
from dime.figures.curves import read_reference
from dime.statistics import bootstrap_interval, iqm

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
        ("", r"columns \(none\)"),
        ("environment,step,score\nA,0,1\n", "columns environment, step, score. It must have"),
        (SUMMARY, "no rows"),
        (SUMMARY + "A,return,0,1,2\n", "5 cells in line 2"),
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
