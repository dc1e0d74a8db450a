"""A process that has imported the modules of functions and jobs, and forks itself for each run.

    python -m tests.integration.permissions.warm SOCKET MODULE ...

Starting an interpreter and importing pyarrow and boto3 takes longer than most paths. Each connection is one run: a line
of JSON in ({"environment", "handler", "events"} or {"environment", "module", "arguments"}), a line out ({"code",
"output", "answers"}). An invocation that fails answers {"failed": "..."}, as Lambda does.
"""

import json
import os
import runpy
import signal
import socket
import sys
import tempfile
from importlib import import_module
from types import SimpleNamespace
from typing import Any


def _context() -> Any:  # noqa: ANN401 (Lambda's own)
    return SimpleNamespace(
        function_name="function", memory_limit_in_mb=1024, aws_request_id="request",
        invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:function",
        get_remaining_time_in_millis=lambda: 900_000,
    )  # fmt: skip


def _invoked(handler: str, events: list[Any]) -> list[Any]:
    module, _, name = handler.rpartition(".")
    function, answers = getattr(import_module(module), name), []
    for event in events:
        try:
            answers.append(function(event, _context()))
        except Exception as error:  # noqa: BLE001 (the invocation's own end)
            answers.append({"failed": f"{type(error).__name__}: {error}"})
    return answers


def _run(request: dict[str, Any], output: int) -> list[Any]:
    """Do the requested run, as in a separate process; raise SystemExit if it ends in this way."""
    os.environ.clear()
    os.environ.update(request["environment"])
    for number in (1, 2):
        os.dup2(output, number)
    if "handler" in request:
        return _invoked(request["handler"], request["events"])
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(f"{request['module']}.__main__", run_name="__main__")
    return []


def _serve(connection: socket.socket) -> None:
    """Answer one request. Each run is in a child process, whose threads end before it does."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection.makefile("rwb") as stream, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as result:
        request = json.loads(stream.readline())
        child = os.fork()
        if child == 0:
            answers = _run(request, output.fileno())
            result.write(json.dumps(answers, default=str).encode())
            result.flush()
            sys.exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        text, answered = (file.seek(0) or file.read().decode(errors="replace") for file in (output, result))
        answer = {"code": code, "output": text, "answers": json.loads(answered or "[]")}
        stream.write(json.dumps(answer).encode() + b"\n")


def main() -> None:
    path, *modules = sys.argv[1:]
    for module in modules:
        import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # only its connection waits for a run
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    _serve(connection)
                    os._exit(0)


if __name__ == "__main__":
    main()
