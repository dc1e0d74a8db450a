"""Compare S3 clients, obstore and aiobotocore: PUT, GET and conditional PUT of small objects, on one server.

`python -m benchmarks.object_store_clients` starts SeaweedFS (or the emulator: `--server emulator`), runs
each client in a separate process, and prints a table: docs/adr/0001-object-store-client.md quotes it.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from importlib.metadata import version
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.lake import FOLDER
from benchmarks.servers import BUCKET, client, seaweedfs
from local.emulator import REPOSITORY, client_environment, emulator

OBJECTS: Final = 3_000
AT_ONCE: Final = 32
BODY: Final = os.urandom(3_072)
CLIENTS: Final = ("obstore", "aiobotocore")
VERBS: Final = ("PUT", "GET", "conditional PUT")
Verbs = dict[str, Callable[[str], Awaitable[object]]]


def main() -> None:
    """Measure and print, or be one client's process (`--client`)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=("seaweedfs", "emulator"), default="seaweedfs")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        sys.stdout.write(json.dumps(asyncio.run(_measured(options.client))))
        sys.stdout.flush()
        os._exit(0)  # obstore's own threads may abort an interpreter that ends right after asynchronous calls
    with ExitStack() as parts:
        if options.server == "seaweedfs":
            url = parts.enter_context(seaweedfs(FOLDER / "clients"))["AWS_ENDPOINT_URL_S3"]
        else:
            url = parts.enter_context(emulator(FOLDER / "clients-emulator"))
            client("s3", client_environment(url)).create_bucket(Bucket=BUCKET)
        results = {name: [_in_a_process(name, url) for _ in range(options.runs)] for name in CLIENTS}
    _print(results, options.server)


def _in_a_process(name: str, url: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.object_store_clients", "--client", name]
    environment = {"PATH": os.environ["PATH"], **client_environment(url)}
    process = subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(process.stdout)
    return measured


async def _measured(name: str) -> dict[str, tuple[float, float]]:
    """Return objects a second and this process's CPU milliseconds an object, by verb."""
    prefix = f"{name}-{time.time_ns()}"
    keys = [f"{prefix}/symbol=S{i:05d}/date=2025-11-19.parquet" for i in range(OBJECTS)]
    results = {}
    async with AsyncExitStack() as stack:
        verbs = await (_obstore() if name == "obstore" else _aiobotocore(stack))
        for verb in VERBS:
            results[verb] = await _timed(verbs[verb], keys)
    return results


async def _timed(act: Callable[[str], Awaitable[object]], keys: list[str]) -> tuple[float, float]:
    waiting = iter(keys)

    async def work() -> None:
        for key in waiting:
            await act(key)

    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return len(keys) / (time.perf_counter() - started), 1_000 * cpu / len(keys)


async def _obstore() -> Verbs:
    import obstore  # noqa: PLC0415 (a process loads only its own client)
    from obstore.store import S3Store  # noqa: PLC0415

    store = S3Store(
        BUCKET, endpoint=os.environ["AWS_ENDPOINT_URL"], virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )  # fmt: skip
    etags: dict[str, str] = {}

    async def put(key: str) -> None:
        etags[key] = (await obstore.put_async(store, key, BODY, use_multipart=False))["e_tag"] or ""

    async def get(key: str) -> None:
        await (await obstore.get_async(store, key)).bytes_async()

    async def put_if_unchanged(key: str) -> None:
        await obstore.put_async(store, key, BODY[::-1], mode={"e_tag": etags[key]}, use_multipart=False)

    return dict(zip(VERBS, (put, get, put_if_unchanged), strict=True))


async def _aiobotocore(stack: AsyncExitStack) -> Verbs:
    from aiobotocore.config import AioConfig  # noqa: PLC0415
    from aiobotocore.session import get_session  # noqa: PLC0415

    config = AioConfig(max_pool_connections=AT_ONCE, s3={"addressing_style": "path"})
    s3 = await stack.enter_async_context(get_session().create_client("s3", config=config))
    etags: dict[str, str] = {}

    async def put(key: str) -> None:
        etags[key] = (await s3.put_object(Bucket=BUCKET, Key=key, Body=BODY))["ETag"]

    async def get(key: str) -> None:
        answer = await s3.get_object(Bucket=BUCKET, Key=key)
        async with answer["Body"] as body:
            await body.read()

    async def put_if_unchanged(key: str) -> None:
        await s3.put_object(Bucket=BUCKET, Key=key, Body=BODY[::-1], IfMatch=etags[key])

    return dict(zip(VERBS, (put, get, put_if_unchanged), strict=True))


def _print(results: dict[str, list[dict[str, Any]]], server: str) -> None:
    title = f"{OBJECTS:,} objects of {len(BODY):,} bytes, {AT_ONCE} at once, {server}"
    table = Table("", *(f"{name} {version(name)}" for name in CLIENTS), "ratio", title=title)
    for verb in VERBS:
        rates = [statistics.median(run[verb][0] for run in results[name]) for name in CLIENTS]
        table.add_row(f"{verb}, objects/s", *(f"{rate:,.0f}" for rate in rates), f"{rates[0] / rates[1]:.1f}x")
        costs = [statistics.median(run[verb][1] for run in results[name]) for name in CLIENTS]
        table.add_row(f"{verb}, client CPU ms", *(f"{cost:.2f}" for cost in costs), f"{costs[1] / costs[0]:.1f}x")
    Console().print(table)


if __name__ == "__main__":
    main()
