"""Services whose answer is sent after their callback has returned.

Loading a policy takes longer than a control period, so it may not happen in the executor's thread;
the caller wants to know how it went, so the answer cannot be sent before. Coroutine callbacks do
not work on every executor of Jazzy. What does: every executor answers through the service's own
``send_response``, which here keeps the header of a request until its answer is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation


class Answer:
    """The answer that somebody waits for."""

    def __init__(self, send: Callable[[Any, Any], None]) -> None:
        """Keep how to send it."""
        self._send = send
        self.header: Any = None
        """Of the request; None until the executor has handed it over."""

    def send(self, response: Any) -> str:  # noqa: ANN401 - the service's own type
        """Send it; return why that was not possible, empty where it was."""
        if self.header is None:
            return "the executor has answered already"
        try:
            self._send(response, self.header)
        except rclpy_implementation.RCLError as error:
            return str(error).partition(", at /")[0]
        return ""


Begin = Callable[[Any, Any, Answer], bool]
"""From request, response and answer to whether the answer is sent later. Where it is not, the
response is complete; where it is, the response says so, should an executor send it at once."""


class LateService:
    """Binds a service to a `Begin`; all of it runs in the executor's thread."""

    def __init__(self, service: Any, begin: Begin) -> None:  # noqa: ANN401 - rclpy's Service
        """Take the place of the service's callback and of its way to answer."""
        self._begin = begin
        self._send = service.send_response
        self._asked: Answer | None = None
        service.callback = self._on_request
        service.send_response = self._on_response

    def _on_request(self, request: Any, response: Any) -> Any:  # noqa: ANN401
        answer = Answer(self._send)
        self._asked = answer if self._begin(request, response, answer) else None
        return response

    def _on_response(self, response: Any, header: Any) -> None:  # noqa: ANN401
        asked, self._asked = self._asked, None
        if asked is None:
            self._send(response, header)
        else:
            asked.header = header
