"""The wire format of protocol buffers, read and written without a library.

A message is a list of fields; a field is a tag (number and wire type) followed by a varint, by 4
or 8 bytes, or by a length and that many bytes. That is all an ONNX file is made of.
"""

from __future__ import annotations

from collections.abc import Iterator

from vdd_ros.core.errors import VddError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class MalformedError(VddError):
    """The bytes are not an ONNX model."""


def text_field(message: memoryview, wanted: int) -> str:
    """Return text field ``wanted`` of a message; "" where absent, the last where repeated."""
    found = ""
    for number, _, value, _ in fields(message):
        if number == wanted:
            found = as_text(value)
    return found


def fields(
    message: memoryview,
) -> Iterator[tuple[int, int, int | memoryview, memoryview]]:
    """Yield (number, wire type, value, raw field with its tag) of every field.

    The value is an int for a varint, else a view of the bytes.

    Raises:
        MalformedError: a field runs past the end, or has a wire type no ONNX file uses.
    """
    at, end = 0, len(message)
    while at < end:
        start = at
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview
        if wire == VARINT:
            value, at = _varint(message, at)
        else:
            if wire == BYTES:
                length, at = _varint(message, at)
            elif wire in (FIXED32, FIXED64):
                length = 4 if wire == FIXED32 else 8
            else:
                raise MalformedError(f"not an ONNX model, or damaged (wire type {wire})")
            if number == 0 or length > end - at:
                raise MalformedError("not an ONNX model, or cut off: a field runs past the end")
            value = message[at : at + length]
            at += length
        yield number, wire, value, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise MalformedError("not an ONNX model, or cut off inside a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MalformedError("not an ONNX model, or damaged (a number of more than ten bytes)")


def varint_bytes(value: int) -> bytes:
    """Encode a non-negative number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag_bytes(number: int, wire: int) -> bytes:
    """Encode a field's tag."""
    return varint_bytes(number << 3 | wire)


def as_message(value: int | memoryview) -> memoryview:
    """Return the bytes of a field that holds bytes, text or a message."""
    if isinstance(value, int):
        raise MalformedError("not an ONNX model, or damaged (a number where a message belongs)")
    return value


def as_integer(value: int | memoryview) -> int:
    """Return the value of a field that holds a number."""
    if not isinstance(value, int):
        raise MalformedError("not an ONNX model, or damaged (a message where a number belongs)")
    return value


def as_text(value: int | memoryview) -> str:
    """Return the text of a field."""
    try:
        return bytes(as_message(value)).decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError("not an ONNX model, or damaged (text that is not UTF-8)") from None
