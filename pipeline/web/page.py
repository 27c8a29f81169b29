"""What a page shows to its HTML: one file that fetches nothing."""

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any, Literal

import jinja2

SCRIPTS = {
    "report": ("base.js", "charts.js", "classes.js", "photos.js", "report.js"),
    "compare": ("base.js", "charts.js", "classes.js", "photos.js", "compare.js"),
    "review": ("base.js", "review.js"),
    "serve": ("base.js", "serve.js"),
}
"""Page to the parts of its script, in the order in which they build on one another."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data: blob:; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",  # the address of `ccd review` holds its token
    "X-Content-Type-Options": "nosniff",
}
"""Of what our own servers answer: a page uses what is inside it and asks its own server alone."""

PACKAGES = ("ccd-pipeline", "torch", "timm", "numpy")


def render(page: Literal["report", "compare", "review", "serve"], content: dict[str, Any]) -> str:
    """The page; styles, script and data are inside it."""
    here = files("pipeline.web")
    loader = jinja2.FunctionLoader(lambda name: here.joinpath(name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, loader=loader)
    return environment.get_template(f"{page}.html").render(
        content=content,
        style=here.joinpath("page.css").read_text(encoding="utf-8"),
        script="\n".join(here.joinpath(part).read_text(encoding="utf-8") for part in SCRIPTS[page]),
        data=script_json(content),
    )


def build_facts() -> str:
    """When and with what a page was made; stands on the page alone, as no fingerprint may depend on it."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue  # run from the source without being installed
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"Made {made} with {', '.join([*found, f'Python {platform.python_version()}'])}."


def script_json(content: Any) -> str:
    """JSON that can stand inside a script element, whatever the class names and paths are."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
