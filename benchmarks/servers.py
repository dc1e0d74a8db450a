"""The servers that stand in for AWS under load: SeaweedFS for S3, the embedded stack's emulator for the rest.

Both listen on loopback, on free ports, and end with the block that started them.
"""

import json
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import boto3

from local.emulator import client_environment, emulator
from local.processes import Child, free_port
from shared.events import Message
from shared.queues import Topic

BUCKET: Final = "bench-condvest-datalake"
WEED: Final = Path(sys.prefix) / "bin/weed"
KEYS: Final = ("test", "test")
METRICS: Final = "S3_METRICS_URL"
"""The variable with the address of the S3 server's own counters."""
_SERVED: Final = re.compile(r'^SeaweedFS_s3_request_total\{.*type="(\w+)"\} (\d+)', re.MULTILINE)
_CPU: Final = re.compile(r"^process_cpu_seconds_total (\S+)", re.MULTILINE)


class Nobody(Topic):
    """A topic without subscribers, for benchmarks without SNS."""

    def __init__(self) -> None:
        self.arn = "nobody"

    def publish(self, events: Sequence[Message]) -> list[int]:
        """Accept all events, and publish none."""
        del events
        return []


@contextmanager
def seaweedfs(folder: Path) -> Iterator[dict[str, str]]:
    """Run a SeaweedFS that keeps everything below `folder`, emptied first.

    Return the environment's variables that say where its S3 endpoint and its counters are.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = folder / "s3.json"
    identity = {
        "name": "bench",
        "credentials": [{"accessKey": KEYS[0], "secretKey": KEYS[1]}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config.write_text(json.dumps({"identities": [identity]}))
    port, metrics = free_port(), free_port()
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    ports = [f"-{name}={free_port()}" for name in (*names, "s3.port.grpc")]
    argv = (
        str(WEED), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
        f"-s3.port={port}", f"-s3.config={config}", *ports, "-volume.max=100", "-master.volumeSizeLimitMB=1024",
        # Servers of other formats would use fixed ports, and a second SeaweedFS on this machine would end.
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", f"-metricsPort={metrics}",
    )  # fmt: skip
    with Child(argv, log=folder / "weed.log", cwd=folder) as child:
        child.wait_until(lambda: _answers(f"http://127.0.0.1:{port}"), timeout=60)
        url = f"http://127.0.0.1:{port}"
        child.wait_until(lambda: _takes_objects(url), timeout=60)
        yield {"AWS_ENDPOINT_URL_S3": url, METRICS: f"http://127.0.0.1:{metrics}/metrics"}


@contextmanager
def s3_and_queues(folder: Path) -> Iterator[dict[str, str]]:
    """Run SeaweedFS as S3 and the emulator as the rest; return the environment with which our code uses both."""
    with seaweedfs(folder / "s3") as s3, emulator(folder / "aws") as rest:
        yield {**client_environment(rest), **s3, "S3_BUCKET": BUCKET}


def requests_served() -> Counter[str]:
    """Return the number of requests that the environment's S3 server has answered so far, by kind.

    A page of a listing is one request, and a HEAD counts as GET. Empty if the environment names no such server.
    """
    url = os.environ.get(METRICS)
    return count_requests(_metrics(url)) if url else Counter()


def count_requests(metrics: str) -> Counter[str]:
    """Return the S3 requests by kind in SeaweedFS's metrics, including failed ones."""
    served: Counter[str] = Counter()
    for kind, count in _SERVED.findall(metrics):
        served[kind.lower()] += int(count)
    return served


def cpu_seconds(environment: Mapping[str, str]) -> float:
    """Return the CPU seconds of the S3 server that `environment` names."""
    return cpu_counted(_metrics(environment[METRICS]))


def cpu_counted(metrics: str) -> float:
    """Return the CPU seconds in SeaweedFS's metrics."""
    match = _CPU.search(metrics)
    if match is None:
        raise RuntimeError("the S3 server does not tell how much CPU it has used")
    return float(match[1])


def requests_since(before: Mapping[str, int]) -> dict[str, int]:
    """Return the S3 requests since `before`, in all and by kind, as facts of a result."""
    kinds = requests_served()
    kinds.subtract(before)
    by_kind = {f"{kind}_requests": count for kind, count in sorted(kinds.items()) if count}
    return {"requests": sum(by_kind.values()), **by_kind} if by_kind else {}


def client(service: str, environment: Mapping[str, str]) -> Any:  # noqa: ANN401 (boto's clients share no type)
    """Return a boto3 client of the servers that `environment` names."""
    url = environment.get(f"AWS_ENDPOINT_URL_{service.upper()}", environment["AWS_ENDPOINT_URL"])
    return boto3.Session(*KEYS, region_name="us-east-1").client(service, endpoint_url=url)  # type: ignore[call-overload]


def _metrics(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (our own server)
        text: str = answer.read().decode()
        return text


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 (our own server)
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _takes_objects(url: str) -> bool:
    """Create the bucket; return whether it accepts objects already: the volume server joins a little later."""
    s3 = client("s3", {**client_environment(url), "AWS_ENDPOINT_URL_S3": url})
    try:
        if BUCKET not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
            s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key="probe", Body=b"probe")
        s3.delete_object(Bucket=BUCKET, Key="probe")
    except s3.exceptions.ClientError:
        return False
    return True
