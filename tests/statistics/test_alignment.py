import numpy as np
import pytest

from dime.errors import DimeError
from dime.statistics import align_runs

WALK = [{0: 1.0, 500: 2.0}, {0: 3.0, 500: 4.0}, {0: 5.0, 500: 6.0}]
RUN = [{500: 20.0, 0: 10.0}, {500: 40.0, 0: 30.0}, {500: 60.0, 0: 50.0}]


def test_aligned_runs_are_runs_by_tasks_by_time():
    aligned = align_runs({"walk": WALK, "run": RUN})
    np.testing.assert_array_equal(aligned.env_steps, [0, 500])
    expected = [[[1, 2], [10, 20]], [[3, 4], [30, 40]], [[5, 6], [50, 60]]]
    np.testing.assert_array_equal(aligned.scores, expected)
    assert aligned.left_out == ()


def test_env_steps_ascend_whatever_the_order_of_the_records():
    aligned = align_runs({"run": RUN})
    assert aligned.env_steps.tolist() == [0, 500]
    np.testing.assert_array_equal(aligned.scores[0], [[10, 20]])


def test_env_steps_that_not_all_runs_have_are_left_out_and_listed():
    longer = [run | {250: 0.0, 1000: 0.0, 1500: 0.0} for run in RUN]
    longer[0].pop(1500)
    aligned = align_runs({"walk": WALK, "run": longer})
    assert aligned.env_steps.tolist() == [0, 500] and aligned.scores.shape == (3, 2, 2)
    assert aligned.left_out == ("run: 3 of 5 env steps",)


def test_missing_runs_are_refused_with_their_tasks():
    with pytest.raises(DimeError, match=r"walk: 3, run: 2.*first 2 of each.*keep_fewest=True"):
        align_runs({"walk": WALK, "run": RUN[1:]})


def test_the_first_runs_of_each_task_are_kept_where_asked():
    last = {1000: 0.0}  # a run that is left out does not decide about the env steps
    aligned = align_runs({"walk": [*WALK[:2], last], "run": RUN[1:]}, keep_fewest=True)
    np.testing.assert_array_equal(aligned.scores[:, 0], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(aligned.scores[:, 1], [[30, 40], [50, 60]])
    assert aligned.left_out == ("walk: the last 1 of 3 runs",)


def test_a_score_that_is_not_a_number_stays():
    aligned = align_runs({"walk": [{0: 1.0, 500: np.nan}]})
    np.testing.assert_array_equal(aligned.scores, [[[1.0, np.nan]]])


@pytest.mark.parametrize(
    "histories, words", [({}, "are none"), ({"walk": WALK, "run": []}, "run: 0")]
)
@pytest.mark.parametrize("keep_fewest", [True, False])
def test_a_task_without_runs_is_refused(histories, words, keep_fewest):
    with pytest.raises(DimeError, match=f"Every task needs a run.*{words}"):
        align_runs(histories, keep_fewest=keep_fewest)


def test_runs_that_share_no_env_step_are_refused():
    with pytest.raises(DimeError, match="share no env step"):
        align_runs({"walk": [{0: 1.0}], "run": [{500: 1.0}]})
