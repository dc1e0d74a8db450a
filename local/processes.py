"""Start, await and stop the embedded stack's processes, from outside and from inside."""

import os
import pwd
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import FrameType
from typing import Final, Self

from fiblake.errors import UpstreamError

_POLL_SECONDS: Final = 0.05
_QUOTED_BYTES: Final = 4000

# Runs in the child before the command takes its place (same pid). A fresh interpreter does what `preexec_fn` would,
# which may not be used in a process with threads. The death signal is set after the change of user, which clears it; a
# parent that died before that is seen by its pid. Python ignores SIGPIPE and SIGXFSZ, which a command would inherit.
_LAUNCHER: Final = """
import ctypes, os, signal, sys
parent, death_signal, user, group = map(int, sys.argv[1:5])
command = sys.argv[5:]
if user >= 0:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
if os.getppid() != parent:
    sys.exit("the process that asked for this one is gone")
for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(ignored, signal.SIG_DFL)
try:
    os.execvp(command[0], command)
except OSError as error:
    print(f"cannot run {command[0]}: {error}", file=sys.stderr)
    sys.exit(127)
"""


class ChildError(UpstreamError):
    """A child process ended, or was not ready in time; the sentence quotes the end of its log."""


class Child:
    """A command running as a child process that cannot outlive the thread that started it (on Linux).

    It runs in a separate session, so a Ctrl-C at the terminal reaches only the parent, which decides when it stops. Its
    standard input is empty, and its output is appended to `log`. `user` is the user to run as, if the caller is root.
    Exit code 127 means that the command could not be run.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.argv = tuple(argv)
        self.log = log
        self._stop_signal = stop_signal
        launcher = (sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(int(stop_signal)), *_ids(user))
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                (*launcher, *self.argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The command's process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal that ended it), or None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to stop, without waiting; nothing happens if it has ended."""
        self._process.send_signal(self._stop_signal)

    def kill(self) -> None:
        """End it with SIGKILL, without waiting; nothing happens if it has ended."""
        self._process.kill()

    def stop(self, grace: float = 10.0) -> int:
        """Ask it to stop, kill it after `grace` seconds; return its exit code. May be called again."""
        self.terminate()
        try:
            return self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def wait_until(self, ready: Callable[[], bool], timeout: float = 30.0) -> None:
        """Return once `ready()` holds; raise ChildError if the child ends first or `timeout` seconds pass."""
        deadline = time.monotonic() + timeout
        while not ready():
            code = self.poll()
            if code is not None:
                raise ChildError(f"{self.argv[0]} ended with exit code {code} before it was ready; {self._quote()}")
            if time.monotonic() >= deadline:
                raise ChildError(f"{self.argv[0]} was not ready within {timeout:g} s; {self._quote()}")
            time.sleep(_POLL_SECONDS)

    def _quote(self) -> str:
        written = self.log.read_bytes()[self._log_start :]
        tail = written[-_QUOTED_BYTES:].decode(errors="replace").strip()
        return f"the end of {self.log}:\n{tail or '(nothing was written)'}"


def _ids(user: str | None) -> tuple[str, str]:
    if user is None:
        return "-1", "-1"
    entry = pwd.getpwnam(user)
    return str(entry.pw_uid), str(entry.pw_gid)


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1; another process may take it before the caller does.

    It is below the ports of outgoing connections (Linux: from 32768 on), and repeated calls rarely return the same one.
    """
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311 (no secret)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def start_server(
    argv: Sequence[str],
    *,
    port_file: Path,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 60.0,
) -> tuple[Child, int]:
    """Start a server that writes its port into `port_file` when ready; return it and the port. Raise ChildError."""
    port_file.unlink(missing_ok=True)  # a killed server leaves its file
    child = Child(argv, log=log, env=env, cwd=cwd)
    try:
        child.wait_until(port_file.exists, timeout)
        return child, int(port_file.read_text())
    except BaseException:
        child.stop()
        raise


class Termination:
    """Whether this process was asked to end, by SIGTERM or SIGINT; to be made in the main thread."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        # An attribute and no Event: a handler may interrupt the very code that holds an Event's lock.
        self.requested = True


class LoopbackServer(ThreadingHTTPServer):
    """An HTTP server on 127.0.0.1, with a thread a connection; port 0 means any free one."""

    request_queue_size = 128  # the default of 5 turns away a client that opens many connections at once

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", port), handler)

    def server_bind(self) -> None:
        """Bind, without HTTPServer's look-up of the host's name, which may wait for a name server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]


@contextmanager
def listen(server: LoopbackServer, port_file: Path) -> Iterator[None]:
    """Answer requests in other threads while the block runs; `port_file` holds the port just as long."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": _POLL_SECONDS}, daemon=True)
    thread.start()
    try:
        _write_whole(port_file, str(server.server_port))
        yield
    finally:
        port_file.unlink(missing_ok=True)
        server.shutdown()
        thread.join()
        server.server_close()


def _write_whole(path: Path, text: str) -> None:
    # A reader sees the file with all its content or not at all.
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)
