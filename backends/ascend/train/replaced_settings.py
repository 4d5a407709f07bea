"""Settings replaced in a configuration, remembered so that they can be said."""

from __future__ import annotations

from typing import Any


class Changes:
    """Sets keys of the configuration and remembers which of the recipe's own values were replaced."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.changed: list[str] = []
        self.said: list[str] = []

    def set(self, path: str, value: Any) -> None:
        """Set one key, quietly."""
        *sections, key = path.split(".")
        place = self.raw
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}
            place = place[section]
        place[key] = value

    def replace(self, path: str, value: Any) -> None:
        """Set one key; a line tells if the recipe has another value."""
        place: Any = self.raw
        for key in path.split("."):
            place = place.get(key) if isinstance(place, dict) else None
        if place is not None and place != value:
            self.changed.append(f"{path.removeprefix('model.model_config.')} {place} → {value}")
        self.set(path, value)

    def drop(self, path: str) -> None:
        """Remove one key; a line tells if the recipe has it."""
        *sections, key = path.split(".")
        place: Any = self.raw
        for section in sections:
            place = (place or {}).get(section)
        if isinstance(place, dict) and key in place:
            del place[key]
            self.changed.append(f"{path} left out")

    def say(self, line: str) -> None:
        """Remember a line of its own."""
        self.said.append(line)

    def lines(self, device: str) -> list[str]:
        """What is not as the recipe has it."""
        return [*self.said, *([f"for the {device.upper()}: {', '.join(self.changed)}"] if self.changed else [])]
