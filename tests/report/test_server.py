import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from dime.errors import DimeError
from dime.report.report import make_server
from dime.training.process import this_process
from tests.figures.make_run import make_run
from tests.report.made import (
    Read,
    append_evaluations,
    make_grid,
    make_study,
    set_status,
)


@contextmanager
def serving(folder):
    server = make_server(folder, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(server, path, method="GET", headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name, value in (dict(headers) or {"Host": f"localhost:{server.server_port}"}).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def page_of(server):
    return Read(ask(server, "/")[1].decode())


def poll(server, version):
    """What an open page asks, and the version that the server has."""
    headers = {"Host": "localhost", "If-None-Match": f'"{version}"'}
    answer, content = ask(server, "/", "HEAD", headers)
    assert content == b""
    return answer.status, (answer.headers["ETag"] or "").strip('"')


@pytest.fixture
def folder(tmp_path):
    """Two studies' worth of runs, with a file outside that nobody may have."""
    (tmp_path / "secret.json").write_text("secret")
    (tmp_path / "runs-of-others").mkdir()
    (tmp_path / "runs-of-others" / "secret.json").write_text("secret")
    runs = tmp_path / "runs"
    make_grid(runs / "deep" / "study")
    make_run(runs / "Ant-v5" / "crossq" / "today", "Ant-v5", "crossq")
    return runs


def test_runs_and_studies_are_found_anywhere_below(folder):
    make_run(folder / "deep" / "study" / "unplanned", "Ant-v5", "bro")
    make_run(folder / ".unfinished", "Ant-v5", "qsm")
    with serving(folder) as server:
        page = page_of(server)
    assert {look["kind"] for look in page.data["looks"]} == {"dime", "sac", "crossq", "bro"}
    assert "deep/study/dm_control-dog-run-dime" in page.text("runs")
    assert "Ant-v5/crossq/today" in page.text("runs")
    assert page.text("runs").count("deep/study/Ant-v5-sac ") == 1


def test_only_this_machine_can_connect(folder):
    with serving(folder) as server:
        assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:8420", 200),
        ("LocalHost:1", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("evil.example:127.0.0.1", 403),
        ("localhost:evil.example", 403),
        ("0.0.0.0", 403),
        ("", 403),
    ],
)
def test_names_that_only_resolve_to_this_machine_are_refused(folder, host, status):
    with serving(folder) as server:
        for path in ("/", "/files/deep/study/study.json"):
            assert ask(server, path, headers={"Host": host})[0].status == status
        assert ask(server, "/", headers={"Accept": "*/*"})[0].status == 403


def test_malformed_requests_are_refused(folder):
    with serving(folder) as server:
        assert ask(server, "http://[")[0].status == 404
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n")
            assert b" 403 " in connection.recv(100)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "WHAT"])
def test_nothing_can_be_changed(folder, method):
    with serving(folder) as server:
        answer, _ = ask(server, "/", method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


def test_head_has_no_content(folder):
    with serving(folder) as server:
        answer, content = ask(server, "/files/deep/study/study.json", "HEAD")
    assert (answer.status, content) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    "path",
    [
        "/files/../secret.json",
        "/files/deep/../../secret.json",
        "/files/%2e%2e/secret.json",
        "/files/%2e%2e%2fsecret.json",
        "/files/..%2fsecret.json",
        "/files/%252e%252e/secret.json",
        "/files/..%5csecret.json",
        "/files/....//secret.json",
        "/files/../runs-of-others/secret.json",
        "/files/{outside}",
        "/files//{outside}",
        "/files/%2f{outside}",
        "/files/link.json",
        "/files/linked/secret.json",
        "/files/link.json%00.mp4",
        "/files/",
        "/files/deep",
        "/files/Ant-v5/crossq/today/.lock",
        "/files/Ant-v5/crossq/today/state.safetensors",
        "/secret.json",
        "/../secret.json",
    ],
)
def test_files_outside_and_of_other_kinds_are_not_handed_out(folder, path):
    outside = folder.parent / "secret.json"
    (folder / "link.json").symlink_to(outside)
    (folder / "linked").symlink_to(folder.parent / "runs-of-others")
    for name in (".lock", "state.safetensors"):
        (folder / "Ant-v5" / "crossq" / "today" / name).write_text("secret")
    with serving(folder) as server:
        answer, content = ask(server, path.format(outside=str(outside)))
    assert answer.status == 404
    assert b"secret" not in content


def test_files_of_runs_are_handed_out_whole_and_in_part(folder):
    run = folder / "Ant-v5" / "crossq" / "today"
    (run / "video.mp4").write_bytes(b"0123456789")
    (folder / "inside.mp4").symlink_to(run / "video.mp4")
    with serving(folder) as server:
        answer, content = ask(server, "/files/Ant-v5/crossq/today/video.mp4")
        assert (answer.status, content) == (200, b"0123456789")
        assert answer.headers["Content-Type"] == "video/mp4"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert ask(server, "/files/inside.mp4")[1] == b"0123456789"
        host = {"Host": "localhost", "Range": "bytes=2-4"}
        answer, content = ask(server, "/files/inside.mp4", headers=host)
        assert (answer.status, content) == (206, b"234")
        assert answer.headers["Content-Range"] == "bytes 2-4/10"
        for unclear in ("bytes=²-", "bytes=4-2", "lines=1-", "bytes=" + 5000 * "1" + "-"):
            host["Range"] = unclear
            assert ask(server, "/files/inside.mp4", headers=host)[0].status == 200
        page = page_of(server)
    videos = [attributes["src"] for tag, attributes in page.elements if tag == "video"]
    assert videos == ["/files/Ant-v5/crossq/today/video.mp4"]


