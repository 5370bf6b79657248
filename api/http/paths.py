"""Finds what serves a path by its segments; fixed ones go before parameters."""

from typing import Generic, TypeVar
from urllib.parse import unquote

Served = TypeVar("Served")


class Paths(Generic[Served]):
    """A tree of paths. They are read as they were sent, so a parameter may hold ``%2F``."""

    def __init__(self) -> None:
        """Begin without any."""
        self._root: _Node[Served] = _Node()
        self._whole: dict[bytes, Served] = {}
        """Paths without parameters, for which there is nothing to walk."""

    def add(self, path: str, served: Served) -> None:
        """Serve a path with ``{parameters}``; ``{rest*}`` at its end takes all that follows."""
        node = self._root
        for segment in path.split("/")[1:]:
            if segment.endswith("*}"):
                node.rest = (segment[1:-2], served)
                return
            if segment.startswith("{"):
                if node.parameter is None:
                    node.parameter = (segment[1:-1], _Node())
                node = node.parameter[1]
            else:
                node = node.fixed.setdefault(segment, _Node())
        node.served = served
        if "{" not in path:
            self._whole[path.encode("latin-1")] = served

    def find(self, raw: bytes) -> tuple[Served | None, dict[str, str]]:
        """Give what serves a path, and its parameters."""
        whole = self._whole.get(raw)
        if whole is not None:
            return whole, {}
        segments = raw.partition(b"?")[0].decode("latin-1").split("/")[1:]
        parameters: dict[str, str] = {}
        node = self._root
        rest: tuple[str, Served, int] | None = None
        for place, segment in enumerate(segments):
            if node.rest is not None:
                rest = (*node.rest, place)
            found = node.next(segment, parameters)
            if found is None:
                break
            node = found
        else:
            if node.served is not None:
                return node.served, parameters
        if rest is None:
            return None, {}
        name, served, place = rest
        parameters[name] = "/".join(segments[place:])
        return served, parameters


class _Node(Generic[Served]):
    """A place in the tree."""

    __slots__ = ("fixed", "parameter", "rest", "served")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node[Served]] = {}
        self.parameter: tuple[str, _Node[Served]] | None = None
        self.rest: tuple[str, Served] | None = None
        self.served: Served | None = None

    def next(self, segment: str, parameters: dict[str, str]) -> "_Node[Served] | None":
        found = self.fixed.get(segment)
        if found is None and self.parameter is not None and segment:
            name, found = self.parameter
            parameters[name] = unquote(segment, errors="surrogateescape")
        return found
