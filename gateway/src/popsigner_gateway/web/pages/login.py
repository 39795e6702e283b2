"""`/login`: choose an identity provider, go there, and come back with a session."""

import re
from urllib.parse import urlencode

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from popsigner_gateway.gen.popsigner.internal.v1 import login_pb2 as login
from popsigner_gateway.web.cookies import LOGIN
from popsigner_gateway.web.faults import Fault, begin_again, provider_failed
from popsigner_gateway.web.gateway import Gateway, login_first, see
from popsigner_gateway.web.providers import Person, Provider, Speaker
from popsigner_gateway.web.sessions import BrowserSession
from popsigner_gateway.web.transactions import LIFETIME, Transaction, place_on_this_site

CALLBACK = "/login/callback"
_PROVIDER_ID = re.compile("idp_[0-9A-HJKMNP-TV-Z]{26}")
_ELSEWHERE = frozenset({"cross-site", "same-site"})
_SLUG = re.compile("[a-z0-9-]{1,63}")
_log = structlog.get_logger(__name__)


class Login:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> list[Route]:
        return [
            Route("/login", self.choose, methods=["GET"]),
            Route(CALLBACK, self.complete, methods=["GET"]),
            Route("/login/{provider_id}", self.begin, methods=["GET", "POST"]),
        ]

    async def choose(self, request: Request) -> Response:
        asked = request.query_params
        organization, return_to = asked.get("organization", "").strip().lower(), asked.get("return_to", "/")
        invitation = None
        if token := asked.get("invitation", ""):
            invitation = await self._gateway.server.invitation(token)
            organization, return_to = invitation.slug, "/invitation?" + urlencode({"token": token})
        known = organization if _SLUG.fullmatch(organization) else ""
        providers = await self._gateway.server.providers(known)
        # Links and no forms: `form-action 'self'` would stop the way to the provider, and to begin changes nothing.
        choices = [
            (each, f"/login/{each.id}?" + urlencode({"return_to": place_on_this_site(return_to)})) for each in providers
        ]
        return self._gateway.page(
            "login",
            choices=choices,
            organization=known,
            invitation=invitation,
            return_to=place_on_this_site(return_to),
        )

    async def begin(self, request: Request) -> Response:
        return_to = place_on_this_site(request.query_params.get("return_to", "/"))
        if request.headers.get("sec-fetch-site") in _ELSEWHERE:
            # An organization's own provider can vouch without asking anybody. If another site could begin a log-in
            # there, it could log a person in as somebody else behind their back; so the person chooses on a page of
            # ours.
            return login_first(return_to)
        provider, speaker = await self._speaker(request.path_params["provider_id"])
        transaction = Transaction.begun(provider_id=provider.id, return_to=return_to, now=self._gateway.clock())
        url = await speaker.authorization_url(provider, transaction, self._redirect_uri)
        self._gateway.jar.put(request, LOGIN, transaction.packed(), seconds=LIFETIME)
        return see(url)

    @property
    def _redirect_uri(self) -> str:
        return self._gateway.public_url + CALLBACK

    async def _speaker(self, provider_id: str) -> tuple[Provider, Speaker]:
        if not _PROVIDER_ID.fullmatch(provider_id):
            raise Fault(
                status=404,
                reason="IDENTITY_PROVIDER_NOT_FOUND",
                sentence="There is no such identity provider.",
                advice="Choose another identity provider.",
            )
        found = await self._gateway.server.provider(provider_id)
        speaker = self._gateway.speakers.get(found.provider.kind)
        if speaker is None:
            raise provider_failed("This POP does not speak with identity providers of this kind.")
        provider = Provider(
            id=found.provider.id,
            kind=found.provider.kind,
            name=found.provider.name,
            issuer=found.provider.issuer,
            client_id=found.provider.client_id,
            client_secret=found.client_secret,
        )
        return provider, speaker

    async def complete(self, request: Request) -> Response:
        gateway = self._gateway
        transaction = Transaction.unpacked(gateway.jar.read(request, LOGIN), now=gateway.clock())
        if transaction is None:
            raise begin_again("This log-in was not begun in this browser, was completed before, or took too long.")
        if not transaction.is_answered_by(request.query_params.get("state", "")):
            # The transaction stays: whoever sent the browser here must not end the person's own log-in.
            raise begin_again("This answer does not belong to the log-in that this browser began.")
        # From here on it is used up, whatever comes.
        gateway.jar.clear(request, LOGIN)
        try:
            person = await self._person(transaction, request)
            tokens = await self._tokens(transaction, person, request)
        except Fault as fault:
            _log.warning("login.refused", provider_id=transaction.provider_id, reason=fault.reason)
            raise
        await self._replace_session(request, BrowserSession.of(tokens, gateway.clock()))
        _log.info(
            "login.completed",
            provider_id=transaction.provider_id,
            user_id=tokens.user_id,
            session_id=tokens.session_id,
        )
        return see(transaction.return_to)

    async def _person(self, transaction: Transaction, request: Request) -> Person:
        answer = request.query_params
        if len(answer.multi_items()) != len(answer):
            raise begin_again("The identity provider's answer says something twice.")
        provider, speaker = await self._speaker(transaction.provider_id)
        return await speaker.person(provider, transaction, self._redirect_uri, answer)

    async def _tokens(self, transaction: Transaction, person: Person, request: Request) -> login.Tokens:
        vouched = login.CompleteLoginRequest(
            provider_id=transaction.provider_id,
            login_id=transaction.login_id,
            subject=person.subject,
            email=person.email,
            email_verified=person.email_verified,
            name=person.name,
            origin=self._gateway.caller(request).origin,
        )
        return await self._gateway.server.complete_login(vouched)

    async def _replace_session(self, request: Request, fresh: BrowserSession) -> None:
        """The session that this browser had would live on without anybody who could end it."""
        before = self._gateway.sessions.held(request)
        self._gateway.sessions.keep(request, fresh)
        if before is not None:
            try:
                await self._gateway.server.end_session(before.refresh_token)
            except Fault as fault:
                _log.warning("login.former_session_lives", session_id=before.session_id, reason=fault.reason)
