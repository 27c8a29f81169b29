"""What to say about a name that does not exist."""

from collections.abc import Iterable
from difflib import get_close_matches


def near_names(name: str, known: Iterable[str]) -> str:
    """The up to five known names nearest to `name` in any case, joined by commas; all if none is near."""
    by_lower = {known_name.lower(): known_name for known_name in known}
    matches = get_close_matches(name.lower(), by_lower, n=5, cutoff=0.5)
    return ", ".join(by_lower[match] for match in matches or by_lower)
