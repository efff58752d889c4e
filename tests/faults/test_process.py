"""R7 with env_process: an environment that hangs, exits or is killed is one that raised."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import dime.training.host.evaluation
from dime.envs.process import EnvironmentProcessError, ProcessEnv, RemoteError
from dime.envs.registry import make
from dime.errors import DimeError
from tests.training.flaky import AlwaysHangs, Closes, FailsOnce, Meets, OldFashioned, Simulator
from tests.training.runs import assert_same_run, resume, start, status_of
from tests.training.walk import Walk, walks

pytestmark = pytest.mark.promise("R7")

ACTION = np.zeros(2, np.float32)


@pytest.fixture
def made():
    """Makes environments in processes, which are gone when the test is."""
    environments = []

    def build(*arguments, **options):
        environments.append(make(*arguments, **({"process_timeout_s": 30.0} | options)))
        return environments[-1]

    yield build
    for env in environments:
        env.close()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def wait_for(condition):
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def pid_of(env):
    return env.env._process.pid


def test_it_answers_what_the_environment_does(made):
    there, here = made(Walk), make(Walk)
    assert there.spaces == here.spaces and pid_of(there) != os.getpid()
    assert (there.name, there.max_episode_steps) == ("Walk", here.max_episode_steps)
    assert there.frames_per_second == here.frames_per_second
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 2)).astype(np.float32)
    due = True
    for number, action in enumerate(actions):
        if due:
            np.testing.assert_array_equal(there.reset(number), here.reset(number))
        mine, others = there.step(action), here.step(action)
        np.testing.assert_array_equal(mine.obs, others.obs)
        assert mine[1:] == others[1:]
        due = mine.terminated or mine.truncated


@pytest.mark.parametrize("name", ["dm_control/cartpole-swingup", "dime/MultiGoal-v0"])
def test_shipped_environments_run_there_as_here(name, made):
    there, here = made(name), make(name)
    assert (there.spaces, there.name, there.max_episode_steps) == (
        here.spaces,
        here.name,
        here.max_episode_steps,
    )
    np.testing.assert_array_equal(there.reset(1), here.reset(1))
    for _ in range(5):
        action = np.full(here.action_dim, 0.3, np.float32)
        mine, others = there.step(action), here.step(action)
        np.testing.assert_array_equal(mine.obs, others.obs)
        assert mine[1:] == others[1:]


def test_closing_ends_the_process(made):
    env = made(Walk)
    pid = pid_of(env)
    assert alive(pid)
    env.close()
    env.close()
    assert not alive(pid)


def test_what_raises_there_shows_its_own_traceback(made, tmp_path):
    env = made(FailsOnce, {"folder": str(tmp_path), "step": 1, "how": "raises"})
    env.reset(0)
    with pytest.raises(RemoteError, match="Slipped: the floor is wet") as caught:
        env.step(ACTION)
    assert "in step" in str(caught.value.__cause__) and "flaky.py" in str(caught.value.__cause__)
    env.reset(0)  # it is still there
    env.step(ACTION)


@pytest.mark.parametrize("how", ["exits", "killed"])
def test_a_process_that_is_gone_is_told_with_its_exit_code(how, made, tmp_path):
    env = made(FailsOnce, {"folder": str(tmp_path), "step": 1, "how": how})
    env.reset(0)
    if how == "killed":
        os.kill(pid_of(env), signal.SIGKILL)
    code = {"exits": 3, "killed": -signal.SIGKILL}[how]
    with pytest.raises(EnvironmentProcessError, match=f"exit code {code}"):
        env.step(ACTION)


def test_it_is_called_as_here(made):
    there, here = made(OldFashioned), make(OldFashioned)
    np.testing.assert_array_equal(there.reset(3), here.reset(3))
    np.testing.assert_array_equal(there.step(ACTION).obs, here.step(ACTION).obs)


@pytest.mark.parametrize("how", ["closed", "dropped", "parent killed"])
def test_what_it_has_started_ends_with_it(how, tmp_path, caplog):
    env = make(Simulator, {"folder": str(tmp_path)}, process_timeout_s=30.0)
    pid, program = pid_of(env), int((tmp_path / "program").read_text())
    assert alive(program)
    if how == "closed":
        env.close()
        assert "the door is stuck" in caplog.text
    elif how == "dropped":
        del env
    else:
        os.kill(pid, signal.SIGSTOP)  # it can do nothing itself
        env.env._end()
    wait_for(lambda: not alive(pid) and not alive(program))


def test_it_can_end_what_it_has_started(tmp_path, made):
    env = made(Simulator, {"folder": str(tmp_path)})
    env.reset(1)  # sends SIGTERM, which is not ignored there
    assert not alive(int((tmp_path / "program").read_text()))


def test_a_signal_to_the_group_while_it_starts(tmp_path):
    """All of the group get it; the environment's process goes on, its maker decides."""
    code = (
        "import os, signal, threading, time\n"
        "from dime.envs.registry import make\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "    def send():\n"
        "        for _ in range(100):\n"
        "            time.sleep(0.01)\n"
        "            os.killpg(0, signal.SIGTERM)\n"
        "    threading.Thread(target=send, daemon=True).start()\n"
        "    env = make('dime/MultiGoal-v0', process_timeout_s=30.0)\n"
        "    print(env.reset(0).shape)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    assert (ended.returncode, ended.stdout) == (0, "(2,)\n"), ended.stderr


def test_ctrl_c_while_it_is_made_leaves_nothing(tmp_path):
    code = (
        "import os, signal, threading, time\n"
        "from dime.envs.registry import make\n"
        "if __name__ == '__main__':\n"
        "    send = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "    threading.Timer(0.5, send).start()\n"
        "    make('dime/MultiGoal-v0', process_timeout_s=30.0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "KeyboardInterrupt" in ended.stderr


def test_one_that_hangs_is_ended(made):
    env = made(AlwaysHangs)
    env.reset(0)
    env.env._timeout_s = 1.0
    pid = pid_of(env)
    with pytest.raises(EnvironmentProcessError, match="longer than 1 s"):
        env.step(ACTION)
    assert not alive(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_signals_to_the_whole_group_leave_it_to_the_training_process(number, made):
    env = made(Walk)
    env.reset(0)
    os.kill(pid_of(env), number)
    time.sleep(0.2)
    env.step(ACTION)


def test_it_ends_with_the_process_that_made_it():
    code = (
        "import os, sys, time\n"
        "from dime.envs.registry import make\n"
        "if __name__ == '__main__':\n"
        "    env = make('dime/MultiGoal-v0', process_timeout_s=30.0)\n"
        "    print(env.env._process.pid, flush=True)\n"
        "    time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as one:
        pid = int(one.stdout.readline())
        assert alive(pid)
        one.kill()
    wait_for(lambda: not alive(pid))


@pytest.mark.parametrize("kind", ["AlwaysHangs", "HangsInC"])
def test_one_that_hangs_ends_with_the_process_that_made_it(kind):
    code = (
        "from tests.training import flaky\n"
        "from dime.envs.registry import make\n"
        "if __name__ == '__main__':\n"
        f"    env = make(flaky.{kind}, process_timeout_s=100.0)\n"
        "    env.reset(0)\n"
        "    print(env.env._process.pid, flush=True)\n"
        "    env.step([0.0, 0.0])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as one:
        pid = int(one.stdout.readline())
        time.sleep(0.5)
        one.kill()
    wait_for(lambda: not alive(pid))


def test_what_leaves_without_closing_does_not_wait(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from dime.envs.registry import make\n"
        "if __name__ == '__main__':\n"
        "    env = make('dime/MultiGoal-v0', process_timeout_s=30.0)\n"
        "    print('made')\n"
    )
    ended = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=True
    )
    assert (ended.stdout, ended.stderr) == ("made\n", "")


def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from dime.envs.registry import make\n"
        "env = make('dime/MultiGoal-v0', process_timeout_s=30.0)\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0 and "if __name__ == '__main__':" in ended.stderr


def test_what_cannot_be_handed_over_is_refused():
    with pytest.raises(DimeError, match="must be an id, or a function or class of a module"):
        make(walks(), process_timeout_s=30.0)


def test_refusals_there_are_refusals_here():
    with pytest.raises(DimeError, match="There is no environment 'dime/MultiGaol-v0'"):
        make("dime/MultiGaol-v0", process_timeout_s=30.0)


def test_one_that_cannot_be_made_says_why(tmp_path):
    with pytest.raises(RemoteError, match="FileNotFoundError"):
        ProcessEnv(partial(FailsOnce, str(tmp_path / "absent"), 1, "exits"), 30.0)


def test_a_run_with_processes_is_the_run_without(tmp_path, straight):
    result = start(tmp_path / "run", Walk, env_process=True)
    assert result.state == "finished"
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.parametrize("how", ["raises", "exits", "hangs"])
def test_a_run_goes_on_with_another_process(how, tmp_path):
    (tmp_path / "marks").mkdir()
    kwargs = {"folder": str(tmp_path / "marks"), "step": 22, "how": how}
    timeout_s = 4.0 if how == "hangs" else 60.0
    options = {"env_process": True, "env_timeout_s": timeout_s, "max_env_restarts": 1}
    result = start(tmp_path / "run", FailsOnce, env_kwargs=kwargs, **options)
    assert (result.state, result.env_step) == ("finished", 48)
    assert status_of(tmp_path / "run")["env_restarts"] == {"0": 1}
    # One trains, two evaluate; whichever failed was replaced (an evaluation's two together).
    assert len(list((tmp_path / "marks").glob("process-*"))) in (4, 5)


def test_past_the_limit_it_saves_and_fails(tmp_path):
    options = {"env_process": True, "env_timeout_s": 4.0, "max_env_restarts": 1}
    result = start(tmp_path / "run", AlwaysHangs, **options)
    assert result.state == "failed" and "longer than 4 s" in result.reason
    assert status_of(tmp_path / "run")["state"] == "failed"


def test_stopped_and_resumed_in_processes(tmp_path, straight):
    def stop(record):
        return record["env_step"] == 20

    assert start(tmp_path / "run", Walk, stop, env_process=True).state == "interrupted"
    assert resume(tmp_path / "run", Walk).state == "finished"
    assert_same_run(tmp_path / "run", straight)


def test_the_environments_of_several_seeds_and_episodes_step_side_by_side(tmp_path, monkeypatch):
    """Each waits for the other: one after the other they would run into their time limit."""
    monkeypatch.setattr(
        dime.training.host.evaluation, "why_not_repeatable", lambda env: None
    )  # alone
    result = start(
        tmp_path / "run",
        Meets,
        seeds=[0, 7],
        env_kwargs={"folder": str(tmp_path), "number": 2},
        env_process=True,
        env_timeout_s=20.0,
        num_env_steps=14,
        num_evaluation_episodes=1,
        evaluation_modes=["deterministic"],
    )
    assert result.state == "finished", result.reason


def test_a_step_begun_where_the_process_is_gone_is_an_error_of_the_step(made):
    env = made(Walk)
    env.reset(0)
    os.kill(pid_of(env), signal.SIGKILL)
    env.env._process.join()
    env.start_step(ACTION)
    with pytest.raises(EnvironmentProcessError, match="exit code -9"):
        env.step(ACTION)


def test_a_step_that_was_begun_is_taken_once(made):
    one, other = made(Walk), make(Walk)
    one.reset(0), other.reset(0)
    for _ in range(3):
        one.start_step(ACTION)
        mine, theirs = one.step(ACTION), other.step(ACTION)
        np.testing.assert_array_equal(mine.obs, theirs.obs)
    one.start_step(ACTION * np.nan)
    with pytest.raises(DimeError, match="non-finite action"):
        one.step(ACTION * np.nan)


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_step_that_was_begun_and_is_not_awaited_disturbs_nothing(how, made, tmp_path):
    env, other = made(Closes, {"folder": str(tmp_path)}), make(Walk)
    for each in (env, other):
        each.reset(0)
    env.start_step(ACTION)
    if how == "reset":
        np.testing.assert_array_equal(env.reset(5), other.reset(5))
        np.testing.assert_array_equal(env.step(ACTION).obs, other.step(ACTION).obs)
    env.close()
    assert (tmp_path / "closed").exists()
