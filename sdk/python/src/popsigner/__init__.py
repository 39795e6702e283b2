"""POPSigner for Python.

    from popsigner import Client

    with Client() as client:
        key = client.keys.create(name="sequencer")
        signature = client.sign(key, b"...")

Everything public is here; modules are loaded when something of them is used, so that the command line starts quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .calls.api_keys import NewApiKey as NewApiKey
    from .calls.keys import RotatedKey as RotatedKey
    from .calls.people import Joined as Joined
    from .calls.people import NewInvitation as NewInvitation
    from .calls.recovery import SealedCopies as SealedCopies
    from .client import AsyncClient as AsyncClient
    from .client import Client as Client
    from .credential import Credential as Credential
    from .errors import *  # noqa: F403 - the errors are public one and all
    from .gen.popsigner.v1 import ApiKey as ApiKey
    from .gen.popsigner.v1 import AuditLog as AuditLog
    from .gen.popsigner.v1 import ErrorReason as ErrorReason
    from .gen.popsigner.v1 import ExportedVersion as ExportedVersion
    from .gen.popsigner.v1 import ExportKeyResponse as ExportKeyResponse
    from .gen.popsigner.v1 import GetUsageResponse as GetUsageResponse
    from .gen.popsigner.v1 import GetWrappingKeyResponse as GetWrappingKeyResponse
    from .gen.popsigner.v1 import HashAlgorithm as HashAlgorithm
    from .gen.popsigner.v1 import IdentityProvider as IdentityProvider
    from .gen.popsigner.v1 import IdentityProviderKind as IdentityProviderKind
    from .gen.popsigner.v1 import Invitation as Invitation
    from .gen.popsigner.v1 import Key as Key
    from .gen.popsigner.v1 import KeyState as KeyState
    from .gen.popsigner.v1 import KeyVersion as KeyVersion
    from .gen.popsigner.v1 import Member as Member
    from .gen.popsigner.v1 import Membership as Membership
    from .gen.popsigner.v1 import Namespace as Namespace
    from .gen.popsigner.v1 import Organization as Organization
    from .gen.popsigner.v1 import Recovery as Recovery
    from .gen.popsigner.v1 import RecoveryChange as RecoveryChange
    from .gen.popsigner.v1 import RecoveryCopy as RecoveryCopy
    from .gen.popsigner.v1 import RecoveryVersion as RecoveryVersion
    from .gen.popsigner.v1 import Role as Role
    from .gen.popsigner.v1 import Session as Session
    from .gen.popsigner.v1 import SignatureFormat as SignatureFormat
    from .gen.popsigner.v1 import Usage as Usage
    from .gen.popsigner.v1 import WhoamiResponse as WhoamiResponse
    from .retry import Retry as Retry
    from .signing import Signature as Signature
    from .signing import SignItem as SignItem
    from .signing import SignResult as SignResult
    from .wrapping import KeyPair as KeyPair

_PLACES = {
    "AsyncClient": "client",
    "Client": "client",
    "Credential": "credential",
    "Joined": "calls.people",
    "KeyPair": "wrapping",
    "NewApiKey": "calls.api_keys",
    "NewInvitation": "calls.people",
    "Retry": "retry",
    "RotatedKey": "calls.keys",
    "SealedCopies": "calls.recovery",
    "Signature": "signing",
    "SignItem": "signing",
    "SignResult": "signing",
    "Violation": "errors",
    **dict.fromkeys(
        (
            "ApiKey",
            "AuditLog",
            "ErrorReason",
            "ExportKeyResponse",
            "ExportedVersion",
            "GetUsageResponse",
            "GetWrappingKeyResponse",
            "HashAlgorithm",
            "IdentityProvider",
            "IdentityProviderKind",
            "Invitation",
            "Key",
            "KeyState",
            "KeyVersion",
            "Member",
            "Membership",
            "Namespace",
            "Organization",
            "Recovery",
            "RecoveryChange",
            "RecoveryCopy",
            "RecoveryVersion",
            "Role",
            "Session",
            "SignatureFormat",
            "Usage",
            "WhoamiResponse",
        ),
        "gen.popsigner.v1",
    ),
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("importlib.metadata").version("popsigner")
    if place := _PLACES.get(name):
        return getattr(import_module(f".{place}", __name__), name)
    if not name.startswith("_"):
        errors = import_module(".errors", __name__)
        found = getattr(errors, name, None)
        if isinstance(found, type) and issubclass(found, errors.PopsignerError):
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
