"""A door to an HTTP server that spoils some requests, as networks and servers do; every draw comes from a seed.

    latency   the answer comes late                      503     refused, the server never saw it
    reset     cut, the server never saw it               liar    the server did it and 503 is the answer
    lost      the server did it, the answer is cut off   half    the server did it, half of the answer arrives
    late      cut; the server does it seconds later      hang    the server did it, the answer never comes
"""

import asyncio
import collections
import contextlib
import random
import socket
import struct
import threading
import time

LOOPBACK = "127.0.0.1"
HEAD_MAX = 1 << 16
# In seconds: a slow answer, a request that arrives after its client gave up, how long an answer is held back.
LATENCY, LATE, HANG = (0.05, 1.5), (0.2, 8.0), 8.0
# How many times fewer faults there are in mild weather.
MILD = 5


class Refused(Exception):
    """The client broke off, or what it says is not HTTP as our clients speak it."""


class Door:
    """One listener on a free port in front of `upstream`, with chances by fault."""

    # What moments are taken from.
    clock = staticmethod(time.monotonic)

    def __init__(self, upstream, chances, seed, busy, watched=lambda method, path: False, rows=lambda path, body: False):
        self.upstream = upstream
        self.chances = chances
        self.chance = random.Random(seed)
        # What a 503 says: catalogs and stores have different words.
        self.busy = busy
        self.watched = watched
        # Whether a request of the watched kind commits rows.
        self.rows = rows
        # Faults stop when this is set; requests that are late still arrive.
        self.calm = threading.Event()
        # Faults are fewer while this is set.
        self.mild = threading.Event()
        # Set at each request of the watched kind that is on its way to the server.
        self.passing = threading.Event()
        self.faults = collections.Counter()
        # Answers of the server to requests of the watched kind, whether the client got them or not.
        self.statuses = collections.Counter()
        # When the server had done one that commits rows, likewise.
        self.landed = []
        self.requests = 0
        self.port = None
        self.server = None

    def draw(self):
        if self.calm.is_set():
            return None
        number = self.chance.random() * (MILD if self.mild.is_set() else 1)
        for fault, share in self.chances.items():
            number -= share
            if number < 0:
                self.faults[fault] += 1
                return fault
        return None

    async def serve(self):
        self.server = await asyncio.start_server(self.client, LOOPBACK, 0, limit=HEAD_MAX)
        self.port = self.server.sockets[0].getsockname()[1]

    async def client(self, reader, writer):
        # A client that is killed in the middle is what this is for.
        gone = (Refused, OSError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*gone):
            await self.request(reader, writer)
        writer.close()

    async def request(self, reader, writer):
        head, body = await read_request(reader)
        self.requests += 1
        fault = self.draw()
        if fault == "reset":
            return cut(writer)
        if fault == "503":
            writer.write(self.busy)
            return await writer.drain()
        if fault == "late":
            cut(writer)
            await asyncio.sleep(self.chance.uniform(*LATE))
            return await self.ask(head, body)
        answer = await self.ask(head, body)
        return await self.reply(writer, answer, fault)

    async def reply(self, writer, answer, fault):
        if fault == "latency":
            await asyncio.sleep(self.chance.uniform(*LATENCY))
        elif fault == "lost":
            return cut(writer)
        elif fault == "half":
            writer.write(answer[: len(answer) // 2])
            await writer.drain()
            return cut(writer)
        elif fault == "hang":
            await asyncio.sleep(HANG)
            return cut(writer)
        elif fault == "liar":
            answer = self.busy
        writer.write(answer)
        return await writer.drain()

    async def ask(self, head, body):
        """The server's whole answer."""
        method, path = head.split(b" ", 2)[:2]
        watched = self.watched(method.decode(), path.decode())
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            writer.write(head + body)
            await writer.drain()
            if watched:
                self.passing.set()
            answer = await reader.read(-1)
        finally:
            writer.close()
        if watched and answer:
            status = int(answer.split(b" ", 2)[1])
            self.statuses[status] += 1
            if status == 200 and self.rows(path.decode(), body):
                self.landed.append(self.clock())
        return answer


async def read_request(reader):
    """The head, made to ask for one answer and an end, and the body as it came."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise Refused(str(error)) from error
    lines = head[:-4].split(b"\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in (b"connection", b"keep-alive")]
    body = b""
    if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
        body = await read_chunks(reader)
    elif length := int(fields.get(b"content-length", b"0")):
        body = await reader.readexactly(length)
    return b"\r\n".join([*kept, b"connection: close", b"", b""]), body


async def read_chunks(reader):
    parts = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        parts += [line, await reader.readexactly(size + 2)]
        if size == 0:
            return b"".join(parts)


def cut(writer):
    """A reset instead of an orderly end."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Doors:
    """All doors, on a thread of their own."""

    def __init__(self, doors):
        self.doors = doors
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        for door in self.doors:
            asyncio.run_coroutine_threadsafe(door.serve(), self.loop).result(timeout=10)
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self.end(), self.loop).result(timeout=10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=10)
        self.loop.close()

    def settle(self, within):
        """Waits until every request that came is over, also those that are late."""
        asyncio.run_coroutine_threadsafe(self.over(within), self.loop).result(timeout=within + 10)

    async def over(self, within):
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks, timeout=within)

    async def end(self):
        for door in self.doors:
            door.server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
