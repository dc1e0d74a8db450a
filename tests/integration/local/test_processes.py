import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from local.processes import Child, ChildError, free_port, start_server

FOREVER = "import time; print('ready', flush=True); time.sleep(600)"
IGNORING_SIGTERM = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


def python(code: str, log: Path, **more: object) -> Child:
    return Child([sys.executable, "-c", code], log=log, **more)  # type: ignore[arg-type]


def says(log: Path, text: str) -> Callable[[], bool]:
    return lambda: text in log.read_text()


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def test_a_child_gets_its_environment_directory_and_an_empty_input(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['COLOUR'], os.getcwd(), repr(sys.stdin.read()))"
    log = tmp_path / "log"
    child = python(code, log, env=os.environ | {"COLOUR": "green"}, cwd=tmp_path)
    child.wait_until(lambda: child.poll() == 0)
    assert log.read_text() == f"green {tmp_path} ''\n"


def test_a_child_runs_in_a_session_of_its_own(tmp_path: Path) -> None:
    with python(FOREVER, tmp_path / "log") as child:
        child.wait_until(says(child.log, "ready"))
        assert os.getsid(child.pid) == child.pid != os.getsid(0)


def test_a_child_does_not_inherit_pythons_ignored_signals(tmp_path: Path) -> None:
    child = Child(["sh", "-c", "kill -s PIPE $$; echo survived"], log=tmp_path / "log")
    eventually(lambda: child.poll() is not None)
    assert child.poll() == -signal.SIGPIPE


def test_stop_may_be_called_again(tmp_path: Path) -> None:
    child = python(FOREVER, tmp_path / "log")
    child.wait_until(says(child.log, "ready"))
    assert [child.stop(), child.stop()] == [-signal.SIGTERM, -signal.SIGTERM]


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    child = python(IGNORING_SIGTERM, tmp_path / "log")
    child.wait_until(says(child.log, "ready"))
    assert child.stop(grace=0.2) == -signal.SIGKILL


def test_a_child_that_ends_before_it_is_ready_is_an_error_that_quotes_its_log(tmp_path: Path) -> None:
    child = python("import sys; sys.exit('no such setting: COLOUR')", tmp_path / "log")
    with pytest.raises(ChildError, match=r"(?s)ended with exit code 1 before it was ready.*no such setting: COLOUR"):
        child.wait_until(lambda: False)


def test_a_child_that_is_not_ready_in_time_is_an_error_that_quotes_its_log(tmp_path: Path) -> None:
    with python(FOREVER, tmp_path / "log") as child:
        child.wait_until(says(child.log, "ready"))
        with pytest.raises(ChildError, match=r"(?s)not ready within 0.1 s.*ready"):
            child.wait_until(lambda: False, timeout=0.1)


def test_an_error_quotes_only_what_this_child_wrote(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of an earlier run\n")
    with pytest.raises(ChildError) as raised:
        python("raise SystemExit(3)", log).wait_until(lambda: False)
    assert "earlier" not in str(raised.value)
    assert "(nothing was written)" in str(raised.value)


def test_a_command_that_does_not_exist_is_an_error_that_names_it(tmp_path: Path) -> None:
    child = Child(["no-such-command"], log=tmp_path / "log")
    with pytest.raises(ChildError, match=r"(?s)exit code 127.*cannot run no-such-command"):
        child.wait_until(lambda: False)


def test_a_child_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = f"""
import pathlib, sys, time
from local.processes import Child
child = Child([sys.executable, "-c", {FOREVER!r}], log=pathlib.Path({str(tmp_path / "grandchild")!r}))
child.wait_until(lambda: "ready" in child.log.read_text())
print(f"pid={{child.pid}}.", flush=True)
time.sleep(600)
"""
    parent = python(code, tmp_path / "log", env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    try:
        parent.wait_until(says(parent.log, "."))
        grandchild = int(parent.log.read_text().partition("pid=")[2].rstrip(".\n"))
        assert not is_gone(grandchild)
    finally:
        parent.kill()
    eventually(lambda: is_gone(grandchild))
    assert parent.stop() == -signal.SIGKILL


def test_a_server_that_does_not_start_is_stopped_and_its_log_quoted(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('the port is taken')"]
    with pytest.raises(ChildError, match="the port is taken"):
        start_server(argv, port_file=tmp_path / "port", log=tmp_path / "log")


def test_a_free_port_can_be_listened_on_and_no_outgoing_connection_gets_it() -> None:
    for _ in range(20):
        with socket.create_server(("127.0.0.1", port := free_port())):
            assert port < 32_768
