"""Hook of mkdocs: pages and files outside docs/ that its pages link to join the site, and links to them are adapted."""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()([^)\s:#]+)(#[^)\s]*)?(?=\))")
"""A Markdown link to a file, with an anchor or without."""


def in_site(path: str) -> str:
    """Path in the site of a file of the repository."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def in_repository(path: str) -> str:
    """Path in the repository of a file of the site."""
    if path == "index.md":
        return "README.md"
    return f"docs/{path}" if (ROOT / "docs" / path).exists() else path


def resolved(link: str, page: str) -> str:
    """Path in the repository that a link of this page leads to."""
    return os.path.normpath(PurePosixPath(page).parent / link)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README.md, and all that its pages link to outside docs/."""
    waiting = ["README.md", *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    seen = set()
    while waiting:
        page = waiting.pop()
        for match in LINK.finditer((ROOT / page).read_text(encoding="utf-8")):
            path = resolved(match[2], page)
            if path in seen or path == "README.md" or path.startswith("docs/") or not (ROOT / path).is_file():
                continue
            seen.add(path)
            if path.endswith(".md"):
                waiting.append(path)
    for path in ["README.md", *sorted(seen)]:
        files.append(File.generated(config, in_site(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapt the links of a page to the places of files in the site."""
    own = in_repository(page.file.src_uri)
    folder = PurePosixPath(page.file.src_uri).parent

    def adapted(match: re.Match[str]) -> str:
        target = in_site(resolved(match[2], own))
        return f"{match[1]}{os.path.relpath(target, folder)}{match[3] or ''}"

    return LINK.sub(adapted, markdown)
