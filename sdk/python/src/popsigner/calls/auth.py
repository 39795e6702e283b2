"""AuthService: who is asking, a person's sessions, and what the POP knows of the person."""

from ..gen.popsigner.v1 import (
    DeleteAccountRequest,
    DeleteAccountResponse,
    ExportAccountRequest,
    ExportAccountResponse,
    ListSessionsRequest,
    ListSessionsResponse,
    RevokeAllSessionsRequest,
    RevokeAllSessionsResponse,
    RevokeSessionRequest,
    RevokeSessionResponse,
    Session,
    WhoamiRequest,
    WhoamiResponse,
)
from . import Call, Repeat, Rpc, call

_SERVICE = "/popsigner.v1.AuthService/"
WHOAMI = Rpc(_SERVICE + "Whoami", WhoamiRequest, WhoamiResponse, Repeat.ALWAYS)
LIST_SESSIONS = Rpc(_SERVICE + "ListSessions", ListSessionsRequest, ListSessionsResponse, Repeat.ALWAYS)
REVOKE_SESSION = Rpc(_SERVICE + "RevokeSession", RevokeSessionRequest, RevokeSessionResponse, Repeat.NEVER)
REVOKE_ALL = Rpc(_SERVICE + "RevokeAllSessions", RevokeAllSessionsRequest, RevokeAllSessionsResponse, Repeat.NEVER)
EXPORT = Rpc(_SERVICE + "ExportAccount", ExportAccountRequest, ExportAccountResponse, Repeat.ALWAYS)
DELETE = Rpc(_SERVICE + "DeleteAccount", DeleteAccountRequest, DeleteAccountResponse, Repeat.NEVER)


def whoami(*, timeout: float | None = None) -> Call[WhoamiResponse]:
    """Who is asking, and what they may: for API keys and for people."""
    return call(WHOAMI, WhoamiRequest(), lambda answer: answer, timeout)


def sessions(*, timeout: float | None = None) -> Call[tuple[Session, ...]]:
    """The person's live sessions, newest first. Raises PersonRequired."""
    return call(LIST_SESSIONS, ListSessionsRequest(), lambda answer: tuple(answer.sessions), timeout)


def revoke_session(session: str | Session, *, timeout: float | None = None) -> Call[None]:
    """End one session (`sess_…`) of the person, at once. Raises SessionNotFound, PersonRequired."""
    request = RevokeSessionRequest(session_id=session.id if isinstance(session, Session) else session)
    return call(REVOKE_SESSION, request, lambda _answer: None, timeout)


def revoke_all_sessions(*, timeout: float | None = None) -> Call[int]:
    """Log out everywhere, here too; the answer is how many sessions ended. Raises PersonRequired."""
    return call(REVOKE_ALL, RevokeAllSessionsRequest(), lambda answer: answer.ended, timeout)


def export_account(*, timeout: float | None = 120.0) -> Call[bytes]:
    """Everything that the POP keeps about the person: the bytes of a ZIP archive of JSON files, piece by piece.

    `timeout` is for the whole archive. Raises PersonRequired.
    """
    return call(EXPORT, ExportAccountRequest(), lambda answer: answer.chunk, timeout)


def delete_account(*, email: str, timeout: float | None = None) -> Call[None]:
    """Erase the person's data and memberships; it cannot be undone. `email` confirms it: the person's address in full.

    Raises InvalidField, LastOwner, PersonRequired.
    """
    return call(DELETE, DeleteAccountRequest(email=email), lambda _answer: None, timeout)
