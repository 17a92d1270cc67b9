"""The addresses at which people reach the page: this machine's own, that on its network, and a QR code of it."""

from __future__ import annotations

import io
import socket
from typing import TextIO

LOCAL = ["127.0.0.1", "localhost", "[::1]", "::1"]
_EVERYWHERE = ("0.0.0.0", "::", "")
_ELSEWHERE = ("192.0.2.1", 9)  # of no machine (RFC 5737); nothing is sent to it


def network_address(host: str, port: int) -> str | None:
    """Return the address of the page for other machines; None if it has none.

    Args:
        host: what the page listens on.
    """
    if host in LOCAL:
        return None
    found = _own_address() if host in _EVERYWHERE else host
    if found is None:
        return None
    return f"http://[{found}]:{port}" if ":" in found else f"http://{found}:{port}"


def _own_address() -> str | None:
    """Return the address from which this machine would speak to others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        try:
            line.connect(_ELSEWHERE)  # of a datagram's socket: it chooses the way and sends nothing
            found = str(line.getsockname()[0])
        except OSError:
            return None
    return None if found.startswith("127.") or found == "0.0.0.0" else found


def qr_code(address: str, stream: TextIO) -> str:
    """Return a QR code of `address` for `stream`; "" if its encoding has no block characters."""
    import segno

    drawn = io.StringIO()
    segno.make(address, micro=False).terminal(drawn, border=2, compact=True)
    lines = drawn.getvalue().splitlines()
    try:
        "".join(lines).encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return ""
    if stream.isatty():  # white on black, whatever the colours of the terminal are
        lines = [f"\x1b[97;40m{line}\x1b[0m" for line in lines]
    return "\n".join(lines)
