"""What is sent to a webhook and an MQTT broker, how failures are told, and addresses as they are typed."""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.sinks.addresses import Address, read_address
from pipeline.sinks.mqtt import MqttTopic
from pipeline.sinks.webhook import Webhook
from tests.ports import free_port
from tests.receivers import Broker, HookServer

SCHEMES = ("http", "https")
CONTENT = json.dumps({"id": "a-1", "attempt": 1}).encode()


def refusal(sender: Webhook | MqttTopic, seconds: float = 30.0) -> str:
    with pytest.raises(UserError) as error:
        sender.send(CONTENT, seconds)
    sender.close()
    message = str(error.value)
    assert "secret" not in message
    assert "t0k3n" not in message
    assert "\n" not in message
    return message


@contextmanager
def talker(*parts: bytes, pause_seconds: float = 0.0) -> Iterator[int]:
    """A port where a connection is sent some bytes, with pauses, and then nothing."""
    over = threading.Event()

    def talk(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):  # they have hung up
            for part in parts:
                connection.sendall(part)
                over.wait(pause_seconds)
            over.wait(30)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        over.set()
        thread.join()


def test_a_webhook_gets_the_event_and_little_else() -> None:
    with HookServer() as server:
        Webhook(Address(server.url, {"X-Key": "k"})).send(CONTENT, 30.0)
        ((path, head),) = server.heads
    assert server.received == [json.loads(CONTENT)]
    assert path == "/hooks/t0k3n"
    assert head["Authorization"] == "Basic " + base64.b64encode(b"me:secret").decode()
    names = {"Accept-Encoding", "Content-Length", "Host", "User-Agent", "Content-Type", "X-Key", "Authorization"}
    assert set(head.keys()) == names | {"Connection"}
    assert head["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("500 my secret", "it answers 500 Internal Server Error"),
        ("404 x", "it answers 404 Not Found"),
        ("299 x", None),
        ("302 Found\r\nLocation: {elsewhere}", "302 Found, which is not followed: give the address that it points to"),
        ("307 x\r\nLocation: {elsewhere}", "307 Temporary Redirect, which is not followed"),
    ],
)
def test_only_success_is_success_and_no_redirection_is_followed(answer: str, said: str | None) -> None:
    with HookServer() as elsewhere, HookServer() as server:
        server.answer = answer.format(elsewhere=elsewhere.url)
        sender = Webhook(Address(server.url))
        if said is None:
            sender.send(CONTENT, 30.0)
        else:
            assert said in refusal(sender)
        assert not elsewhere.heads


@pytest.mark.parametrize(
    ("parts", "seconds", "said"),
    [
        ((), 0.3, "no answer within 0.3 s"),
        ((b"HTTP/1.1 200 OK\r\n", *(b"X: y\r\n" for _ in range(50))), 0.3, "no answer within 0.3 s"),
        ((b"SSH-2.0\r\n",), 30.0, "does not speak HTTP as it should (BadStatusLine)"),
    ],
)
def test_a_webhook_that_is_slow_or_none(parts: tuple[bytes, ...], seconds: float, said: str) -> None:
    """The second sends a header now and then, and so would never be late by the clock of a socket."""
    with talker(*parts, pause_seconds=0.1) as port:
        assert said in refusal(Webhook(Address(f"http://me:secret@127.0.0.1:{port}/t0k3n")), seconds)


def test_nobody_there() -> None:
    with HookServer(dies_after={1}) as server:
        assert "the server hangs up without an answer" in refusal(Webhook(Address(server.url)))
    port = free_port()
    assert "Connection refused" in refusal(Webhook(Address(f"http://me:secret@127.0.0.1:{port}/t0k3n")))
    assert "Connection refused" in refusal(MqttTopic(Address(f"mqtt://me:secret@127.0.0.1:{port}/t0k3n")))
    assert "there is no such host" in refusal(Webhook(Address("http://me:secret@no-such-host.invalid/t0k3n")))
    assert "there is no such host" in refusal(MqttTopic(Address("mqtt://me:secret@no-such-host.invalid/t0k3n")))


