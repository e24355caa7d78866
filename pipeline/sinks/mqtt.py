"""A topic of an MQTT broker: each event a message of QoS 1, sent when the one before is acknowledged."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.errors import UserError
from pipeline.network import TimeLimit, look_up, reason_of_failure
from pipeline.sinks.addresses import Address

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_PORTS = {"mqtt": 1883, "mqtts": 8883}


class MqttTopic:
    """A receiver by MQTT 3.1.1. The connection is there while there is something to send.

    Args:
        address: ``mqtt://USER:PASSWORD@HOST:PORT/TOPIC``, or ``mqtts`` for TLS.

    Attributes:
        name: for people.

    Raises:
        UserError: paho-mqtt is not installed, or the address names no topic.
    """

    def __init__(self, address: Address) -> None:
        try:
            import paho.mqtt.client  # noqa: F401
        except ImportError as error:
            raise UserError("--mqtt needs a package that is not installed; pip install 'clipgru[mqtt]'") from error
        self.name = f"mqtt {address.shown}"
        parts = urlsplit(address.url)
        try:
            self._host, self._port = parts.hostname or "", parts.port or _PORTS[parts.scheme.lower()]
        except ValueError:
            raise UserError(f"--{self.name}: the port is no number up to 65535") from None
        self._is_secure = parts.scheme.lower() == "mqtts"
        self._login = [unquote(word) for word in (parts.username, parts.password) if word is not None]
        self._topic = unquote(parts.path[1:])
        if not self._topic or set(self._topic) & set("+#\0") or parts.query or parts.fragment or address.headers:
            raise UserError(f"--{self.name}: its path must be a topic, without + # and ?, and no headers may follow")
        self._client: Client | None = None

    def send(self, content: bytes, seconds: float) -> None:
        """Send an event, within so many seconds in all.

        Raises:
            UserError: the broker has not acknowledged it.
        """
        limit = TimeLimit(seconds)
        try:
            client = self._client or self._connected(limit)
            sent = client.publish(self._topic, content, qos=1)
            self._run(client, sent.is_published, limit)
        except (OSError, ValueError, RuntimeError, struct.error) as error:  # the last of a packet that is none
            self.close()
            cause = f"no answer within {seconds:.3g} s" if isinstance(error, TimeoutError) else _reason(error)
            raise UserError(f"{self.name}: {cause}") from None

    def _connected(self, limit: TimeLimit) -> Client:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        look_up(self._host, self._port, limit.seconds_left())  # paho looks it up again, and without a deadline
        answers: list[str] = []
        self._client = client = Client(CallbackAPIVersion.VERSION2, client_id=f"clipgru-{secrets.token_hex(6)}")
        if self._login:
            client.username_pw_set(*self._login)
        if self._is_secure:
            client.tls_set()
        client.on_connect = lambda client, data, flags, reason, properties: answers.append(str(reason))
        client.connect_timeout = limit.seconds_left()
        client.connect(self._host, self._port)
        try:
            self._run(client, client.is_connected, limit)
        except RuntimeError as error:
            raise RuntimeError(f"it refuses: {answers[0]}" if answers else str(error)) from None
        return client

    def _run(self, client: Client, is_done: Callable[[], bool], limit: TimeLimit) -> None:
        """Read and write until something is so. Raises ``OSError``, ``RuntimeError``."""
        from paho.mqtt.client import error_string

        while not is_done():
            code = client.loop(limit.seconds_left())
            if code > 0:
                raise RuntimeError(error_string(code))

    def close(self) -> None:
        """Disconnect until there is something to send."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(OSError, ValueError):
                client.disconnect()


def _reason(error: Exception) -> str:
    # paho's own words for a RuntimeError know nothing of the address.
    return str(error).rstrip(".") if isinstance(error, RuntimeError) else reason_of_failure(error)
