"""Reads documents, each with its sections, from Debian packages, package lists and the crates in cargo's cache."""

import fnmatch
import gzip
import io
import itertools
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import markup
from sources import Package


@dataclass
class Document:
    """One document. `group` decides its split: what belongs together stays together."""

    source: str
    group: str
    title: str
    sections: list[markup.Section] = field(default_factory=list)


def files(package: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Files of a Debian package whose paths match, in the order of their names, decompressed."""
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            name = member.name.removeprefix("./")
            if member.isfile() and fnmatch.fnmatch(name, pattern.replace("**/", "*")):
                data = archive.extractfile(member).read()
                yield name, gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def licences(package: Path) -> str:
    """The licences that the package's copyright file names, in its own words."""
    for _, data in files(package, "usr/share/doc/*/copyright"):
        names = re.findall(r"^Licen[sc]e: *(\S.*)$", data.decode("utf-8", "replace"), re.M)
        distinct = list(dict.fromkeys(name.strip() for name in names))
        if distinct:
            return ", ".join(distinct[:6]) + (" and others" if len(distinct) > 6 else "")
        common = re.findall(r"common-licenses/([\w.-]*\w)", data.decode("utf-8", "replace"))
        return ", ".join(dict.fromkeys(common)) or "as in its copyright file"
    return "as in its copyright file"


def read_package(package: Package, path: Path) -> Iterator[Document]:
    """All documents of a Debian package."""
    reader = {"wordnet": wordnet, "dictionary": dictionary}.get(package.kind)
    if reader:
        yield from reader(package, path)
        return
    for name, data in files(path, package.pattern):
        if "/_modules/" in name or "/_sources/" in name or "genindex" in name:
            continue
        if package.kind == "man":
            title = Path(name).name.removesuffix(".gz").rsplit(".", 1)[0]
            sections = markup.man_sections(data)
        else:
            text = data.decode("utf-8", "replace")
            title = Path(name).stem
            if package.kind == "rst":
                sections = markup.rst_sections(text)
            else:
                text = re.sub(r"<(/?)title", r"<\1h2", text) if package.kind == "mallard" else text
                sections = markup.html_sections(text)
        yield Document(package.name, f"{package.name}:{title}", title, sections)


def wordnet(package: Package, path: Path) -> Iterator[Document]:
    """Each synset: its words, its gloss, and its examples."""
    for name, data in files(path, package.pattern):
        for line in data.decode().split("\n"):
            head, bar, gloss = line.partition(" | ")
            parts = head.split()
            if not bar or len(parts) < 6:
                continue
            words = [word.replace("_", " ") for word in parts[4 : 4 + 2 * int(parts[3], 16) : 2]]
            words = [re.sub(r"\(.*\)", "", word) for word in words]
            yield Document(package.name, f"{name}:{parts[0]}", ", ".join(words[:3]), [("", [gloss.strip()])])


def dictionary(package: Package, path: Path) -> Iterator[Document]:
    """Entries of a dictd dictionary: its index gives places in base 64."""
    digits = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
    number = lambda text: sum(digits[c] * 64**i for i, c in enumerate(reversed(text)))  # noqa: E731
    content = dict(files(path, package.pattern))
    index = next(data for name, data in content.items() if name.endswith(".index"))
    text = next(data for name, data in content.items() if ".dict" in name)
    for line in index.decode("utf-8", "replace").split("\n"):
        word, *place = line.split("\t")
        if len(place) < 2 or word.startswith("00"):
            continue
        start = number(place[0])
        entry = text[start : start + number(place[1])].decode("utf-8", "replace")
        body = markup.clean(re.sub(r"[{}]|\[[^\]]*\]|\(\d{4}-\d\d-\d\d\)|\\[^\\]*\\", "", entry).removeprefix(word))
        yield Document(package.name, f"{package.name}:{word}", word, [("", [body])])


def descriptions() -> Iterator[Document]:
    """Debian's packages: title is the synopsis, the only section the long description. Grouped by source package."""
    translations, sources = {}, {}
    for path in sorted(Path("/var/lib/apt/lists").glob("*Translation-en*")):
        for entry in _stanzas(path):
            synopsis, _, body = entry.get("Description-en", "").partition("\n")
            translations.setdefault(entry.get("Package", ""), (synopsis, body))
    for path in sorted(Path("/var/lib/apt/lists").glob("*_Packages*")):
        for entry in _stanzas(path):
            sources[entry["Package"]] = entry.get("Source", entry["Package"]).split()[0]
    for name, (synopsis, body) in sorted(translations.items()):
        paragraphs = [markup.clean(part) for part in re.split(r"\n\s*\.\s*(?:\n|$)", body)]
        group = f"descriptions:{sources.get(name, name)}"
        yield Document("descriptions", group, synopsis, [(name, [part for part in paragraphs if part])])


def _stanzas(path: Path) -> Iterator[dict[str, str]]:
    done = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", path], capture_output=True, check=True)
    for stanza in done.stdout.decode("utf-8", "replace").split("\n\n"):
        fields: dict[str, str] = {}
        for line in stanza.split("\n"):
            if line.startswith(" ") and fields:
                fields[next(reversed(fields))] += "\n" + line[1:]
            elif ": " in line:
                key, value = line.split(": ", 1)
                fields[key] = value
        if fields:
            yield fields


def crates(registry: Path) -> Iterator[Document]:
    """Readmes and doc comments of the crates in cargo's cache, a document for each file, grouped by crate."""
    for crate in sorted(itertools.chain.from_iterable(folder.iterdir() for folder in registry.glob("*"))):
        group = "crates:" + re.sub(r"-\d+\.\d.*", "", crate.name)
        for readme in sorted(crate.glob("README*")):
            text = readme.read_text("utf-8", "replace")
            yield Document("crates", group, crate.name, markup.markdown_sections(text))
        for file in sorted(crate.glob("src/**/*.rs")):
            docs = markup.rust_docs(file.read_text("utf-8", "replace"))
            sections = [section for doc in docs for section in markup.markdown_sections(doc)]
            if sections:
                yield Document("crates", group, file.stem, sections)
