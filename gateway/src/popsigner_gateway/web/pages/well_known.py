"""`/.well-known/…`: what programs may know of this POP; `/internal/ready`: whether this process can work."""

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from popsigner_gateway.web.gateway import Gateway
from popsigner_gateway.web.pages.oauth import DEVICE_CODE

_KEPT = "public, max-age=300"


class WellKnown:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> list[Route]:
        return [
            Route("/.well-known/jwks.json", self.keys, methods=["GET"]),
            Route("/.well-known/oauth-authorization-server", self.metadata, methods=["GET"]),
            Route("/internal/ready", self.ready, methods=["GET"]),
        ]

    async def keys(self, request: Request) -> Response:
        """What access tokens are verified with (RFC 7517)."""
        jwks = await self._gateway.server.verification_keys()
        return Response(jwks, media_type="application/jwk-set+json", headers={"cache-control": _KEPT})

    async def metadata(self, request: Request) -> Response:
        """RFC 8414. There is no authorization endpoint for programs, so there are no response types."""
        here = self._gateway.public_url
        content = {
            "issuer": here,
            "device_authorization_endpoint": f"{here}/oauth/device_authorization",
            "token_endpoint": f"{here}/oauth/token",
            "revocation_endpoint": f"{here}/oauth/revoke",
            "jwks_uri": f"{here}/.well-known/jwks.json",
            "grant_types_supported": [DEVICE_CODE, "refresh_token"],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
        }
        return JSONResponse(content, headers={"cache-control": _KEPT})

    async def ready(self, request: Request) -> Response:
        """200 if the server answers, and takes this gateway's credential. Envoy does not route here."""
        await self._gateway.server.verification_keys(timeout=2.0)
        return PlainTextResponse("ready\n")
