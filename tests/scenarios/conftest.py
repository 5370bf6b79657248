"""What the tests of this directory share."""

from tests.properties.postgres import server

__all__ = ["server"]
