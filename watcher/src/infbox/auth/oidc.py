"""Asks an OpenID Connect provider who somebody is: the authorization code flow, with PKCE.

Authlib builds the requests and judges the claims, joserfc the signatures. What of all that they
offer is used, and what is refused, is decided here.
"""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import httpx2
from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from infbox.inputs import is_safe_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from joserfc.jwk import KeySetSerialization

    from infbox.config import SignIn

_DISCOVERY = "/.well-known/openid-configuration"
_NEEDED = ("authorization_endpoint", "token_endpoint", "jwks_uri")
# No `none`, and no HMAC: the provider alone can have signed.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
               "EdDSA"]  # fmt: skip
_TIMEOUT_SECONDS = 10.0
_METADATA_SECONDS = 600.0
_LEEWAY_SECONDS = 30
_SECRET_LENGTH = 48


class AwayError(Exception):
    """The provider does not answer, or not as one does. The message is for the log."""


class RefusedError(Exception):
    """What came from the provider must not be believed. The message is for the log."""


class Asked(NamedTuple):
    """A browser that was sent to the provider.

    Attributes:
        url: where it was sent.
        state: that it must bring back.
        nonce: that the token must hold.
        verifier: whose digest the provider was told.
    """

    url: str
    state: str
    nonce: str
    verifier: str


class Provider:
    """One provider, as one of its clients sees it.

    Args:
        settings: of the sign-in.
        secret: the client's.
    """

    def __init__(self, settings: SignIn, secret: str) -> None:
        self._settings = settings
        self._secret = secret
        self._trust = ssl.create_default_context()
        self._metadata: dict[str, Any] = {}
        self._asked_at = float("-inf")

    async def ask(self, *, anew: bool = False) -> Asked:
        """Return where to send a browser.

        Args:
            anew: have the provider ask for a login even of somebody whom it knows.

        Raises:
            AwayError: the provider cannot be asked.
        """
        metadata = await self._discover()
        nonce, verifier = generate_token(_SECRET_LENGTH), generate_token(_SECRET_LENGTH)
        extra = {"prompt": "login"} if anew else {}
        async with self._client() as client:
            url, state = client.create_authorization_url(
                metadata["authorization_endpoint"],
                state=generate_token(_SECRET_LENGTH),
                nonce=nonce,
                code_verifier=verifier,
                **extra,
            )
        return Asked(url, state, nonce, verifier)

    async def claims(self, code: str, nonce: str, verifier: str) -> Mapping[str, Any]:
        """Return what the provider says of who came back.

        Args:
            code: that the browser brought.
            nonce: that the token must hold.
            verifier: whose digest the provider was told.

        Raises:
            AwayError: the provider cannot be asked.
            RefusedError: it refuses the code, or what it says must not be believed.
        """
        metadata = await self._discover()
        async with self._client() as client:
            token = await self._token(client, metadata, code, verifier)
            keys = await self._get(client, metadata["jwks_uri"])
            claims = self._believed(token, keys, nonce)
            if self._settings.groups_claim in claims or "userinfo_endpoint" not in metadata:
                return claims
            # Some providers tell groups there only.
            more = await self._get(client, metadata["userinfo_endpoint"], token["access_token"])
        if more.get("sub") != claims["sub"]:
            raise RefusedError("userinfo is somebody else's")
        return {**more, **claims}

    async def end_session_endpoint(self) -> str | None:
        """Return where a browser can sign out at the provider; None where that is not known."""
        try:
            return (await self._discover()).get("end_session_endpoint")
        except AwayError:
            return None

    def check_issuer(self, issuer: str | None) -> None:
        """Check who a browser says that it comes from, where it says so (RFC 9207).

        Raises:
            RefusedError: it is another provider.
        """
        if issuer is not None and issuer != self._settings.issuer:
            raise RefusedError("the answer is another issuer's")

    def _client(self) -> AsyncOAuth2Client:
        return AsyncOAuth2Client(
            self._settings.client_id,
            self._secret,
            scope=" ".join(self._settings.scopes),
            redirect_uri=f"{self._settings.origin}/sign-in/callback",
            code_challenge_method="S256",
            verify=self._trust,
            timeout=_TIMEOUT_SECONDS,
        )

    async def _discover(self) -> dict[str, Any]:
        """Return what the provider tells of itself, no older than ten minutes."""
        if time.monotonic() - self._asked_at < _METADATA_SECONDS:
            return self._metadata
        async with self._client() as client:
            found = await self._get(client, self._settings.issuer.rstrip("/") + _DISCOVERY)
        if found.get("issuer") != self._settings.issuer:
            issuer = found.get("issuer")
            raise AwayError(f"it calls itself {issuer}, and infbox_oidc_issuer says otherwise")
        for name in _NEEDED:
            if not is_safe_url(found.get(name)):
                raise AwayError(f"its {name} is no https address")
        self._metadata, self._asked_at = found, time.monotonic()
        return found

    async def _token(
        self, client: AsyncOAuth2Client, metadata: Mapping[str, Any], code: str, verifier: str
    ) -> dict[str, Any]:
        try:
            token = await client.fetch_token(
                metadata["token_endpoint"], code=code, code_verifier=verifier
            )
        except OAuthError as error:
            raise RefusedError(f"the code was refused: {error.error}") from error
        except (httpx2.HTTPError, ValueError) as error:
            raise AwayError(f"{type(error).__name__} from its token_endpoint") from error
        if not isinstance(token.get("id_token"), str) or "access_token" not in token:
            raise RefusedError("it sent no token of who it is")
        return dict(token)

    def _believed(
        self, token: Mapping[str, Any], keys: dict[str, Any], nonce: str
    ) -> Mapping[str, Any]:
        settings = self._settings
        try:
            known = KeySet.import_key_set(cast("KeySetSerialization", keys))
            signed = jwt.decode(token["id_token"], known, algorithms=_ALGORITHMS)
            claims = CodeIDToken(
                signed.claims,
                signed.header,
                {"iss": {"value": settings.issuer}, "aud": {"value": settings.client_id}},
                {"nonce": nonce, "client_id": settings.client_id,
                 "access_token": token["access_token"]},
            )  # fmt: skip
            claims.validate(leeway=_LEEWAY_SECONDS)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise RefusedError(f"its token is not valid: {error}") from error
        return dict(claims)

    async def _get(
        self, client: AsyncOAuth2Client, url: str, token: str | None = None
    ) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            answer = await client.request("GET", url, withhold_token=True, headers=headers)
            answer.raise_for_status()
            content = answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise AwayError(f"{type(error).__name__} from {url}") from error
        if not isinstance(content, dict):
            raise AwayError(f"no JSON object from {url}")
        return content
