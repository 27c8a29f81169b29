"""The content of a page to its HTML: one file without external resources."""

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
"""The parts of each page's script, in order of dependency."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data: blob:; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",  # the address of `ccd review` contains its token
    "X-Content-Type-Options": "nosniff",
}
"""Headers of our servers: a page loads nothing from elsewhere and sends requests to its own server only."""

PACKAGES = ("ccd-pipeline", "torch", "timm", "numpy")


def render(page: Literal["report", "compare", "review", "serve"], content: dict[str, Any]) -> str:
    """The HTML of a page, including styles, script and data."""
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
    """Date and package versions, for the page only: fingerprints must not depend on them."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue  # run from the source without being installed
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"Made {made} with {', '.join([*versions, f'Python {platform.python_version()}'])}."


def script_json(content: Any) -> str:
    """JSON that is safe inside a script element, for any class names and paths."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
