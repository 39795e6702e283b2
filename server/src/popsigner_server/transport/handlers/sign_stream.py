"""SignService.SignStream: messages in, answers out as they are ready, at most 64 in flight."""

import asyncio
from collections.abc import AsyncIterator

from popsigner_server.errors import SignerError
from popsigner_server.gen.popsigner.v1 import sign_pb2
from popsigner_server.signing.signer import Signer
from popsigner_server.transport import convert
from popsigner_server.transport.interceptors.base import Call, Handler
from popsigner_server.transport.interceptors.errors import name_failure
from popsigner_server.transport.sign_items import Defaults, answer_items, sign_items

IN_FLIGHT = 64
DEFAULTS = Defaults()
METHOD = "/popsigner.v1.SignService/SignStream"


def sign_stream(signer: Signer) -> Handler:
    async def handle(call: Call, messages: AsyncIterator[sign_pb2.SignStreamRequest]) -> None:
        # A place is taken before a message is read and given back when its answer is written: a client that does not
        # read its answers stops being read.
        places = asyncio.Semaphore(IN_FLIGHT)
        writing = asyncio.Lock()

        async def answer(message: sign_pb2.SignStreamRequest) -> None:
            try:
                reply = await _sign(signer, call, message)
                # One after the other: each waits until its answer has left.
                async with writing:
                    await call.context.write(reply)
            finally:
                places.release()

        refusal: SignerError | None = None
        async with asyncio.TaskGroup() as answers:
            await places.acquire()
            try:
                async for message in messages:
                    answers.create_task(answer(message))
                    await places.acquire()
            except SignerError as error:
                # A message that cannot be read ends the stream, after the answers to those before it.
                refusal = error
        if refusal is not None:
            raise refusal

    return handle


async def _sign(signer: Signer, call: Call, message: sign_pb2.SignStreamRequest) -> sign_pb2.SignStreamResponse:
    response = sign_pb2.SignStreamResponse(correlation_id=message.correlation_id)
    try:
        await call.admit()
        outcomes = await sign_items(signer, call.caller, message.requests, DEFAULTS, call.deadline)
    except Exception as error:
        # Whatever failed failed this message; the stream goes on.
        response.error.CopyFrom(convert.error_to_proto(name_failure(error, call, METHOD)))
    else:
        answer_items(message.requests, outcomes, response.signatures)
    return response