def test_a_broker_gets_login_topic_and_events_on_one_connection() -> None:
    with Broker() as broker:
        sender = MqttTopic(Address(broker.url.replace("secret", "se%2Fcret")))
        for _ in range(3):
            sender.send(CONTENT, 30.0)
        sender.close()
        sender.close()
        sender.send(CONTENT, 30.0)
        sender.close()
    assert broker.received == [json.loads(CONTENT)] * 4
    assert broker.topics == ["house/t0k3n"] * 4
    assert len(broker.connects) == 2
    for connect in broker.connects:
        assert connect[0] == 4  # MQTT 3.1.1
        assert connect[1] == 0b1100_0010  # name, password, clean session
        assert connect.endswith(b"\x00\x02me\x00\x07se/cret")


def test_a_broker_that_refuses_lies_or_is_silent() -> None:
    with Broker() as broker:
        sender = MqttTopic(Address(broker.url))
        broker.refusal = 5
        assert refusal(sender).endswith("it refuses: Not authorized")
        broker.refusal = 0
        sender.send(CONTENT, 30.0)
        sender.close()
    for parts in ((), (b"\x20\x02\x00\x00", b"\x30\x00"), (b"HTTP/1.1 400 Bad\r\n\r\n",)):
        with talker(*parts) as port:
            start = time.monotonic()
            refusal(MqttTopic(Address(f"mqtt://me:secret@127.0.0.1:{port}/t0k3n")), 0.3)
            assert time.monotonic() - start < 20


def test_an_address_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "hook.txt"
    file.write_text("https://h/x\nAuthorization: Bearer t0k3n\n\nX-A:  b c\n")
    address = read_address(str(file), "--webhook", SCHEMES)
    assert address == Address("https://h/x", {"Authorization": "Bearer t0k3n", "X-A": "b c"})
    assert read_address("HTTP://h", "--webhook", SCHEMES) == Address("HTTP://h")
    assert read_address("mqtts://h/a/b", "--mqtt", ("mqtt", "mqtts")).shown == "mqtts://h/***"


@pytest.mark.parametrize(
    ("text", "content", "said"),
    [
        ("ftp://me:secret@h/t0k3n", None, "write http://HOST/... or https://HOST/..., or name a file"),
        ("http://", None, "--webhook http://***: write http"),
        ("http://h/secret t0k3n", None, "write http"),
        ("absent.txt", None, "absent.txt: neither an address nor a file that can be read (No such file or directory)"),
        ("me:secret@h/t0k3n", None, "--webhook ***: neither an address"),
        ("{file}", b"", "--webhook ***: write http"),
        ("{file}", b"https://h/x\nsecret t0k3n\n", "a line of its file is no header"),
        ("{file}", b"\xff\xfe\x00", "can be read (no text)"),
    ],
)
def test_what_is_no_address_is_told_without_its_secrets(
    text: str, content: bytes | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "hook.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_address(text.format(file=file), "--webhook", SCHEMES)
    assert said in str(error.value)
    assert "secret" not in str(error.value)
    assert "t0k3n" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["mqtt://me:secret@h", "mqtt://me:secret@h/", "mqtt://h/t0k3n/%23", "mqtt://h/t0k3n?x=secret", "mqtt://h:x/t0k3n"],
)
def test_a_topic_is_needed(url: str) -> None:
    with pytest.raises(UserError, match=r"^--mqtt mqtt://.*: (its path must be a topic|the port is no)") as error:
        MqttTopic(Address(url))
    assert "secret" not in str(error.value)
    assert "t0k3n" not in str(error.value)


def test_without_the_extra_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(UserError, match=r"pip install 'clipgru\[mqtt\]'"):
        MqttTopic(Address("mqtt://h/x"))
