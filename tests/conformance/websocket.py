"""Python peers on both sides of a running Tollgate. See websocket.sh."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys

import trustme
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import (
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

SIZES = [0, 1, 125, 126, 65_535, 65_536, 16 << 20]
CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 3000, 4000, 4999]
AT_ONCE = 200
PATIENCE = 60


class Origin:
    """Echoes; `close CODE` is answered by that; keeps how each connection ended."""

    def __init__(self):
        self.closed = asyncio.Queue()
        self.pongs = 0

    async def __call__(self, peer):
        try:
            async for message in peer:
                if message == "ping me":
                    await (await peer.ping())
                    self.pongs += 1
                    await peer.send("thank you")
                elif isinstance(message, str) and message.startswith("close "):
                    await peer.close(int(message[6:]), "as asked")
                else:
                    await peer.send(message)
        except ConnectionClosed:
            pass
        self.closed.put_nowait((peer.protocol.close_code, peer.protocol.close_reason))


class Http2:
    """One HTTP/2 connection with extended CONNECT on its streams."""

    kept = []

    @classmethod
    async def open(cls, port):
        self = cls()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.streams, self.moved = {}, asyncio.Condition()
        self.offered = asyncio.Event()
        await self.flush()
        # A task that nobody knows may be collected while it waits.
        self.kept.append(asyncio.create_task(self.read()))
        await self.offered.wait()
        return self

    async def flush(self):
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def read(self):
        try:
            await self.read_to_end()
        except ProtocolError as error:
            # To `h2` nothing may come after a GOAWAY.
            if self.h2.state_machine.state is not ConnectionState.CLOSED:
                print(f"HTTP/2: {error}")
        finally:
            for stream in self.streams.values():
                stream.put_nowait(None)

    async def read_to_end(self):
        while data := await self.reader.read(65_536):
            for event in self.h2.receive_data(data):
                stream = self.streams.get(getattr(event, "stream_id", None))
                if isinstance(event, RemoteSettingsChanged):
                    changed = event.changed_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL)
                    if changed and changed.new_value == 1:
                        self.offered.set()
                elif isinstance(event, WindowUpdated):
                    async with self.moved:
                        self.moved.notify_all()
                elif stream is None:
                    pass
                elif isinstance(event, ResponseReceived):
                    stream.put_nowait(dict(event.headers))
                elif isinstance(event, DataReceived):
                    self.h2.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
                    if event.data:
                        stream.put_nowait(event.data)
                elif isinstance(event, (StreamEnded, StreamReset)):
                    stream.put_nowait(None)
            await self.flush()

    async def socket(self, protocols=()):
        stream = self.h2.get_next_available_stream_id()
        self.streams[stream] = asyncio.Queue()
        headers = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a.test"),
            ("sec-websocket-version", "13"),
        ]
        headers += [("sec-websocket-protocol", ", ".join(protocols))] if protocols else []
        self.h2.send_headers(stream, headers)
        await self.flush()
        answer = await self.streams[stream].get()
        assert answer is not None, "there is no answer"
        assert answer[":status"] == "200", answer
        return Http2Socket(self, stream, answer)

    async def write(self, stream, data):
        data = memoryview(data)
        while data:
            window = min(
                self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size
            )
            if window <= 0:
                async with self.moved:
                    await self.moved.wait_for(
                        lambda: self.h2.local_flow_control_window(stream) > 0
                    )
                continue
            self.h2.send_data(stream, bytes(data[:window]))
            data = data[window:]
            await self.flush()


class Http2Socket:
    """A WebSocket on a stream, with as much of `websockets`' manners as is needed."""

    def __init__(self, http2, stream, answer):
        self.http2, self.stream = http2, stream
        self.subprotocol = answer.get("sec-websocket-protocol")
        self.frames = Connection(ConnectionType.CLIENT)
        self.close_code = self.close_reason = None

    async def write(self, event):
        await self.http2.write(self.stream, self.frames.send(event))

    async def send(self, message):
        if isinstance(message, (str, bytes)):
            message = [message]
        message = list(message)
        for number, part in enumerate(message, 1):
            kind = TextMessage if isinstance(part, str) else BytesMessage
            await self.write(kind(data=part, message_finished=number == len(message)))

    async def events(self):
        while True:
            data = await self.http2.streams[self.stream].get()
            if data is None:
                return
            self.frames.receive_data(data)
            for event in self.frames.events():
                if isinstance(event, Ping):
                    await self.write(event.response())
                elif isinstance(event, CloseConnection):
                    self.close_code, self.close_reason = event.code, event.reason
                    if self.frames.state.name == "REMOTE_CLOSING":
                        await self.write(event.response())
                yield event

    async def recv(self):
        parts = []
        async for event in self.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                parts.append(event.data)
                if event.message_finished:
                    return parts[0][:0].join(parts)

    async def ping(self):
        await self.write(Ping(payload=b"are you there"))
        async for event in self.events():
            if isinstance(event, Pong):
                assert event.payload == b"are you there"
                return

    async def close(self, code=1000, reason=""):
        await self.write(CloseConnection(code=code, reason=reason))
        await self.wait_closed()

    async def wait_closed(self):
        async for _event in self.events():
            pass
        self.http2.h2.end_stream(self.stream)
        await self.http2.flush()


