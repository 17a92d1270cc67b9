"""Where other machines find the page."""

from __future__ import annotations

import io
import re
import socket

from app import invite
from skin.serving import address

import cv2
import numpy as np
import pytest


def test_a_page_for_this_machine_alone_invites_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    for host in address.LOCAL:
        invite(host, 7860)
    assert capsys.readouterr().out == ""


def test_a_page_for_all_says_its_address_on_the_network_and_draws_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "_own_address", lambda: "192.168.1.20")
    invite("0.0.0.0", 7860)
    first, second, *code = capsys.readouterr().out.splitlines()
    assert "asks for no password" in first
    assert second == "on this network: http://192.168.1.20:7860"
    assert read(code) == "http://192.168.1.20:7860"


def read(lines: list[str]) -> str:
    """What a telephone reads in a drawn code: a character is two of its squares, one above the other."""
    halves = [[[c in light for c in line] for line in lines] for light in ("█▀", "█▄")]
    pixels = np.stack(halves, axis=1).reshape(2 * len(lines), -1).astype(np.uint8) * 255
    pixels = np.pad(pixels, 4, constant_values=255).repeat(8, 0).repeat(8, 1)
    return cv2.QRCodeDetector().detectAndDecode(pixels)[0]


def test_a_host_of_its_own_is_its_address() -> None:
    assert address.network_address("10.0.0.7", 80) == "http://10.0.0.7:80"
    assert address.network_address("fd00::7", 80) == "http://[fd00::7]:80"


def test_a_machine_without_a_network_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: socket.socket, where: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    assert address.network_address("0.0.0.0", 7860) is None


def test_the_code_is_white_on_black_on_any_terminal_and_left_out_where_it_cannot_be_written() -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    lines = address.qr_code("http://192.168.1.20:7860", Terminal()).splitlines()
    assert all(re.fullmatch(r"\x1b\[97;40m[ █▀▄]+\x1b\[0m", line) for line in lines)
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert address.qr_code("http://192.168.1.20:7860", ascii_only) == ""
