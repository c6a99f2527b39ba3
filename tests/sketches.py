"""Pictures laid out but not painted: painting takes longer than all the rest of a report.

A module that imports both fixtures has its pictures sketched, but for the tests that ask for
``painted``.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pytest

from ravine.plot import Panel
from ravine.plot.render import static

#: One pixel, lossless.
_WEBP = base64.b64decode("UklGRh4AAABXRUJQVlA4TBEAAAAvAAAAAAfQ//73v/+BiOh/AAA=")


def _encoded(panels: Sequence[Panel], kind: str, title: str, caption: str) -> bytes:
    static.drawn(panels)
    return f"a {kind} that is not painted: {title}".encode()


def _picture(panels: Sequence[Panel]) -> bytes:
    static.drawn(panels)
    return _WEBP


@pytest.fixture
def painted() -> None:
    """Asked for by tests whose pictures are painted."""


@pytest.fixture(autouse=True)
def sketched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other test's pictures are composed, with all that is in them, and left at that."""
    if "painted" not in request.fixturenames:
        monkeypatch.setattr(static, "encoded", _encoded)
        monkeypatch.setattr(static, "picture", _picture)
