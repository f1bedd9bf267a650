"""grpcio as a client of examples/backend's program grpc: python3 grpc_client.py HOST:PORT

Messages are made of what the server's reflection tells, as gRPC's tools do it. Says "all as expected", or what was not.
"""

import sys
import threading
import time

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

SERVICE = "numbers.Numbers"


def expect(what, expected, got):
    if expected != got:
        raise SystemExit(f"{what}: expected {expected!r:.300}, got {got!r:.300}")


class Client:
    """The methods of a service, by name."""

    def __init__(self, channel):
        database = ProtoReflectionDescriptorDatabase(channel)
        expect("reflection: services", True, {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services()))
        pool = descriptor_pool.DescriptorPool(database)
        self.message = {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"numbers.{name}"))
                        for name in ("Number", "Text", "Nothing")}
        for method in pool.FindServiceByName(SERVICE).methods:
            kind = ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
            answer = message_factory.GetMessageClass(method.output_type)
            call = getattr(channel, kind)(f"/{SERVICE}/{method.name}", lambda asked: asked.SerializeToString(), answer.FromString)
            setattr(self, method.name, call)

    def number(self, value):
        return self.message["Number"](value=value)


def refused(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise SystemExit("an error was expected, and there is none")


def unary(client):
    for value in (0, 12, -12):
        expect("Square", value * value, client.Square(client.number(value), timeout=10).value)
    who = client.Who(client.message["Nothing"](), timeout=10).text
    expect("Who", "127.0.0.1", who.rpartition(":")[0])


def streams(client):
    counted = [number.value for number in client.Count(client.number(2000), timeout=20)]
    expect("Count", list(range(1, 2001)), counted)
    expect("Sum", 500_500, client.Sum((client.number(n) for n in range(1, 1001)), timeout=20).value)
    # Each answer is awaited before the next number is sent.
    answered = threading.Semaphore(1)

    def ask():
        for n in range(1, 101):
            expect("RunningSum: an answer in time", True, answered.acquire(timeout=10))
            yield client.number(n)

    total = 0
    for n, answer in enumerate(client.RunningSum(ask(), timeout=20), start=1):
        total += n
        expect("RunningSum", total, answer.value)
        answered.release()
    expect("RunningSum: the last sum", 5050, total)
    endless = client.Count(client.number(2**62), timeout=20)
    expect("Count: the first of an endless stream", 1, next(endless).value)
    endless.cancel()


def deadline(client):
    began = time.monotonic()
    error = refused(lambda: client.Rest(client.number(60_000), timeout=0.2))
    expect("Rest: its deadline", grpc.StatusCode.DEADLINE_EXCEEDED, error.code())
    expect("Rest: in time", True, time.monotonic() - began < 10)
    expect("Rest: one that is short", 5, client.Rest(client.number(5), timeout=10).value)


def details(client):
    error = refused(lambda: client.Square(client.number(2**62), timeout=10))
    expect("Square: the status", (grpc.StatusCode.OUT_OF_RANGE, "the square is too large"), (error.code(), error.details()))
    told = error_details_pb2.BadRequest()
    expect("Square: details", True, rpc_status.from_call(error).details[0].Unpack(told))
    expect("Square: the field that is wrong", ["value"], [violation.field for violation in told.field_violations])
    # In trailers behind answers.
    sums = client.RunningSum(iter([client.number(1), client.number(2**63 - 1)]), timeout=10)
    expect("RunningSum: before the error", 1, next(sums).value)
    expect("RunningSum: the error", grpc.StatusCode.OUT_OF_RANGE, refused(lambda: next(sums)).code())


def compression(client):
    answer, call = client.Digits.with_call(client.number(1000), timeout=10, compression=grpc.Compression.Gzip)
    expect("Digits", "0123456789" * 1000, answer.text)
    sums = client.Sum((client.number(n) for n in range(1, 1001)), timeout=20, compression=grpc.Compression.Gzip)
    expect("Sum, compressed", 500_500, sums.value)


def health(channel):
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10)
    expect("health", health_pb2.HealthCheckResponse.SERVING, answer.status)


def many(client):
    calls = [client.Square.future(client.number(n), timeout=20) for n in range(1000)]
    expect("a thousand at once", [n * n for n in range(1000)], [call.result().value for call in calls])


with grpc.insecure_channel(sys.argv[1]) as channel:
    client = Client(channel)
    unary(client)
    streams(client)
    deadline(client)
    details(client)
    health(channel)
    many(client)
    compression(client)
print("all as expected")
