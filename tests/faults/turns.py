"""Actors that take turns: each is a thread, and only one of them runs at a time.

An actor stops before each request, and waits until it may go on. So the caller decides in which order the requests of
many actors reach the cloud, and the order is the same each time.
"""

import threading
from dataclasses import dataclass, field

from tests.faults.actors import Process, Work
from tests.faults.cloud import Caller


@dataclass
class Turn:
    """An actor's thread, and the request it is about to send."""

    process: Process
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    back: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    request: str = ""
    over: bool = False

    def step(self) -> None:
        """Let the actor send its request, and go on to the next one or to its end."""
        self.go.release()
        self.back.acquire()

    def step_to(self, part: str) -> None:
        """Let the actor go on until it is about to send a request that contains `part`."""
        self.step()
        while part not in self.request and not self.over:
            self.step()
        assert not self.over, f"{self.process.name} sends no {part}"

    def finish(self) -> None:
        """Let the actor go on to its end."""
        while not self.over:
            self.step()

    def kill(self) -> None:
        """End the actor before its next request."""
        self.process.dead = True
        self.finish()


@dataclass
class Turns:
    """All actors that take turns."""

    waiting: list[Turn] = field(default_factory=list)

    def start(self, process: Process, work: Work) -> Turn:
        """Return an actor a thread; it does nothing before its first turn."""
        turn = Turn(process)

        def body() -> None:
            turn.go.acquire()
            process.run(work)
            turn.over = True
            self.waiting.remove(turn)
            turn.back.release()

        threading.Thread(target=body, name=process.name, daemon=True).start()
        self.waiting.append(turn)
        return turn

    def hand_over(self, actor: Caller, request: str) -> None:
        """Wait for the actor's turn, if it is one of those that take turns."""
        turn = next((turn for turn in self.waiting if turn.process is actor), None)
        if turn:
            turn.request = request
            turn.back.release()
            turn.go.acquire()
