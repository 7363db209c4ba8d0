"""What the routes of a server share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tinylane.serve.asked import Defaults
from tinylane.serve.engine import Engine, ServerLimits
from tinylane.serve.prefixes import Prefixes

if TYPE_CHECKING:
    from tinylane.core.model import Model


@dataclass
class Service:
    """What the routes share. name: of the model. key: None where none is needed. origins: web pages
    that may ask. local: whether it listens on the loopback alone."""

    model: Model
    name: str
    engine: Engine
    prefixes: Prefixes
    defaults: Defaults
    key: str | None = None
    origins: tuple[str, ...] = ()
    local: bool = True
    say: Callable[[str], Any] = lambda line: None
    encoding: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def limits(self) -> ServerLimits:
        """The engine's."""
        return self.engine.limits
