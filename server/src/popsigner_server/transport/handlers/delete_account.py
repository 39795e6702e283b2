"""AuthService.DeleteAccount."""

from popsigner_server.gen.popsigner.v1 import auth_pb2
from popsigner_server.tenancy.account import Accounts
from popsigner_server.transport.interceptors.base import Call, Handler


def delete_account(accounts: Accounts) -> Handler:
    async def handle(call: Call, request: auth_pb2.DeleteAccountRequest) -> auth_pb2.DeleteAccountResponse:
        await accounts.delete(call.person, email=request.email.strip())
        return auth_pb2.DeleteAccountResponse()

    return handle