class Http1:
    """A connection for each WebSocket, by `websockets`."""

    def __init__(self, url, context):
        self.url, self.context = url, context

    async def socket(self, protocols=()):
        return await connect(
            self.url,
            ssl=self.context,
            server_hostname="a.test" if self.context else None,
            subprotocols=list(protocols) or None,
            max_size=None,
            ping_interval=None,
            proxy=None,
        )


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


async def ready(port):
    for _ in range(200):
        try:
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        except OSError:
            await asyncio.sleep(0.05)
    raise SystemExit("tollgate does not listen")


class Suite:
    def __init__(self, origin):
        self.origin, self.passed, self.failed = origin, 0, 0

    async def case(self, name, work):
        try:
            await asyncio.wait_for(work, PATIENCE)
            self.passed += 1
        except Exception as error:  # whatever it is, it is this case's
            self.failed += 1
            print(f"FAILED {name}: {type(error).__name__}: {error}")

    async def echoes(self, client, message):
        peer = await client.socket()
        await peer.send(message)
        whole = message if isinstance(message, (str, bytes)) else message[0][:0].join(message)
        assert await peer.recv() == whole, "another message came back"
        await peer.close()

    async def pings(self, client):
        peer = await client.socket()
        pong = await peer.ping()
        if pong is not None:
            await pong
        before = self.origin.pongs
        await peer.send("ping me")
        assert await peer.recv() == "thank you"
        assert self.origin.pongs == before + 1
        await peer.close()

    async def closes(self, client, code, ours):
        peer = await client.socket()
        if ours:
            await peer.close(code, "bye")
        else:
            await peer.send(f"close {code}")
            await peer.wait_closed()
            assert (peer.close_code, peer.close_reason) == (code, "as asked"), peer.close_code
        # Earlier cases' ends may come first.
        while await self.origin.closed.get() != (code, "bye" if ours else "as asked"):
            pass

    async def negotiates(self, client):
        peer = await client.socket(protocols=["chat.v1", "chat.v2"])
        assert peer.subprotocol == "chat.v2", peer.subprotocol
        await peer.close()

    async def many(self, open_clients):
        # A connection that asks for nothing is closed soon, so it is made now.
        clients = await open_clients()
        clients = [clients[number % len(clients)] for number in range(AT_ONCE)]
        peers = await asyncio.gather(*(client.socket() for client in clients))

        async def talk(number, peer):
            for turn in range(3):
                await peer.send(f"{turn} of {number}")
                assert await peer.recv() == f"{turn} of {number}"
            await peer.close()

        await asyncio.gather(*(talk(number, peer) for number, peer in enumerate(peers)))

    async def everything(self, name, open_clients):
        client = (await open_clients())[0]
        for size in SIZES:
            pattern = bytes(range(256)) * (size // 256 + 1)
            await self.case(f"{name}: {size} bytes", self.echoes(client, pattern[:size]))
            await self.case(f"{name}: {size} characters", self.echoes(client, "x" * size))
        for parts in (["a", "b", "c"], [b"", b"x" * 70_000, b"y", b""]):
            await self.case(f"{name}: {len(parts)} fragments", self.echoes(client, parts))
        await self.case(f"{name}: pings", self.pings(client))
        await self.case(f"{name}: a subprotocol", self.negotiates(client))
        for code in CODES:
            await self.case(f"{name}: closes with {code}", self.closes(client, code, True))
            await self.case(f"{name}: is closed with {code}", self.closes(client, code, False))
        await self.case(f"{name}: {AT_ONCE} at once", self.many(open_clients))


def config(work, origin, ports):
    authority = trustme.CA()
    certificate = authority.issue_cert("a.test")
    certificate.private_key_and_cert_chain_pem.write_to_path(f"{work}/a.pem")
    os.chmod(f"{work}/a.pem", 0o600)
    with open(f"{work}/config.toml", "w") as file:
        file.write(
            f'[server]\ndrain_timeout = "20s"\n[admin]\naddress = "127.0.0.1:{ports[2]}"\n'
            f'[access_log]\noutput = "off"\n'
            f'[[listener]]\nname = "plain"\naddress = "127.0.0.1:{ports[0]}"\n'
            f'[[listener]]\nname = "tls"\naddress = "127.0.0.1:{ports[1]}"\n'
            f'[listener.tls]\ncertificates = [{{ certificate = "a.pem", key = "a.pem" }}]\n'
            f'[[upstream]]\nname = "origin"\norigins = ["http://127.0.0.1:{origin}"]\n'
            f'[[route]]\nname = "all"\nupstream = "origin"\n'
        )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def drains(tollgate, opens, origin):
    clients = [client for open_clients in opens for client in await open_clients()]
    peers = [await client.socket() for client in clients]
    tollgate.send_signal(signal.SIGTERM)
    for peer in peers:
        await peer.wait_closed()
        assert peer.close_code == 1001, peer.close_code
    for _ in peers:
        while await origin.closed.get() != (1001, ""):
            pass
    status = await asyncio.to_thread(tollgate.wait, 20)
    assert status == 0, f"it ended with {status}"


async def main(binary, work):
    origin = Origin()
    choose = {
        "select_subprotocol": lambda _, offered: "chat.v2" if "chat.v2" in offered else None,
        "max_size": None,
        "ping_interval": None,
    }
    async with serve(origin, "127.0.0.1", 0, **choose) as server:
        port = server.sockets[0].getsockname()[1]
        ports = [free_port() for _ in range(3)]
        context = config(work, port, ports)
        tollgate = subprocess.Popen([binary, "run", "-c", f"{work}/config.toml"])
        try:
            await ready(ports[0])
            suite = Suite(origin)
            plain = Http1(f"ws://127.0.0.1:{ports[0]}/", None)
            secure = Http1(f"wss://127.0.0.1:{ports[1]}/", context)

            async def http1():
                return [plain]

            async def http1_over_tls():
                return [secure]

            async def http2():
                return [await Http2.open(ports[0]) for _ in range(2)]

            await suite.everything("HTTP/1.1", http1)
            await suite.everything("HTTP/1.1 over TLS", http1_over_tls)
            await suite.everything("HTTP/2", http2)
            # For `h2` a GOAWAY is the end of a connection, whatever is under way.
            goes = drains(tollgate, [http1, http1_over_tls], origin)
            await suite.case("a drain closes with 1001 and ends", goes)
            print(f"{suite.passed} passed, {suite.failed} failed")
            return suite.failed
        finally:
            if tollgate.poll() is None:
                os.kill(tollgate.pid, signal.SIGKILL)
                tollgate.wait()


if __name__ == "__main__":
    sys.exit(1 if asyncio.run(main(sys.argv[1], sys.argv[2])) else 0)
