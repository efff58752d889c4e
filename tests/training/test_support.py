"""R8: a support that cuts off returns is warned of, once for each seed."""

import pytest

from dime.training.faults import SupportWatch
from tests.training.runs import DIME, start

pytestmark = pytest.mark.promise("R8")


def metrics(share, of_returns=1.0):
    targets = {"target_low": -3.0, "target_high": 7.25}
    return {
        "target_clipped_mass": share,
        "target_clipped_mass_of_returns": of_returns * share,
        **targets,
    }


def test_two_records_in_a_row_are_warned_of_once():
    watch = SupportWatch()
    assert watch.warning(0, metrics(0.02)) is None
    assert watch.warning(0, metrics(0.001)) is None
    assert watch.warning(0, metrics(0.02)) is None
    assert watch.warning(1, metrics(0.02)) is None  # another seed
    said = watch.warning(0, metrics(0.034))
    for part in ("seed 0", "3.4%", "[-3, 7.25]", "--critic.v-min"):
        assert part in said
    assert watch.warning(0, metrics(0.5)) is None
    assert "seed 1" in watch.warning(1, metrics(0.02))


def test_the_share_without_the_entropy_is_named():
    watch = SupportWatch()
    both = metrics(0.9, of_returns=0.4 / 0.9)
    watch.warning(0, both)
    said = watch.warning(0, both)
    assert "90.0%" in said and "40.0% without the entropy's term" in said


def test_metrics_of_an_older_checkpoint_say_less():
    watch = SupportWatch()
    older = {
        name: v for name, v in metrics(0.5).items() if name != "target_clipped_mass_of_returns"
    }
    watch.warning(0, older)
    assert "wider support" in watch.warning(0, older)


def test_critics_without_a_support_are_none_of_it():
    watch = SupportWatch()
    assert [watch.warning(0, {"critic_loss": 1.0}) for _ in range(3)] == [None] * 3


@pytest.mark.parametrize("bound, warned", [(0.2, True), (200.0, False)])
def test_a_run_with_a_narrow_support_says_so(bound, warned, tmp_path, capsys):
    critic = DIME["critic"] | {"num_atoms": 101, "v_min": -bound, "v_max": bound}
    start(tmp_path / "run", progress=True, **DIME | {"critic": critic, "discount": 0.5})
    assert ("lies outside of its support" in capsys.readouterr().out) == warned
