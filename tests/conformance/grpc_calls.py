"""A gRPC service and its caller, by grpcio, whose messages are plain bytes.

    grpc_calls.py serve DIR            prints its ports: plain and TLS
    grpc_calls.py call DIR H2C TLS     calls it through a proxy on these ports
"""

import concurrent.futures
import sys
import threading
import time

import grpc

LIMITS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Service(grpc.GenericRpcHandler):
    """`t.T`: echoes, counts, streams, fails and hangs."""

    def __init__(self):
        self.cancelled = 0

    def service(self, details):
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Up": grpc.stream_unary_rpc_method_handler(self.up),
            "Down": grpc.unary_stream_rpc_method_handler(self.down),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "FailLate": grpc.unary_stream_rpc_method_handler(self.fail_late),
            "Hang": grpc.unary_unary_rpc_method_handler(self.hang),
            "Left": grpc.unary_unary_rpc_method_handler(self.left),
            "Cancelled": grpc.unary_unary_rpc_method_handler(
                lambda _request, _context: str(self.cancelled).encode()
            ),
        }
        package, _, name = details.method.rpartition("/")
        return kinds.get(name) if package == "/t.T" else None

    def unary(self, request, context):
        echo = [pair for pair in context.invocation_metadata() if pair[0].startswith("x-echo")]
        context.send_initial_metadata(echo)
        context.set_trailing_metadata((("x-trailer", "behind"), ("x-trailer-bin", b"\0\xff")))
        return request

    def up(self, requests, _context):
        sizes = [len(request) for request in requests]
        return f"{len(sizes)} of {sum(sizes)}".encode()

    def down(self, request, _context):
        for number in range(int(request)):
            yield str(number).encode()

    def both(self, requests, _context):
        yield from requests

    def fail(self, _request, context):
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "100 % käse")

    def fail_late(self, _request, context):
        yield b"first"
        context.abort(grpc.StatusCode.DATA_LOSS, "after the message")

    def hang(self, _request, context):
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(60)
        self.cancelled += 1
        return b""

    def left(self, _request, context):
        # Without a deadline it is very long.
        return str(context.time_remaining()).encode()


def serve(folder):
    workers = concurrent.futures.ThreadPoolExecutor(150)
    server = grpc.server(workers, options=LIMITS)
    server.add_generic_rpc_handlers((Service(),))
    plain = server.add_insecure_port("127.0.0.1:0")
    key, chain = (open(f"{folder}/{name}.pem", "rb").read() for name in ("key", "cert"))
    credentials = grpc.ssl_server_credentials([(key, chain)])
    secure = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    print(plain, secure, flush=True)
    server.wait_for_termination()


class Caller:
    def __init__(self, channel, package):
        self.channel, self.package = channel, package

    def __getattr__(self, kind):
        make = getattr(self.channel, kind)
        return lambda name, package=None: make(f"/{package or self.package}/{name}")

    def unary(self, name="Unary", message=b"", package=None, **more):
        return self.unary_unary(name, package)(message, **{"timeout": 20, **more})

    def fails(self, code, **more):
        try:
            self.unary(**more)
        except grpc.RpcError as error:
            assert error.code() == code, f"{error.code()} {error.details()}"
            return error
        raise AssertionError(f"it did not fail with {code}")


def unary(to):
    assert to.unary(message=b"\0\xff") == b"\0\xff"
    assert to.unary() == b""


def client_streaming(to):
    answer = to.stream_unary("Up")(iter([b"a", b"bc", b""]), timeout=20)
    assert answer == b"3 of 3", answer


def server_streaming(to):
    messages = list(to.unary_stream("Down")(b"1000", timeout=20))
    assert messages == [str(number).encode() for number in range(1000)]


def bidirectional_streaming_is_interleaved(to):
    turn = threading.Semaphore(0)

    def requests():
        for number in range(50):
            yield str(number).encode()
            assert turn.acquire(timeout=10), "the answer did not come"

    for number, answer in enumerate(to.stream_stream("Both")(requests(), timeout=20)):
        assert answer == str(number).encode()
        turn.release()
    assert number == 49


