"""The console's web application: pages and fragments, on loopback, for one person.

Every answer needs the cookie that the first visit with the token sets. A request for another host, or a POST from
another origin, is refused. Pages load nothing from elsewhere and run no inline script.
"""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from cli import options
from cli.console import actions, facts
from cli.output import as_json
from fiblake.errors import FiblakeError, NotFoundError, PermanentError
from fiblake.lake import check_symbol
from fiblake.wording import instant, pluralize, shorten_ids

if TYPE_CHECKING:
    from starlette.requests import Request

    from cli.target import Target

COOKIE: Final = "fiblake_console"
LETTERS_READ: Final = 500
"""Dead letters read from each queue for the page of letters; the page says when there are more."""
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Handler = Callable[["Request"], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Console:
    """The data that the pages need."""

    stack: "Target"
    token: str
    port: int
    allow_actions: bool

    @property
    def hosts(self) -> set[str]:
        """The values of the Host header that are answered."""
        return {f"127.0.0.1:{self.port}", f"localhost:{self.port}"}


def application(console: Console) -> Starlette:
    """Return the web application."""
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("cli.console"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    pages.filters["number"] = lambda value: "-" if value is None else f"{value:,}"
    pages.filters |= {"counted": pluralize, "instant": instant, "shortened": shorten_ids, "seconds": _seconds}
    render = partial(_rendered, pages, console)
    routes = [
        Route("/", _page(render, "flow.html", lambda _request: {})),
        Route("/fragments/flow", _page(render, "flow_fragment.html", partial(_flow, console))),
        Route("/fragments/latency", _page(render, "latency_fragment.html", partial(_latency, console))),
        Route("/symbols", _find(render, console)),
        Route("/symbols/{symbol}", _page(render, "symbol.html", _symbol)),
        Route("/fragments/symbols/{symbol}", _page(render, "symbol_fragment.html", partial(_symbol_parts, console))),
        Route("/data/bars/{symbol}/{interval}", partial_json(partial(_bars, console))),
        Route("/quality/{symbol}", _page(render, "quality.html", _symbol)),
        Route("/fragments/quality/{symbol}", _page(render, "quality_fragment.html", partial(_quality, console))),
        Route("/trace", _page(render, "trace.html", lambda request: {"id": request.query_params.get("id", "")})),
        Route("/fragments/trace", _page(render, "trace_fragment.html", partial(_trace, console))),
        Route("/sessions", _page(render, "sessions.html", lambda _request: {})),
        Route("/fragments/sessions", _page(render, "sessions_fragment.html", partial(_sessions, console))),
        Route("/fragments/sessions/{session}", _page(render, "behind_fragment.html", partial(_behind, console))),
        Route(
            "/letters", _page(render, "letters.html", lambda request: {"queue": request.query_params.get("queue", "")})
        ),
        Route("/fragments/letters", _page(render, "letters_fragment.html", partial(_letters, console))),
        Route("/letters/{verb}", _action(render, console), methods=["POST"]),
        Route("/quarantine", _page(render, "quarantine.html", lambda _request: {})),
        Route("/fragments/quarantine", _page(render, "quarantine_fragment.html", partial(_quarantine, console))),
        Mount("/static", StaticFiles(packages=[("cli.console", "static")])),
    ]
    return Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=partial(_guarded, console))])


# ------------------------------------------------------------------------------------------------------------- safety


async def _guarded(console: Console, request: "Request", call_next: Handler) -> Response:
    """Answer only requests of this host with the token's cookie; a POST must come from our own page."""
    refusal = _refusal(console, request)
    if refusal:
        return Response(refusal, status_code=403, media_type="text/plain", headers=_HEADERS)
    token = request.query_params.get("token")
    if token is not None and request.method == "GET":
        return _first_visit(console, request, token)
    if not _same(request.cookies.get(COOKIE, ""), console.token):
        text = "Open the address that `fiblake console` printed: it carries the key to these pages.\n"
        return Response(text, status_code=401, media_type="text/plain", headers=_HEADERS)
    response = await call_next(request)
    response.headers.update(_HEADERS)
    return response


def _refusal(console: Console, request: "Request") -> str | None:
    if request.headers.get("host") not in console.hosts:
        return "This server answers for 127.0.0.1 only.\n"
    origin = request.headers.get("origin")
    if request.method != "GET" and origin not in {f"http://{host}" for host in console.hosts}:
        return "A request from another page is not accepted.\n"
    return None


def _first_visit(console: Console, request: "Request", token: str) -> Response:
    if not _same(token, console.token):
        return Response("This key is not valid any more.\n", status_code=401, media_type="text/plain", headers=_HEADERS)
    rest = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
    place = f"{request.url.path}?{urlencode(rest)}" if rest else request.url.path
    response = RedirectResponse(place, status_code=303, headers=_HEADERS)
    response.set_cookie(COOKIE, console.token, httponly=True, samesite="strict")
    return response


def _same(first: str, other: str) -> bool:
    return hmac.compare_digest(first.encode(), other.encode())


# -------------------------------------------------------------------------------------------------------------- pages


def _rendered(
    pages: jinja2.Environment, console: Console, name: str, values: Mapping[str, Any], status: int = 200
) -> Response:
    shared = {"stack": console.stack.name, "bucket": console.stack.bucket, "allow_actions": console.allow_actions}
    text = pages.get_template(name).render(shared | {"token": console.token, "at": datetime.now(UTC)} | dict(values))
    return HTMLResponse(text, status)


Render = Callable[..., Response]


