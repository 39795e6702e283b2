"""What every page shares: the parts of the application, and how a request is read and answered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from jinja2 import Environment
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from popsigner_gateway.gen.popsigner.v1 import auth_pb2
from popsigner_gateway.web.cookies import FormSeal, Jar
from popsigner_gateway.web.faults import Fault, malformed
from popsigner_gateway.web.providers import Speaker
from popsigner_gateway.web.server import ENDED, Caller, Server
from popsigner_gateway.web.sessions import BrowserSession, Sessions

LARGEST_FORM = 65_536
"""Bytes of a form."""
_MOST_FIELDS = 32
_FORM = "application/x-www-form-urlencoded"
_LONGEST_USER_AGENT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """public_url: scheme and authority of every address that is given away, whatever a Host header says. speakers: by
    kind of provider. clock: seconds since the epoch."""

    public_url: str
    server: Server
    speakers: Mapping[str, Speaker]
    jar: Jar
    forms: FormSeal
    sessions: Sessions
    templates: Environment
    clock: Callable[[], float]

    def caller(self, request: Request) -> Caller:
        """Where the request comes from: Envoy's own word (it drops what callers say), never x-forwarded-for."""
        agent = "".join(each for each in request.headers.get("user-agent", "") if each.isprintable())
        return Caller(
            address=request.headers.get("x-envoy-external-address", ""), user_agent=agent[:_LONGEST_USER_AGENT]
        )

    async def session(self, request: Request) -> BrowserSession | None:
        return await self.sessions.current(request, self.caller(request))

    async def person(self, request: Request) -> tuple[BrowserSession, auth_pb2.WhoamiResponse] | None:
        """Who is logged in, as the server says at this moment; None for nobody."""
        session = await self.session(request)
        if session is None:
            return None
        try:
            return session, await self.server.whoami(session.access_token, self.caller(request))
        except Fault as fault:
            if fault.reason not in ENDED:
                raise
        # It was ended elsewhere, while its access token was young.
        self.sessions.forget(request)
        return None

    def page(self, name: str, *, status: int = 200, **values: Any) -> Response:
        """The page of a template."""
        return HTMLResponse(self.templates.get_template(f"{name}.html").render(values), status_code=status)

    def token(self, session: BrowserSession, action: str) -> str:
        """For the hidden field `token` of a form that does `action`."""
        return self.forms.token(session.session_id, action)

    async def form(self, request: Request) -> dict[str, str]:
        """The form of a POST that a page of this site sent. Raises Fault."""
        # Browsers write `Origin: null` on forms of pages with `Referrer-Policy: no-referrer`; Sec-Fetch-Site, which no
        # page can forge, then decides. One of them has to be there.
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        named = origin == self.public_url or (site == "same-origin" and origin in (None, "null"))
        if not named or site not in (None, "same-origin"):
            raise forged()
        return await read_form(request)

    def check(self, fields: Mapping[str, str], session: BrowserSession, action: str) -> None:
        """Raises Fault unless the form carries the token of this session for this action."""
        if not self.forms.fits(fields.get("token", ""), session.session_id, action):
            raise forged()

    async def own_session(self, request: Request, fields: Mapping[str, str], action: str) -> BrowserSession:
        """The live session whose token the form carries. Raises Fault, also where there is none."""
        held = self.sessions.held(request)
        if held is None:
            raise logged_out()
        self.check(fields, held, action)
        session = await self.session(request)
        if session is None:
            raise logged_out()
        return session


def see(place: str) -> Response:
    """Send the browser on with a GET."""
    return RedirectResponse(place, status_code=303)


def login_first(return_to: str) -> Response:
    return see("/login?" + urlencode({"return_to": return_to}))


def forged() -> Fault:
    return Fault(
        status=403,
        reason="FORM_FORGED",
        sentence="This form was not sent by a page of this site, or the page is too old.",
        advice="Open the page again, and send the form from there.",
    )


def logged_out() -> Fault:
    return Fault(status=401, reason="SESSION_ENDED", sentence="You are not logged in.", advice="Log in again.")


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form-encoded body (RFC 6749 B). Raises Fault, also for a field that comes twice (3.2)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise malformed(f"The body is not {_FORM}.")
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_FORM:
                raise Fault(
                    status=413,
                    reason="REQUEST_TOO_LARGE",
                    sentence=f"The form is larger than {LARGEST_FORM} bytes.",
                    advice="Send less.",
                )
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ClientDisconnect:
        raise malformed("The body ended early.") from None
    except ValueError:
        raise malformed("The body is no form.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise malformed("A field of the form comes more than once.")
    return fields
