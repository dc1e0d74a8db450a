from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import pytest
import typer.main
import typer.testing
from typer.testing import CliRunner, Result

from cli.app import app, exit_code
from fiblake.errors import FiblakeError, NotFoundError, UpstreamError
from shared.metrics import Latency
from tests.fakes import FakeJobs, FakeQueue, FakeTopic, MemoryObjectStore


@dataclass
class FakeTarget:
    """A stack without AWS."""

    name: str = "test"
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    complete: FakeTopic = field(default_factory=FakeTopic)
    bucket: str = "lake"
    outputs: dict[str, str] = field(default_factory=dict)
    queues: dict[str, FakeQueue] = field(default_factory=dict)
    lone_dead_letters: dict[str, FakeQueue] = field(default_factory=dict)
    measured: dict[int, Latency] = field(default_factory=dict)
    workers: FakeJobs = field(default_factory=FakeJobs)
    log_folder: Path | None = Path("/nonexistent")
    """The logs of a stack on this machine, whose parts have written nothing."""

    @property
    def queue_urls(self) -> dict[str, str]:
        return {name: queue.url for name, queue in self.queues.items()}

    @property
    def lone_dead_letter_urls(self) -> dict[str, str]:
        return {name: queue.url for name, queue in self.lone_dead_letters.items()}

    def output(self, name: str) -> str:
        if name not in self.outputs:
            raise NotFoundError(f"stack {self.name} has no output {name}")
        return self.outputs[name]

    def queue_ages(self) -> dict[str, int]:
        return {"consolidation": 7}

    def latencies(self) -> dict[int, Latency]:
        return self.measured

    def queue(self, url: str) -> FakeQueue:
        (match,) = [queue for queue in (*self.queues.values(), *self.lone_dead_letters.values()) if queue.url == url]
        return match

    def database(self) -> NoReturn:
        raise UpstreamError("the database cannot be reached")

    def start_workers(self, requests: int) -> None:
        self.workers.ensure("run", requests)

    def jobs(self, _prefix: str) -> FakeJobs:
        return self.workers


Run = Callable[..., Result]


@pytest.fixture(scope="session", autouse=True)
def _parser_is_made_once() -> Iterator[None]:
    """Typer makes the parser of all commands from their signatures at each run, which takes 20 ms."""
    with pytest.MonkeyPatch.context() as patch:
        get_command = cache(typer.main.get_command)
        patch.setattr(typer.main, "get_command", get_command)
        patch.setattr(typer.testing, "_get_command", get_command)
        yield


@pytest.fixture
def stack() -> FakeTarget:
    return FakeTarget()


@pytest.fixture
def run(stack: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line on the fake stack; an error of ours ends it as in `main`."""

    def ran(*arguments: str, input_: str | None = None) -> Result:
        module = import_module(f"cli.{_module(arguments)}")
        if hasattr(module, "target"):
            monkeypatch.setattr(module, "target", lambda _context: stack)
        result = CliRunner().invoke(app, list(arguments), input=input_)
        if isinstance(result.exception, FiblakeError):
            result.exit_code = exit_code(result.exception)
            result.stderr_bytes = f"fiblake: {result.exception}\n".encode()
        elif result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return ran


def _module(arguments: Sequence[str]) -> str:
    return {"migrate": "database", "dlq": "dead_letters"}.get(arguments[0], arguments[0])
