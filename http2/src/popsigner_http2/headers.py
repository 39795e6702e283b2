"""Header blocks of gRPC requests (RFC 7541; RFC 9113, section 8), read with as little work as is safe."""

import string
from typing import Final, NamedTuple

from hpack import Decoder, HPACKError

from popsigner_http2.frames import Code, ConnectionFault, StreamFault

BLOCK_BYTES: Final = 16_384
# Of a connection: fields, and whole requests, that came before. They cost it up to 150 kB.
_FIELDS: Final = 64
_REQUESTS: Final = 16
_SMALL: Final = 1_024
# Fields of the static table; behind them the dynamic one begins.
_STATIC: Final = 61
# Of a block with more fields nothing is remembered: a byte can stand for a field of a hundred.
_MANY: Final = 32
_REQUIRED: Final = frozenset({b":method", b":scheme", b":path"})
_PSEUDO: Final = _REQUIRED | {b":authority"}
# Of HTTP/1.1's connections; in HTTP/2 they make a request malformed.
_FORBIDDEN: Final = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
# What names may contain, and what values may not (RFC 9113, section 8.2.1). A database takes no NUL, for one, and its
# statements carry what many callers said.
_OF_NAMES: Final = (string.ascii_lowercase + string.digits + string.punctuation).replace(":", "").encode()
_NOT_OF_VALUES: Final = b"\0\r\n"

Field = tuple[bytes, bytes]
"""A header field: lower-case name, value."""


class Request(NamedTuple):
    """What a gRPC server needs to know of a request's headers. content_type, encoding, timeout: b"" where there is
    none. metadata: all fields but HTTP/2's own, as text (ISO 8859-1)."""

    method: bytes
    path: bytes
    content_type: bytes
    encoding: bytes
    timeout: bytes
    metadata: tuple[tuple[str, str], ...]


class HeaderBlocks:
    """Decodes the blocks of one connection, in their order.

    Our SETTINGS forbid the peer a dynamic table. A deadline that is another in each request would go into it each time
    and move all else, so that no two blocks were alike; without it a field has the same bytes whenever it comes, and
    those that came before are known. Blocks that read or write a table are the library's, and whatever is not in the
    plainest form. A peer that does not say that it gave its table up (RFC 9113, section 4.3.1, wants it to) is taken as
    it is: .NET's and Dart's clients use none whatever SETTINGS say, and gRPC's for OkHttp goes on with the one it began
    with.
    """

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=4 * BLOCK_BYTES)
        self._known: dict[bytes, Field] = {}
        self._requests: dict[tuple[bool, bytes], Request] = {}

    def request(self, block: bytes) -> Request:
        """The request whose headers these are. Raises StreamFault for a malformed one, ConnectionFault as `fields`."""
        # The same bytes mean the same where there is no table, and where they leave it alone.
        tabled = self._decoder.header_table.maxsize > 0
        found = self._requests.get((tabled, block))
        if found is None:
            pieces = _pieces(block, tabled=tabled)
            found = request(self._fields(block, pieces))
            if pieces is not None and len(block) < _SMALL and len(found.metadata) <= _MANY:
                if len(self._requests) >= _REQUESTS:
                    self._requests.clear()
                self._requests[tabled, block] = found
        return found

    def fields(self, block: bytes) -> list[Field]:
        """The block's fields. Raises ConnectionFault: without this block the next ones have no meaning."""
        return self._fields(block, _pieces(block, tabled=self._decoder.header_table.maxsize > 0))

    def _fields(self, block: bytes, pieces: list[bytes] | None) -> list[Field]:
        try:
            # Field by field nothing bounds what they are together, which the library does.
            if pieces is None or len(pieces) > _MANY:
                return self._decoded(block)
            return [self._known.get(piece) or self._learned(piece) for piece in pieces]
        # The library raises a plain IndexError for some blocks that end early.
        except (HPACKError, IndexError):
            raise ConnectionFault(Code.COMPRESSION_ERROR, "a header block that does not decode") from None

    def _learned(self, piece: bytes) -> Field:
        (field,) = self._decoded(piece)
        if len(self._known) >= _FIELDS:
            self._known.clear()
        self._known[piece] = field
        return field

    def _decoded(self, block: bytes) -> list[Field]:
        return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]


def request(fields: list[Field]) -> Request:
    """A request's headers, checked. Raises StreamFault for a malformed request (RFC 9113, section 8.1.1)."""
    found = dict(fields)
    pseudo = [name for name, _ in fields if name[:1] == b":"]
    if not (_REQUIRED.issubset(pseudo) and _PSEUDO.issuperset(pseudo) and len(set(pseudo)) == len(pseudo)):
        raise _malformed("pseudo-header fields that do not make a request")
    others = fields[len(pseudo) :]
    # Those are without a colon: no pseudo-header field comes after others.
    names = b"".join([name for name, _ in others])
    if b"" in found or not _FORBIDDEN.isdisjoint(found) or names.translate(None, _OF_NAMES):
        raise _malformed("a field name that HTTP/2 does not have there")
    values = b"".join([value for _, value in fields])
    if len(values.translate(None, _NOT_OF_VALUES)) < len(values):
        raise _malformed("a field value that HTTP/2 does not have")
    if not found[b":path"] or found.get(b"te", b"trailers") != b"trailers":
        raise _malformed("a path or te that HTTP/2 does not have")
    return Request(
        method=found[b":method"],
        path=found[b":path"],
        content_type=found.get(b"content-type", b""),
        encoding=found.get(b"grpc-encoding", b""),
        timeout=found.get(b"grpc-timeout", b""),
        metadata=tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in others]),
    )


def _malformed(what: str) -> StreamFault:
    return StreamFault(Code.PROTOCOL_ERROR, what)


def _pieces(block: bytes, *, tabled: bool) -> list[bytes] | None:
    """The block cut into its fields, each as it is on the wire; None where one is not in the plainest form, or where
    there is a table and it is read or written.

    Plain: an index of one byte or, for a literal's name, two; strings below 127 bytes; no change of the table's size.
    """
    pieces = []
    position, end = 0, len(block)
    try:
        while position < end:
            start, first = position, block[position]
            position += 1
            if first < 0x80:
                mask = 0x3F if first & 0x40 else 0x0F
                if first & 0x60 == 0x20:
                    return None
                index = first & mask
                if index == mask:
                    index += block[position]
                    if block[position] > 0x7F:
                        return None
                    position += 1
                if tabled and (first & 0x40 or index > _STATIC):
                    return None
                for _ in range(1 if index else 2):
                    length = block[position] & 0x7F
                    if length == 0x7F:
                        return None
                    position += 1 + length
            elif first == 0xFF or (tabled and first & 0x7F > _STATIC):
                return None
            pieces.append(block[start:position])
    except IndexError:
        return None
    return pieces if position == end else None