def metadata_and_trailers(to):
    sent = (("x-echo", "text"), ("x-echo-bin", b"\0\xff\r\n,"))
    answer, call = to.unary_unary("Unary").with_call(b"", metadata=sent, timeout=20)
    initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert initial["x-echo"] == "text" and initial["x-echo-bin"] == b"\0\xff\r\n,", initial
    assert trailing["x-trailer"] == "behind" and trailing["x-trailer-bin"] == b"\0\xff", trailing


def a_status_in_the_head(to):
    error = to.fails(grpc.StatusCode.FAILED_PRECONDITION, name="Fail")
    assert error.details() == "100 % käse", error.details()
    assert ("x-why", "because") in error.trailing_metadata()
    to.fails(grpc.StatusCode.UNIMPLEMENTED, name="Nothing")


def a_status_behind_messages(to):
    messages = to.unary_stream("FailLate")(b"", timeout=20)
    assert next(messages) == b"first"
    try:
        next(messages)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DATA_LOSS, error.code()
        return
    raise AssertionError("it ended well")


def cancelled(to):
    return int(to.unary("Cancelled"))


def until(what, check):
    for _ in range(100):
        if check():
            return
        time.sleep(0.05)
    raise AssertionError(what)


def deadlines_end_the_call_on_both_sides(to):
    before = cancelled(to)
    started = time.monotonic()
    to.fails(grpc.StatusCode.DEADLINE_EXCEEDED, name="Hang", timeout=0.3)
    assert time.monotonic() - started < 5
    until("the origin did not learn of it", lambda: cancelled(to) == before + 1)


def the_origin_knows_the_time_that_is_left(to):
    left = float(to.unary("Left", timeout=10))
    assert 5 < left <= 10.1, left
    assert float(to.unary("Left", timeout=None)) > 1e6


def a_cancelled_call_is_cancelled_at_the_origin(to):
    before = cancelled(to)
    call = to.unary_unary("Hang").future(b"", timeout=30)
    time.sleep(0.2)
    call.cancel()
    until("the origin did not learn of it", lambda: cancelled(to) == before + 1)


def large_messages(to):
    large = bytes(range(256)) * 40_000
    assert to.unary(message=large) == large
    answer = to.stream_unary("Up")(iter([large] * 3), timeout=60)
    assert answer == f"3 of {3 * len(large)}".encode()


def a_hundred_calls_at_once(to):
    calls = [to.unary_unary("Unary").future(str(n).encode(), timeout=30) for n in range(100)]
    assert [call.result() for call in calls] == [str(n).encode() for n in range(100)]


def a_hundred_streams_at_once(to):
    calls = [to.unary_stream("Down")(b"20", timeout=60) for _ in range(100)]
    for call in calls:
        assert len(list(call)) == 20


def what_the_proxy_answers_itself(to):
    to.fails(grpc.StatusCode.UNIMPLEMENTED, package="unknown.T")
    to.fails(grpc.StatusCode.UNAUTHENTICATED, package="locked.T")
    error = to.fails(grpc.StatusCode.UNAVAILABLE, package="nobody.T")
    assert error.details() == "The server could not be reached.", error.details()


TESTS = [
    unary,
    client_streaming,
    server_streaming,
    bidirectional_streaming_is_interleaved,
    metadata_and_trailers,
    a_status_in_the_head,
    a_status_behind_messages,
    deadlines_end_the_call_on_both_sides,
    the_origin_knows_the_time_that_is_left,
    a_cancelled_call_is_cancelled_at_the_origin,
    large_messages,
    a_hundred_calls_at_once,
    a_hundred_streams_at_once,
    what_the_proxy_answers_itself,
]


def call(folder, h2c, tls):
    credentials = grpc.ssl_channel_credentials(open(f"{folder}/ca.pem", "rb").read())
    plain = grpc.insecure_channel(f"127.0.0.1:{h2c}", options=LIMITS)
    secure = grpc.secure_channel(f"localhost:{tls}", credentials, options=LIMITS)
    ways = {
        "h2c to h2c": Caller(plain, "t.T"),
        "h2c to TLS": Caller(plain, "tls.T"),
        "TLS to h2c": Caller(secure, "t.T"),
        "TLS to TLS": Caller(secure, "tls.T"),
    }
    passed = failed = 0
    for way, to in ways.items():
        for test in TESTS:
            try:
                test(to)
                passed += 1
            except (AssertionError, grpc.RpcError, KeyError) as error:
                failed += 1
                print(f"{way}: {test.__name__}: {error!r}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(call(*sys.argv[2:]))
