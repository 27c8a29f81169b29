"""What a list of class names must be for a softmax to choose among them."""

from collections.abc import Sequence

from pipeline.machine.errors import PipelineError


def check_class_names(names: Sequence[str]) -> None:
    """Refuse class names among which a softmax cannot choose.

    Raises:
        PipelineError: if there are fewer than two, one is empty, one has a semicolon, or two differ in case or spaces
            alone.
    """
    if len(names) < 2:
        raise PipelineError(
            f"Found {len(names)} class names, expected at least 2: the teacher's softmax compares classes. "
            "Add the other things that the photos show."
        )
    found: dict[str, str] = {}
    for name in names:
        key = " ".join(name.split()).lower()
        if not key:
            raise PipelineError(f"Class name {len(found) + 1} of {len(names)} is empty. Remove or fill it.")
        if ";" in key:
            raise PipelineError(f"Class name {name!r} has a semicolon, which parts labels in CSV files. Rename it.")
        if key in found:
            raise PipelineError(
                f"Class names {found[key]!r} and {name!r} are the same to the teacher. Remove or rename one."
            )
        found[key] = name
