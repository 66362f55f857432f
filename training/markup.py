"""Plain text out of manual pages, HTML, reStructuredText and Rust's doc comments, with headings where there are any.

A document is a list of sections `(heading, [paragraph, ...])`.
"""

import re
import subprocess
from html.parser import HTMLParser

SPACE = re.compile(r"\s+")
HEADINGS = {"h1", "h2", "h3", "h4"}
BLOCKS = {"p", "li", "dd", "dt", "td", "div", "section", "table", "ul", "ol", "dl", "blockquote"}
SKIPPED = {"script", "style", "pre", "nav", "head", "footer", "svg", "code-block", "title"}
MAX_PAGE_BYTES = 100_000

Section = tuple[str, list[str]]


def clean(text: str) -> str:
    """One line, without permalink marks."""
    return SPACE.sub(" ", text.replace("¶", " ").replace("\u00ad", "")).strip()


class _Sections(HTMLParser):
    """Collects headings and the paragraphs that follow each."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: list[Section] = [("", [])]
        self.text: list[str] = []
        self.heading = False
        self.skipping = 0

    def _flush(self) -> None:
        text = clean("".join(self.text))
        self.text = []
        if not text:
            return
        if self.heading:
            self.sections.append((text, []))
        else:
            self.sections[-1][1].append(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in SKIPPED:
            self._flush()
            self.skipping += 1
        elif tag in HEADINGS:
            self._flush()
            self.heading = True
        elif tag in BLOCKS:
            self._flush()

    def handle_endtag(self, tag: str) -> None:
        if tag in SKIPPED:
            self.skipping = max(0, self.skipping - 1)
        elif tag in HEADINGS:
            self._flush()
            self.heading = False
        elif tag in BLOCKS:
            self._flush()

    def handle_data(self, data: str) -> None:
        if not self.skipping:
            self.text.append(data)


def html_sections(html: str) -> list[Section]:
    """Sections of an HTML page."""
    parser = _Sections()
    parser.feed(html)
    parser.close()
    parser._flush()
    return parser.sections


def man_sections(page: bytes) -> list[Section]:
    """Sections of a manual page in roff, typeset by mandoc; none of one that is as long as a book."""
    if len(page) > MAX_PAGE_BYTES:
        return []
    command = ["mandoc", "-T", "utf8", "-O", "width=300,indent=2"]
    done = subprocess.run(command, input=page, capture_output=True, timeout=300, check=False)
    text = re.sub(r".\x08", "", done.stdout.decode("utf-8", "replace"))
    sections: list[Section] = []
    paragraph: list[str] = []

    def flush() -> None:
        joined = clean(" ".join(paragraph))
        paragraph.clear()
        if joined and sections:
            sections[-1][1].append(joined)

    for line in text.split("\n")[1:]:
        if not line.strip():
            flush()
        elif not line.startswith(" "):
            flush()
            sections.append((clean(line), []))
        else:
            paragraph.append(line)
    flush()
    return sections


def rst_sections(text: str) -> list[Section]:
    """Sections of reStructuredText: titles underlined; directives, literal blocks and tables left out."""
    sections: list[Section] = [("", [])]
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.split("\n") if line.strip()]
        if len(lines) >= 2 and re.fullmatch(r"([=\-~^*#\"'+])\1{2,}", lines[-1].strip()):
            sections.append((rst_inline(lines[-2]), []))
        elif lines and not re.match(r"\s|\.\. |[+|=]", lines[0]):
            sections[-1][1].append(rst_inline(" ".join(lines)))
    return sections


def rst_inline(text: str) -> str:
    """Without reStructuredText's inline marks."""
    text = re.sub(r":[\w:+-]+:`([^`<]*?)\s*(?:<[^>]*>)?`", r"\1", text)
    return clean(re.sub(r"[`*|]+_*|::", "", text))


def markdown_sections(text: str) -> list[Section]:
    """Sections of Markdown: code blocks, tables, badges and link targets left out."""
    text = re.sub(r"```.*?(```|\Z)|<!--.*?-->|~~~.*?(~~~|\Z)", "\n\n", text, flags=re.S)
    sections: list[Section] = [("", [])]
    for block in re.split(r"\n\s*\n|\n(?=\s*[-*#] )", text):
        block = block.strip("\n")
        heading = re.match(r"#{1,4}\s+(.*)", block)
        if heading:
            sections.append((markdown_inline(heading.group(1)), []))
            block = block[heading.end():]
        if block.strip() and not re.match(r"    |\t|[|<\[!=]", block):
            sections[-1][1].append(markdown_inline(re.sub(r"^\s*[-*>]\s+", "", block)))
    return sections


def markdown_inline(text: str) -> str:
    """Without Markdown's inline marks."""
    text = re.sub(r"!\[[^\]]*\](\([^)]*\)|\[[^\]]*\])?", "", text)
    text = re.sub(r"\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])?", r"\1", text)
    return clean(re.sub(r"<[^>]+>|[`*_]{1,3}(?=\S)|(?<=\S)[`*_]{1,3}", "", text))


def rust_docs(source: str) -> list[str]:
    """The texts of a Rust file's doc comments, each as Markdown."""
    docs, lines = [], []
    for line in source.split("\n"):
        comment = re.match(r"\s*//[/!](?!/) ?(.*)", line)
        if comment:
            lines.append(comment.group(1))
        elif lines:
            docs.append("\n".join(lines))
            lines = []
    if lines:
        docs.append("\n".join(lines))
    return docs
