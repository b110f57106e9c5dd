"""What the site has that `docs/` has not: its first page, lists of folders, and files of the
repository that pages link to.

The pages are written for the forge, where links run through the whole repository. Here each link
that leaves `docs/` leads to a copy under `from/`, and one to a folder to a list of what is in it.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
STYLE = Path(__file__).with_name("site.css")
#: The page of the repository that is the first one of the site.
FIRST = "README.md"
#: Links of Markdown: in the text, and as definitions at its end.
LINK = re.compile(r"(\]\(|^\[\w+\]: )([^)#\s]+)", re.MULTILINE)
FENCE = re.compile(r"(^ *(`{3,}).*?^ *\2 *$)", re.MULTILINE | re.DOTALL)


def place(path: str) -> str:
    """Where the site has a file or folder of the repository."""
    if path == FIRST:
        return "index.md"
    if (ROOT / path).is_dir():
        inside = place(f"{path}/README.md")
        return inside if (ROOT / path / "README.md").exists() else f"{inside[:-9]}index.md"
    inside_docs = posixpath.relpath(path, "docs")
    return f"from/{path}" if inside_docs.startswith("..") else inside_docs


def linked(markdown: str, source: str) -> list[str]:
    """The files and folders of the repository that a page at `source` links to."""
    words = "".join(FENCE.split(markdown)[::3])
    links = [link for _, link in LINK.findall(words)]
    paths = [posixpath.normpath(posixpath.join(posixpath.dirname(source), link)) for link in links]
    return [path for path in paths if ":" not in path and (ROOT / path).exists()]


def relinked(markdown: str, source: str) -> str:
    """The page with its links as the site has them; those that lead nowhere stay, to be found."""
    here = posixpath.dirname(place(source))

    def there(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if ":" in match[2] or not (ROOT / path).exists():
            return match[0]
        return match[1] + posixpath.relpath(place(path), here or ".")

    parts = FENCE.split(markdown)
    for n in range(0, len(parts), 3):
        parts[n] = LINK.sub(there, parts[n])
    return "".join(part for n, part in enumerate(parts) if n % 3 != 2)


def list_of(folder: Path) -> str:
    """A page that lists a folder, by the titles of its pages."""
    lines = [f"# {folder.relative_to(ROOT)}", ""]
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            title = path.name
            if path.suffix == ".md":
                title = path.read_text("utf-8").split("\n", 1)[0].removeprefix("# ")
            lines.append(f"- [{title}]({path.name})")
    return "\n".join([*lines, ""])


def on_files(files: Any, config: Any) -> Any:
    """Add our style sheet, what the pages lead to, and what those lead to."""
    files.append(File.generated(config, STYLE.name, abs_src_path=str(STYLE)))
    sources = {f"docs/{file.src_uri}" for file in files.documentation_pages()}
    waiting, added = [FIRST, "CHANGELOG.md", *sorted(sources)], set()
    while waiting:
        source = waiting.pop()
        path = ROOT / source
        if source in added or not path.exists():
            continue
        added.add(source)
        if path.is_dir():
            if not (path / "README.md").exists():
                files.append(File.generated(config, place(source), content=list_of(path)))
            waiting += [f"{source}/{name}" for name in os.listdir(path) if (path / name).is_file()]
            continue
        if files.get_file_from_path(place(source)) is None:
            files.append(File.generated(config, place(source), abs_src_path=str(path)))
        if path.suffix == ".md":
            waiting += linked(path.read_text("utf-8"), source)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page as the site has it."""
    uri = page.file.src_uri
    if page.file.generated_by and page.file.abs_src_path is None:
        return markdown
    if uri == "api.md":
        markdown = with_docstrings(markdown)
    return relinked(markdown, source_of(uri))


def with_docstrings(markdown: str) -> str:
    """The page of names with the whole docstring of each below its table.

    Functions that are made of a plan's fields have no `def` to read: their plan stands above.
    """

    def told(table: re.Match[str]) -> str:
        parts = [table[0]]
        for module, name in re.findall(r"^\| `([\w.]+)\.(\w+)` \|", table[0], re.MULTILINE):
            if module == "prefmill" or written(module, name):
                parts.append(f"::: {module}.{name}\n")
        return "\n".join(parts)

    return re.sub(r"(?:^\|.*\n)+", told, markdown, flags=re.MULTILINE)


def written(module: str, name: str) -> bool:
    """Whether a module has this function as such."""
    path = ROOT / "src" / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return re.search(rf"^def {name}\(", file.read_text("utf-8"), re.MULTILINE) is not None


def source_of(uri: str) -> str:
    """The file of the repository that a page of the site is made of."""
    if uri == "index.md":
        return FIRST
    return uri.removeprefix("from/") if uri.startswith("from/") else f"docs/{uri}"
