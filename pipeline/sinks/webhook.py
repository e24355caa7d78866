"""A webhook: each event an HTTP POST of JSON. No redirection is followed: it would take the event to another host."""

from __future__ import annotations

from http.client import HTTPException
from urllib.error import HTTPError, URLError

from pipeline.errors import UserError
from pipeline.network import TimeLimit, answer_in_words, make_request, open_url, reason_of_failure
from pipeline.sinks.addresses import Address
from pipeline.sinks.delivery import RefusedError

_MAY_CHANGE = (401, 403, 404, 407, 408, 421, 425, 429)
"""Of the answers 400 to 499: those that speak of the address, its keys or the moment, which somebody may mend. The
others speak of the event, which stays as it is (RFC 9110, 8470, 6585)."""


class Webhook:
    """A receiver over HTTP; any answer from 200 to 299 means that it has the event.

    Args:
        address: http or https; a login in it is sent as Basic authorization.

    Attributes:
        name: for people.
    """

    def __init__(self, address: Address) -> None:
        self.name = f"webhook {address.shown}"
        self._address = address

    def send(self, content: bytes, seconds: float) -> None:
        """Send an event, within so many seconds in all.

        Raises:
            RefusedError: the answer is that it never will be accepted.
            UserError: it was not accepted, or nobody knows.
        """
        headers = self._address.headers | {"Content-Type": "application/json"}
        try:
            open_url(make_request(self._address.url, content, headers), TimeLimit(seconds)).close()
        except HTTPError as error:
            error.close()
            cure = ", which is not followed: give the address that it points to" if 300 <= error.code < 400 else ""
            is_final = 400 <= error.code < 500 and error.code not in _MAY_CHANGE
            kind = RefusedError if is_final else UserError
            raise kind(f"{self.name}: it answers {answer_in_words(error)}{cure}") from None
        except (OSError, HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            is_late = isinstance(reason, TimeoutError)
            cause = f"no answer within {seconds:.3g} s" if is_late else reason_of_failure(reason)
            raise UserError(f"{self.name}: {cause}") from None

    def close(self) -> None:
        """Nothing to close: each event has a connection of its own."""
