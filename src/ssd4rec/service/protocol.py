"""HTTP for overload: a request that is to be refused is answered where its bytes arrive.

Without it, the event loop would make a task for each request, and refuse it after the requests that it answers meanwhile.
`RequestGate` refuses the same requests with the same answer under any other server.
"""

import secrets

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ssd4rec.service.middleware import all_headers, count_request
from ssd4rec.service.overload import UNCOUNTED, Overload


class RefusingProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with the `Overload` that the application has put into the state of its lifespan."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        overload: Overload | None = self.app_state.get("overload")
        scope = cycle.scope
        if overload is not None and scope["path"] not in UNCOUNTED and self._is_usual(cycle):
            if not overload.enter():
                self._refuse(cycle, overload)
                return
            scope["state"]["is_counted"] = True
        super()._start_asgi_task(cycle, app)

    def _is_usual(self, cycle: RequestResponseCycle) -> bool:
        """Whether the client reads an answer with a body, sends nothing before it, and keeps the connection."""
        return not self.pipeline and cycle.keep_alive and not cycle.waiting_for_100_continue and cycle.scope["method"] != "HEAD"

    def _refuse(self, cycle: RequestResponseCycle, overload: Overload) -> None:
        request_id = secrets.token_hex(8)
        response = overload.problem().response()
        headers = [*self.server_state.default_headers, *all_headers(response.raw_headers, cycle.scope["path"], request_id)]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        cycle.response_started = cycle.response_complete = True  # what comes of the body is skipped
        self.transport.write(b"HTTP/1.1 503 Service Unavailable\r\n%s\r\n%s" % (lines, response.body))
        count_request(dict(cycle.scope), 503, 0.0, request_id, log_requests=self.app_state["log_requests"])
        cycle.on_response()
