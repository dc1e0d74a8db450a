"""Which servers stand in for AWS under load? SeaweedFS for S3 (a real one), the embedded stack's emulator for the rest.

Both listen on loopback, on free ports, and end with the block that started them.
"""

import json
import shutil
import sys
import urllib.error
import urllib.request
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


class Nobody(Topic):
    """A topic that nobody listens to, for what is measured without SNS."""

    def __init__(self) -> None:
        self.arn = "nobody"

    def publish(self, events: Sequence[Message]) -> list[int]:
        """Take all events, and pass none on."""
        del events
        return []


@contextmanager
def seaweedfs(folder: Path) -> Iterator[str]:
    """Run a SeaweedFS that keeps everything below `folder`, emptied first; return its S3 endpoint's URL."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = folder / "s3.json"
    identity = {
        "name": "bench",
        "credentials": [{"accessKey": KEYS[0], "secretKey": KEYS[1]}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config.write_text(json.dumps({"identities": [identity]}))
    port = free_port()
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    ports = [f"-{name}={free_port()}" for name in (*names, "s3.port.grpc")]
    argv = (
        str(WEED), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
        f"-s3.port={port}", f"-s3.config={config}", *ports, "-s3.port.lance=0", "-s3.port.iceberg=0", "-volume.max=100",
        "-master.volumeSizeLimitMB=1024",
    )  # fmt: skip
    with Child(argv, log=folder / "weed.log", cwd=folder) as child:
        child.wait_until(lambda: _answers(f"http://127.0.0.1:{port}"), timeout=60)
        url = f"http://127.0.0.1:{port}"
        child.wait_until(lambda: _takes_objects(url), timeout=60)
        yield url


@contextmanager
def s3_and_queues(folder: Path) -> Iterator[dict[str, str]]:
    """Run SeaweedFS as S3 and the emulator as the rest; return the environment in which our code talks to both."""
    with seaweedfs(folder / "s3") as s3, emulator(folder / "aws") as rest:
        yield {**client_environment(rest), "AWS_ENDPOINT_URL_S3": s3, "S3_BUCKET": BUCKET}


def client(service: str, environment: Mapping[str, str]) -> Any:  # noqa: ANN401 (boto's clients share no type)
    """Return a boto3 client of the servers that `environment` names."""
    url = environment.get(f"AWS_ENDPOINT_URL_{service.upper()}", environment["AWS_ENDPOINT_URL"])
    return boto3.Session(*KEYS, region_name="us-east-1").client(service, endpoint_url=url)  # type: ignore[call-overload]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 (our own server)
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _takes_objects(url: str) -> bool:
    """Make the bucket, and tell whether it takes objects already: the volume server joins a little later."""
    s3 = client("s3", {**client_environment(url), "AWS_ENDPOINT_URL_S3": url})
    try:
        if BUCKET not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
            s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key="probe", Body=b"probe")
        s3.delete_object(Bucket=BUCKET, Key="probe")
    except s3.exceptions.ClientError:
        return False
    return True