def test_the_page_may_ask_its_own_server_only(folder):
    with serving(folder) as server:
        answer, content = ask(server, "/")
    (policy,) = [a["content"] for _, a in Read(content.decode()).elements if a.get("http-equiv")]
    assert "connect-src 'self'" in policy
    assert "http:" not in policy
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


def test_a_page_has_another_version_once_the_records_have_changed(folder):
    run = folder / "Ant-v5" / "crossq" / "today"
    with serving(folder) as server:
        page = page_of(server)
        assert poll(server, page.data["version"]) == (304, page.data["version"])
        append_evaluations(run, 2000)
        status, version = poll(server, page.data["version"])
        assert status == 200 and version != page.data["version"]
        page = page_of(server)
        assert page.data["version"] == version
        steps = {curve["kind"]: curve["x"] for curve in page.data["charts"]["Ant-v5"]["curves"]}
        assert steps["crossq"] == [0, 500, 1000, 1500, 2000]
        assert steps["dime"] == [0, 500, 1000, 1500]
        assert poll(server, version)[0] == 304
        make_run(folder / "new", "Hopper-v5", "sac")
        assert poll(server, version)[0] == poll(server, "unheard-of")[0] == 200
        assert set(page_of(server).data["charts"]) == {"Ant-v5", "dm_control/dog-run", "Hopper-v5"}


def test_half_written_and_damaged_runs_are_listed_and_break_nothing(folder):
    half = make_run(folder / "half")
    with (half / "evaluations.jsonl").open("a") as file:
        file.write('{"env_step": 2000, "se')
    make_run(folder / "none-yet", steps=())
    (folder / "torn").mkdir()
    (folder / "torn" / "config.json").write_text('{"format_')
    (folder / "foreign").mkdir()
    (folder / "foreign" / "config.json").write_text('{"model_type": "x"}')
    (folder / "no-config").mkdir()
    (folder / "no-config" / "evaluations.jsonl").write_text("{}\n")
    for name, content in {
        "lists": "[]\n",
        "numbers": "3\n",
        "huge": json.dumps({"env_step": 10**400, "seed": 0, "mode": "x", "returns": [10**400]})
        + "\n",
        "bytes": "\udcff\udcfe\n",
    }.items():
        run = make_run(folder / name)
        (run / "evaluations.jsonl").write_bytes(content.encode("utf-8", "surrogateescape"))
    odd = make_run(folder / "odd")
    (odd / "status.json").write_text('{"env_step": "x", "wall_time_s": 1e999, "failed_seeds": [1]}')
    (odd / "provenance.json").write_text('{"starts": [3, {"command": "x", "versions": 7}]}')
    (folder / "broken-study").mkdir()
    (folder / "broken-study" / "study.json").write_text("{")
    escaping = make_study(folder / "escaping", planned=["../../secret", "x\x00y"])
    assert escaping.is_dir()
    with serving(folder) as server:
        answer, content = ask(server, "/")
    assert answer.status == 200, content
    page = Read(content.decode())
    for name in ("none-yet", "torn", "foreign", "no-config", "lists", "numbers", "huge", "bytes"):
        assert f" {name} " in f" {page.text('trouble')} ", name
    assert "broken-study" in page.text("trouble")
    assert "is no trial's name" in page.text("trouble")
    assert page.data["charts"]["dm_control/walker-run"]["curves"]
    assert " odd " in page.text("runs")


def test_a_run_whose_process_dies_is_dead_although_no_file_changes(folder):
    run = folder / "Ant-v5" / "crossq" / "today"
    with subprocess.Popen(["sleep", "100"]) as process, serving(folder) as server:
        set_status(run, "running", process=this_process() | {"pid": process.pid, "started": None})
        page = page_of(server)
        assert "running" in page.text("runs") and "still running" in page.text("trouble")
        assert poll(server, page.data["version"])[0] == 304
        process.kill()
        process.wait()
        assert poll(server, page.data["version"])[0] == 200
        page = page_of(server)
        assert "dead" in page.text("runs") and "its process is gone" in page.text("trouble")


def test_a_page_that_cannot_be_made_now_is_an_answer_too(folder, monkeypatch):
    with serving(folder) as server:
        page_of(server)
        monkeypatch.setattr(server, "_reader", None)
        set_status(folder / "Ant-v5" / "crossq" / "today", "running", env_step=3)
        answer, content = ask(server, "/")
        assert answer.status == 500
        assert b"cannot be made" in content


def test_a_port_in_use_is_named(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            DimeError, match=f"Port {port} is not available .*in use.*--port {port + 1}"
        ):
            make_server(folder, port)


def test_refusals(tmp_path):
    with pytest.raises(DimeError, match="is no folder"):
        make_server(tmp_path / "nowhere", 0)
    with pytest.raises(DimeError, match="port is 70000"):
        make_server(tmp_path, 70000)


def test_ctrl_c_ends_it_cleanly(folder):
    code = f"from dime.report import serve; serve({str(folder)!r}, 0)"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert "http://127.0.0.1:" in process.stdout.readline()
    time.sleep(0.2)  # until it is inside the loop
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
