"""What a page shows to its HTML: one file that fetches nothing."""

import json
from importlib.resources import files
from typing import Any

import jinja2


def render(content: dict[str, Any]) -> str:
    """The page; styles, script and data are inside it."""
    here = files("pipeline.tools.report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(here.joinpath("template.html").read_text(encoding="utf-8"))
    return template.render(
        content=content,
        style=here.joinpath("page.css").read_text(encoding="utf-8"),
        script=here.joinpath("page.js").read_text(encoding="utf-8"),
        data=script_json(content),
    )


def script_json(content: Any) -> str:
    """JSON that can stand inside a script element, whatever the class names and paths are."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
