"""The control socket itself: lines of JSON in both directions, from clients that behave and from those that do not."""
import json
import os
import resource
import socket
import time

import pytest

import guests
from conftest import TIMEOUT

CLIENTS_MAX = 32
LINE_MAX = 4096


class Client:
    def __init__(self, runtime_dir, name="box"):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(f"{runtime_dir}/umbra/{name}.sock")
        self.socket.settimeout(TIMEOUT)
        self.pending = b""

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else json.dumps(data).encode() + b"\n")

    def line(self):
        while b"\n" not in self.pending:
            data = self.socket.recv(65536)
            if not data:
                return None
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        return json.loads(line)

    def ask(self, data):
        self.send(data)
        return self.line()

    def is_over(self):
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.socket.close()


@pytest.fixture
def connect(running, runtime_dir):
    """connect(): one more client of a VM that runs."""
    process = running(guests.SPIN)
    clients = []

    def make():
        clients.append(Client(runtime_dir))
        return clients[-1]

    make.process = process
    yield make
    for client in clients:
        client.close()


def test_every_request_has_its_answer_with_its_id(connect):
    client = connect()
    assert client.ask({"request": "info"})["name"] == "box"
    for number, request in enumerate(["pause", "resume", "stat", "screen", "reset", "power-button"]):
        answer = client.ask({"id": number, "request": request})
        assert answer["ok"] is True and answer["id"] == number, request
    assert client.ask({"id": "text", "request": "pause"}) == {"id": "text", "ok": True, "state": "paused"}


@pytest.mark.parametrize("line, word", [
    (b"\n", "JSON object"), (b"{}\n", "'request' is missing"), (b"[]\n", "JSON object"), (b'"pause"\n', "JSON object"), (b"nonsense\n", "JSON object"),
    (b'{"request":"pause"\n', "JSON object"), (b'{"request":"pause"} {}\n', "JSON object"), (b'{"request":7}\n', "'request' is missing"),
    (b'{"request":"explode"}\n', "no request 'explode'"), (b'{"request":"\\u001b[2J\\u00e9"}\n', "no request '?[2J"),
    (b'{"request":"' + b"x" * 3000 + b'"}\n', "no request 'xxx"), (b'{"request":"pause","request":"pause"}\n', "JSON object"),
    (b'{"request":"pause","force":true}\n', "takes no 'force'"), (b'{"id":{},"request":"pause"}\n', "'id'"), (b'{"id":1.5,"request":"pause"}\n', "'id'"),
    (b'{"request":"pa\xff\xfe"}\n', "JSON object"), (b'{"request":"pause\x00"}\n', "JSON object"), (b"\x00\x01\x02\n", "JSON object"),
    (b"[" * 4000 + b"\n", "JSON object"), (b'{"request":' * 300 + b"\n", "JSON object"), (b'{"id":[[[[1]]]],"request":"pause"}\n', "'id'"),
    (b'{"request":"resize"}\n', "'columns', a whole number from 0 to 65535"), (b'{"request":"resize","columns":80,"rows":65536}\n', "'rows'"),
    (b'{"request":"resize","columns":80,"rows":-1}\n', "'rows'"), (b'{"request":"resize","columns":80,"rows":99999999999999999999}\n', "JSON object"),
    (b'{"request":"resize","columns":80,"rows":25}\n', "serial line"), (b"x" * 4097 + b"\n", "at most 4096 bytes")])
def test_what_makes_no_sense_is_refused_with_a_sentence(connect, line, word):
    client = connect()
    answer = client.ask(line)
    assert answer["ok"] is False and word in answer["error"], answer
    assert client.ask({"request": "info"})["state"] == "running"


def test_a_refusal_has_the_id_of_its_request(connect):
    assert connect().ask({"id": 7, "request": "explode"})["id"] == 7


def test_a_line_without_end_is_refused_and_hung_up_on(connect):
    client = connect()
    answer = client.ask(b"{" * (LINE_MAX + 2))
    assert answer["ok"] is False and "at most 4096 bytes" in answer["error"]
    assert client.is_over()
    assert connect().ask({"request": "info"})["ok"]


def test_the_longest_line_is_taken(connect):
    request = b'{"request":"info","id":"' + b"x" * (LINE_MAX - 26) + b'"}'
    assert len(request) == LINE_MAX
    assert connect().ask(request + b"\n")["ok"] is True


def test_a_request_may_come_byte_by_byte_and_many_at_once(connect):
    client = connect()
    for byte in b'{"request":"info"}\n':
        client.send(bytes([byte]))
    assert client.line()["ok"]
    client.send(b"".join(b'{"id":%d,"request":"info"}\n' % i for i in range(1000)))
    assert [client.line()["id"] for _ in range(1000)] == list(range(1000))


def test_an_answer_comes_to_a_client_that_will_send_no_more(connect):
    client = connect()
    client.send({"request": "info"})
    client.socket.shutdown(socket.SHUT_WR)
    assert client.line()["ok"]
    assert client.is_over()


def test_a_client_that_reads_nothing_waits_alone(connect):
    slow, other = connect(), connect()
    slow.socket.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        for _ in range(100000):
            sent += slow.socket.send(b'{"request":"screen"}\n')
    for _ in range(20):
        assert other.ask({"request": "info"})["ok"]
    slow.socket.settimeout(TIMEOUT)
    for _ in range(sent // 21):
        assert slow.line()["ok"]


def test_a_client_that_leaves_without_reading_harms_nobody(connect):
    for _ in range(50):
        client = connect()
        client.send(b'{"request":"stat"}\n' * 20)
        client.close()
    assert connect().ask({"request": "info"})["ok"]


def test_more_clients_than_there_are_places_are_told_so(connect):
    clients = [connect() for _ in range(CLIENTS_MAX)]
    for client in clients:
        assert client.ask({"request": "info"})["ok"]
    for _ in range(3):
        client = connect()
        assert "as many control connections" in client.line()["error"]
        assert client.is_over()
    clients[5].close()
    deadline = time.monotonic() + TIMEOUT
    while not (answer := connect().ask({"request": "info"})) or not answer["ok"]:
        assert time.monotonic() < deadline
    assert clients[6].ask({"request": "info"})["ok"]


def test_clients_are_hung_up_on_when_the_vm_ends(connect):
    client, other = connect(), connect()
    assert client.ask({"id": 1, "request": "quit"}) == {"id": 1, "ok": True}
    assert client.is_over() and other.is_over()
    assert connect.process.wait(TIMEOUT) == 0


def test_requests_during_resets_are_answered(connect):
    client = connect()
    for _ in range(30):
        assert client.ask({"request": "reset"})["ok"]
        assert client.ask({"request": "stat"})["ok"]
        assert client.ask({"request": "pause"})["state"] == "paused"
        assert client.ask({"request": "resume"})["state"] == "running"


def test_the_vm_survives_running_out_of_descriptors(running, runtime_dir):
    """Its limit is what it has open already: nobody is accepted until somebody leaves, and it does not spin meanwhile."""
    process = running(guests.STOP)
    first = Client(runtime_dir)
    assert first.ask({"request": "info"})["ok"]
    used = max(int(fd) for fd in os.listdir(f"/proc/{process.pid}/fd")) + 1
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used, resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[1]))
    second = Client(runtime_dir)
    second.send({"request": "info"})
    assert first.ask({"request": "info"})["ok"]
    before = cpu_time(process.pid)
    time.sleep(1)
    assert cpu_time(process.pid) - before < 0.5
    first.close()
    assert second.line()["ok"]
    second.close()


def cpu_time(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