def _page(render: Render, name: str, values: "Callable[[Request], Mapping[str, Any]]") -> Handler:
    """Return a handler that shows what `values` returns, in a separate thread; an error of ours is a sentence."""

    async def handle(request: "Request") -> Response:
        try:
            page_values = await run_in_threadpool(values, request)
        except FiblakeError as error:
            return render("error.html", {"error": str(error)}, 404 if isinstance(error, NotFoundError) else 200)
        return render(name, page_values)

    return handle


def partial_json(values: "Callable[[Request], Mapping[str, Any]]") -> Handler:
    """Return a handler that answers with JSON; an error of ours is `{"error": sentence}`."""

    async def handle(request: "Request") -> Response:
        try:
            return Response(as_json(await run_in_threadpool(values, request)), media_type="application/json")
        except FiblakeError as error:
            status = 404 if isinstance(error, NotFoundError) else 400 if isinstance(error, PermanentError) else 502
            return JSONResponse({"error": str(error)}, status)

    return handle


def _seconds(value: float) -> str:
    """Return a duration as text for a person."""
    minutes = round(value / 60)
    return f"{value:.1f} s" if value < 120 else f"{minutes} min" if minutes < 120 else f"{value / 3600:.1f} h"  # noqa: PLR2004


def _flow(console: Console, _request: "Request") -> Mapping[str, Any]:
    from cli.status import look

    state = look(console.stack, jobs=5, lag=True)
    expected = facts.expected_session(console.stack, datetime.now(UTC))
    return {"state": state, "problems": facts.problems(state, expected), "newest": facts.newest_session(state)}


def _latency(console: Console, _request: "Request") -> Mapping[str, Any]:
    return {"latencies": console.stack.latencies()}


def _find(render: Render, console: Console) -> Handler:
    """Return the handler of the search for symbols: an exact match is shown at once."""

    async def handle(request: "Request") -> Response:
        text = request.query_params.get("q", "").strip()
        try:
            names = await run_in_threadpool(facts.symbols_like, console.stack, text)
        except FiblakeError as error:
            return render("error.html", {"error": str(error)})
        if text in names:
            return RedirectResponse(f"/symbols/{text}", status_code=303)
        return render("symbols.html", {"text": text, "names": names})

    return handle


def _symbol(request: "Request") -> Mapping[str, Any]:
    symbol = check_symbol(request.path_params["symbol"])
    return {"symbol": symbol, "intervals": facts.INTERVAL_NAMES, "adjustments": facts.ADJUSTMENTS}


def _symbol_parts(console: Console, request: "Request") -> Mapping[str, Any]:
    symbol = check_symbol(request.path_params["symbol"])
    sources = facts.sources_of(console.stack, symbol)
    return {"symbol": symbol, "sources": sources, "held": facts.quarantine_of(console.stack, symbol)}


def _bars(console: Console, request: "Request") -> Mapping[str, Any]:
    symbol = check_symbol(request.path_params["symbol"])
    interval, adjustment = request.path_params["interval"], request.query_params.get("adjust", "splits")
    if interval not in facts.INTERVAL_NAMES or adjustment not in facts.ADJUSTMENTS:
        raise NotFoundError(
            f"{interval!r}, {adjustment!r}: intervals are {facts.INTERVAL_NAMES}, adjustments splits, raw"
        )
    return facts.bars_of(console.stack, symbol, interval, adjustment)


def _quality(console: Console, request: "Request") -> Mapping[str, Any]:
    from cli.quality import look, values_of

    symbol = check_symbol(request.path_params["symbol"])
    options.check_in_lake(console.stack.store, [symbol])
    return {"result": values_of(look(console.stack, symbol))}


def _trace(console: Console, request: "Request") -> Mapping[str, Any]:
    from cli.trace import default_since, is_id, look

    wanted = request.query_params.get("id", "").strip()
    if not is_id(wanted):
        raise NotFoundError(f"{wanted!r} is neither a correlation id nor a symbol")
    return {"steps": look(console.stack, wanted, default_since())}


def _sessions(console: Console, _request: "Request") -> Mapping[str, Any]:
    return {"stages": facts.STAGES, **facts.stages_of(console.stack)}


def _behind(console: Console, request: "Request") -> Mapping[str, Any]:
    try:
        session = date.fromisoformat(request.path_params["session"])
    except ValueError as error:
        raise NotFoundError("a session is a date: YYYY-MM-DD") from error
    return {"session": session, "names": facts.symbols_behind(console.stack, session)}


def _letters(console: Console, request: "Request") -> Mapping[str, Any]:
    queue = request.query_params.get("queue", "")
    letters = actions.letters(console.stack, queue, LETTERS_READ)
    return {"groups": facts.letter_groups(letters), "queue": queue, "read": len(letters), "most": LETTERS_READ}


def _quarantine(console: Console, _request: "Request") -> Mapping[str, Any]:
    return {"held": facts.quarantine_of(console.stack)}


def _action(render: Render, console: Console) -> Handler:
    """Return the handler that replays or discards letters; first a dry run, and then the letters that it showed."""

    async def handle(request: "Request") -> Response:
        form = {name: str(value) for name, value in (await request.form()).items()}
        if not console.allow_actions or not _same(form.get("token", ""), console.token):
            return render("error.html", {"error": "actions are off: start `fiblake console --allow-actions`"}, 403)
        verb, queue, reason = request.path_params["verb"], form.get("queue", ""), form.get("reason", "")
        is_sure = form.get("sure") == "yes"
        try:
            result = await run_in_threadpool(actions.act, console.stack, verb, queue, reason, is_sure=is_sure)
        except FiblakeError as error:
            return render("error.html", {"error": str(error)})
        values = {"verb": verb, "queue": queue, "reason": reason, "is_sure": is_sure, "result": result}
        return render("action_fragment.html", values)

    return handle
