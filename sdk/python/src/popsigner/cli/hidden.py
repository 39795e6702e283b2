"""Secrets that are typed or piped in: never arguments, never shown, and in buffers that are overwritten."""

import os
import sys
from typing import Any

import typer

from .failures import ExitCode, fail

_LONGEST = 64 * 1024


def typed_hidden(question: str, *, as_json: bool, instead: str = "") -> bytearray:
    """One line from the terminal, which does not show it; the caller overwrites it. `instead` is the option for where
    there is none. Raises typer.Exit."""
    if not sys.stdin.isatty():
        fail(f"this needs {instead}, as there is no terminal to ask at", code=ExitCode.USAGE, as_json=as_json)
    import termios

    descriptor = sys.stdin.fileno()
    shown = termios.tcgetattr(descriptor)
    hidden = [*shown[:3], shown[3] & ~termios.ECHO, *shown[4:]]
    # Not getpass, which makes a text of it, that nothing can overwrite.
    line = bytearray(_LONGEST)
    try:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, hidden)
        typer.echo(f"{question}: ", err=True, nl=False)
        length = os.readv(descriptor, [line])
        while length and line[length - 1] in b"\r\n":
            length -= 1
        return _taken(line, length)
    finally:
        line[:] = bytes(len(line))
        # What was pasted beyond the line's end is dropped, instead of going to the shell.
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, shown)
        typer.echo(err=True)


def piped(*, as_json: bool) -> bytearray:
    """Everything on stdin, at most 64 KiB; the caller overwrites it. Raises typer.Exit."""
    # Past Python's own buffer, in which a copy would stay.
    stream: Any = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    content = bytearray(_LONGEST)
    length = 0
    with memoryview(content) as view:
        while length < len(content) and (count := stream.readinto(view[length:])):
            length += count
    try:
        if length == len(content):
            fail("there is more on stdin than any key file has", code=ExitCode.USAGE, as_json=as_json)
        return _taken(content, length)
    finally:
        content[:] = bytes(len(content))


def first_line(content: bytearray) -> tuple[bytearray, bytearray]:
    """The first line without its end, and the rest; `content` is overwritten."""
    end = content.find(b"\n")
    end = len(content) if end < 0 else end
    with memoryview(content) as view:
        line, rest = bytearray(view[:end]), bytearray(view[end + 1 :])
    content[:] = bytes(len(content))
    if line.endswith(b"\r"):
        line[-1:] = b""
    return line, rest


def _taken(buffer: bytearray, length: int) -> bytearray:
    """A buffer of its own: one that shrinks may move, and leave what it held behind."""
    with memoryview(buffer) as view:
        return bytearray(view[:length])
