"""A proxy in front of the embedded AWS, which records the rights that each caller needs.

Each function and job signs with its role's name as access key, so the proxy knows the role. S3, SQS and SNS
are the emulator's, Batch is the stand-in's. Secrets Manager and X-Ray are answered here, because the emulator cannot
have a secret of a given ARN and has no X-Ray.
"""

import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

from local.processes import LoopbackServer, listen
from tests.integration.permissions.calls import ACCOUNT, Call, Request, UnknownRequestError, calls_of

_EMULATORS_ACCOUNT = "000000000000"
_HOP_BY_HOP = {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}


@dataclass
class _Refusal:
    of: Callable[[Call], bool]
    times: int


@dataclass
class Recording:
    """The recorded calls with their callers; the calls that the proxy refuses once, as AWS would without a right."""

    targets: Mapping[str, str]
    """The URL of each service."""
    secrets: Mapping[str, str]
    """Their values, by ARN."""
    calls: set[Call] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)
    """Requests with unknown rights: a valid recording has none."""
    _refusals: list[_Refusal] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refuse(self, of: Callable[[Call], bool], times: int = 1) -> None:
        """Let the next `times` requests that need such a right fail, to reach the paths of failure."""
        self._refusals.append(_Refusal(of, times))

    def stop_refusing(self) -> None:
        """Refuse nothing any more."""
        self._refusals.clear()

    def of(self, who: str) -> set[Call]:
        return {call for call in self.calls if call.who == who}

    def take(self, request: Request) -> bool:
        """Record a request; return whether it must be refused."""
        with self._lock:
            try:
                needed = calls_of(request)
            except UnknownRequestError as error:
                self.unknown.append(str(error))
                return True
            self.calls.update(needed)
            for refusal in self._refusals:
                if refusal.times and any(map(refusal.of, needed)):
                    refusal.times -= 1
                    return True
            return False


class _Proxy(LoopbackServer):
    def __init__(self, recording: Recording) -> None:
        super().__init__(0, _Handler)
        self.recording = recording


class _Handler(BaseHTTPRequestHandler):
    server: _Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    def _take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body)
        recording = self.server.recording
        if recording.take(request):
            self._send(403, {"x-amzn-errortype": "AccessDeniedException"}, _refused(request.service))
        elif request.service == "secretsmanager":
            value = recording.secrets[json.loads(body)["SecretId"]]
            self._send(200, {}, json.dumps({"SecretString": value}).encode())
        elif request.service == "xray":
            self._send(200, {}, b"{}")
        else:
            self._send(*_forwarded(request, recording.targets[request.service]))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _take  # noqa: N815 (the base class's names)

    def _send(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "content-length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


def _refused(service: str) -> bytes:
    if service == "s3":
        return b"<Error><Code>AccessDenied</Code><Message>as arranged</Message></Error>"
    if service == "sns":
        return (
            b"<ErrorResponse><Error><Code>AuthorizationError</Code><Message>arranged</Message></Error></ErrorResponse>"
        )
    return b'{"__type": "AccessDeniedException", "message": "as arranged"}'


def _forwarded(request: Request, target: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(target).netloc, timeout=60)
    try:
        headers = {name: value for name, value in request.headers.items() if name not in {"connection", "expect"}}
        # The emulator's account is another one than the template's, of the same length.
        body = request.body.replace(ACCOUNT.encode(), _EMULATORS_ACCOUNT.encode())
        connection.request(request.method, request.path, body if request.service != "s3" else request.body, headers)
        answer = connection.getresponse()
        content = answer.read()
        answered = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
        if request.method == "HEAD" and answer.getheader("content-length"):
            answered["content-length"] = answer.getheader("content-length", "")
        return answer.status, answered, content
    finally:
        connection.close()


@contextmanager
def recording(
    targets: Mapping[str, str], secrets: Mapping[str, str], port_file: Path
) -> Iterator[tuple[Recording, str]]:
    """Record the requests to the yielded URL while the block runs."""
    made = Recording(targets, secrets)
    server = _Proxy(made)
    with listen(server, port_file):
        yield made, f"http://127.0.0.1:{server.server_port}"
