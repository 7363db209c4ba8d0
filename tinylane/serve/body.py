"""A request's JSON object: its fields, and an error that names one."""

from __future__ import annotations

from typing import NoReturn

from tinylane.core.errors import TinylaneError
from tinylane.files.io import Fields


class BadRequest(TinylaneError):
    """A request that cannot be answered. param: its field; status: HTTP's; kind: OpenAI's."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, kind: str | None = None
    ) -> None:
        super().__init__(message)
        self.param, self.status, self.kind = param, status, kind


class Body(Fields):
    """A request's fields; a message names the field, as `param` does."""

    def fail(self, key: str, expected: str) -> NoReturn:
        try:
            super().fail(key, expected)
        except TinylaneError as error:
            raise BadRequest(str(error), self.name(key)) from None

    def object(self, key: str) -> Body:
        """A field that is an object; an empty one if it is absent."""
        value = self.raw.get(key)
        if value is not None and not isinstance(value, dict):
            self.fail(key, "an object")
        return Body(value or {}, parent=self.name(key))
