"""A pooler like PgBouncer in transaction mode: each transaction may use another connection to the server.

It refuses unknown start-up parameters, and prepares no statement by name. Clients are not authenticated: the
server behind it does that.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Final

from shared.database import DatabaseAddress

KNOWN: Final = frozenset({"user", "database", "client_encoding", "application_name"})
SERVERS: Final = 2
SSL_REQUEST: Final = 80877103
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def error(code: str, text: str) -> bytes:
    return message(b"E", f"SFATAL\0C{code}\0M{text}\0\0".encode())


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


@dataclass
class Pooler:
    """Serves clients over a few connections to the server; `transactions` counts those of each connection."""

    server: DatabaseAddress
    known: frozenset[str] = KNOWN
    refused: list[str] = field(default_factory=list)
    transactions: list[int] = field(default_factory=lambda: [0] * SERVERS)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        servers: list[Streams] = []
        try:
            start = await self._startup(reader, writer)
            if start is None:
                return
            servers = [await self._connect(start, writer), *[await self._connect(start) for _ in range(SERVERS - 1)]]
            await self._relay(reader, writer, servers)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for _, server in servers:
                server.close()
            writer.close()

    async def _startup(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        size, code = struct.unpack("!II", await reader.readexactly(8))
        if code == SSL_REQUEST:
            writer.write(b"N")
            size, code = struct.unpack("!II", await reader.readexactly(8))
        body = await reader.readexactly(size - 8)
        names = body.rstrip(b"\0").split(b"\0")[::2]
        unknown = [name.decode() for name in names if name.decode() not in self.known]
        if unknown:
            self.refused += unknown
            writer.write(error("08P01", f"unsupported startup parameter: {unknown[0]}"))
            await writer.drain()
            return None
        return struct.pack("!II", size, code) + body

    async def _connect(self, start: bytes, client: asyncio.StreamWriter | None = None) -> Streams:
        """Open a connection to the server; its first messages are sent to the client once."""
        reader, writer = await asyncio.open_unix_connection(f"{self.server.host}/.s.PGSQL.{self.server.port}")
        writer.write(start)
        kind = b""
        while kind != b"Z":
            kind, body = await read_message(reader)
            if client:
                client.write(message(kind, body))
        return reader, writer

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, servers: list[Streams]) -> None:
        turns = cycle(range(SERVERS))
        turn = [next(turns)]

        async def answers() -> None:
            while True:
                kind, body = await read_message(servers[turn[0]][0])
                writer.write(message(kind, body))
                await writer.drain()
                if (kind, body) == (b"Z", b"I"):
                    # The transaction is over: the next one uses another connection. (The client sends one at a time.)
                    self.transactions[turn[0]] += 1
                    turn[0] = next(turns)

        answering = asyncio.create_task(answers())
        try:
            kind = b""
            while kind != b"X":
                kind, body = await read_message(reader)
                if kind == b"P" and body[:1] != b"\0":
                    self.refused.append("a statement that is prepared by name")
                    return
                server = servers[turn[0]][1]
                server.write(message(kind, body))
                await server.drain()
        finally:
            answering.cancel()


@asynccontextmanager
async def pooling(
    server: DatabaseAddress, parameters: frozenset[str] = KNOWN
) -> AsyncIterator[tuple[DatabaseAddress, Pooler]]:
    """Serve a pooler before the server, on loopback; return its address."""
    pooler = Pooler(server, parameters)
    async with await asyncio.start_server(pooler.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        yield DatabaseAddress("127.0.0.1", port, server.user, server.database, "none"), pooler
