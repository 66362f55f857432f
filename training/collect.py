"""Step 1: collects documents and cuts them into texts and pairs.

    python collect.py

Writes, in the work folder, `texts.jsonl` (a text a line: source, split, text) and `pairs.jsonl` (which short text says what
a longer one is about: their line numbers, and the task), and the account of sources in SOURCES.md. Needs Debian 12 with
`mandoc`, and cargo's cache filled by `cargo fetch --locked`. The same input gives the same output.
"""

import hashlib
import json
import random
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import documents
import paths
from documents import Document
from sources import PACKAGES

PASSAGE_WORDS = 110
SHINGLE = 8
MAX_SEEN = 0.2
# Most texts of a source, so that none drowns the others.
CAPS = {"wordnet-base": 60_000, "dict-gcide": 20_000, "crates": 40_000, "linux-doc-6.1": 24_000, "rust-doc": 10_000}
CAP = 12_000
UNCAPPED = {"descriptions"}
GENERIC = re.compile(r"(see also|notes?|examples?|introduction|overview|description|summary|usage|synopsis)s?", re.I)


def digest(text: str) -> int:
    """A number that depends on nothing but the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def split_of(group: str) -> str:
    """88 % of the groups train, 2 % validate, 10 % are held out for the tasks."""
    place = digest("split:" + group) % 100
    return "test" if place < 10 else "validation" if place < 12 else "train"


def words(text: str) -> list[str]:
    """Lower-case words, for comparing and counting."""
    return re.findall(r"[a-z0-9]+", text.lower())


def is_prose(text: str) -> bool:
    """Whether a text reads like English: letters, some words, not a listing."""
    letters = sum(c.isascii() and (c.isalpha() or c == " ") for c in text)
    return letters > 0.8 * len(text) and 2 <= len(text.split()) and max(map(len, text.split())) < 40


def passages(paragraphs: Iterable[str]) -> Iterator[str]:
    """Neighbouring paragraphs joined, and long ones cut at sentences, up to PASSAGE_WORDS words."""
    held: list[str] = []
    count = 0
    for paragraph in paragraphs:
        for sentence in sentences(paragraph):
            length = len(sentence.split())
            if held and count + length > PASSAGE_WORDS:
                yield " ".join(held)
                held, count = [], 0
            held.append(" ".join(sentence.split()[:PASSAGE_WORDS]))
            count += length
    if held:
        yield " ".join(held)


def sentences(paragraph: str) -> list[str]:
    """A paragraph's sentences, roughly."""
    return [part for part in re.split(r"(?<=[.!?:])\s+(?=[A-Z(\"'])", paragraph) if part]


class Collection:
    """Texts and pairs, each text once: the first document that has it keeps it."""

    def __init__(self) -> None:
        self.texts: list[dict] = []
        self.index: dict[str, int] = {}
        self.pairs: list[dict] = []

    def add(self, document: Document, text: str, role: str) -> int | None:
        """The text's number; `None` where it is not prose, or another split has it."""
        split = split_of(document.group)
        key = " ".join(words(text))
        if not key or not is_prose(text):
            return None
        if key in self.index:
            found = self.index[key]
            return found if self.texts[found]["split"] == split else None
        self.index[key] = len(self.texts)
        self.texts.append({"source": document.source, "split": split, "role": role, "text": text})
        return self.index[key]

    def pair(self, task: str, group: str, query: int | None, passage: int | None) -> None:
        """Notes that `query` says what `passage` is about."""
        if query is not None and passage is not None and query != passage:
            self.pairs.append({"task": task, "group": group, "query": query, "passage": passage})


def description(collection: Collection, document: Document) -> None:
    """A Debian package: its synopsis, its description, and some of that one's sentences."""
    query = collection.add(document, document.title, "query")
    body = list(passages(document.sections[0][1]))
    added = [collection.add(document, passage, "passage") for passage in body[:2]]
    if added:
        collection.pair("package", document.group, query, added[0])
    _sample_sentences(collection, document, body, 1)


def manual_page(collection: Collection, document: Document) -> None:
    """A manual page: what its NAME line says, and how its description begins."""
    sections = dict(reversed(document.sections))
    name = " ".join(sections.get("NAME", []))
    _, dash, says = re.sub(r"\s+[–—-]+\s+", " — ", name, count=1).partition(" — ")
    query = collection.add(document, says, "query") if dash else None
    body = list(passages(sections.get("DESCRIPTION", [])))
    if body:
        collection.pair("manual", document.group, query, collection.add(document, body[0], "passage"))
    if query is not None and re.match(r"[a-z]+ (a|an|the|files?|[a-z]+s)\b", says) and len(says.split()) < 12:
        collection.add(document, f"how do I {says}?", "question")
    _sections(collection, document, [s for s in document.sections if s[0] not in ("NAME", "SYNOPSIS")])


def page(collection: Collection, document: Document) -> None:
    """A documentation page: headings, and how each section begins."""
    for heading, paragraphs in document.sections:
        heading = re.sub(r"^(Chapter |Appendix )?[\dA-Z]*\.?[\d.]+\s*\.?\s*", "", heading).rstrip("#")
        body = list(passages(paragraphs))
        if not body or len(body[0].split()) < 15:
            continue
        passage = collection.add(document, body[0], "passage")
        if len(heading.split()) >= 2 and not GENERIC.fullmatch(heading):
            query = collection.add(document, heading, "query")
            collection.pair("section", document.group, query, passage)
    _sections(collection, document, document.sections)


def entry(collection: Collection, document: Document) -> None:
    """A dictionary's entry: the word with its meaning, each alone, and the examples."""
    meaning, *rest = re.split(r"; \"", document.sections[0][1][0])
    meaning = next(iter(passages([meaning])), "")
    collection.add(document, f"{document.title}: {meaning}", "entry")
    chance = digest("entry:" + document.group) % 8
    if chance < 2:
        query = collection.add(document, document.title, "query")
        collection.pair("word", document.group, query, collection.add(document, meaning, "passage"))
    elif chance == 2:
        collection.add(document, f"What is {document.title}?", "question")
    for example in rest[:1]:
        collection.add(document, example.strip('" '), "sentence")


def _sections(collection: Collection, document: Document, sections: list) -> None:
    for _, paragraphs in sections:
        body = list(passages(paragraphs))
        for passage in body[1:3]:
            if len(passage.split()) >= 10:
                collection.add(document, passage, "passage")
        _sample_sentences(collection, document, body, 2)


def _sample_sentences(collection: Collection, document: Document, body: list[str], most: int) -> None:
    found = [s for passage in body for s in sentences(passage) if 4 <= len(s.split()) <= 40]
    chosen = random.Random(digest(document.group + document.title)).sample(found, min(most, len(found)))
    for sentence in chosen:
        collection.add(document, sentence, "sentence")


def capped(texts: list[dict], pairs: list[dict]) -> set[int]:
    """Which texts stay: all that pairs need, then the others of each source up to its cap, by hash."""
    needed = {pair[key] for pair in pairs for key in ("query", "passage")}
    by_source: dict[str, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        by_source[text["source"]].append(number)
    kept: set[int] = set()
    for source, numbers in by_source.items():
        numbers.sort(key=lambda n: (n not in needed, digest("cap:" + texts[n]["text"])))
        kept.update(numbers if source in UNCAPPED else numbers[: CAPS.get(source, CAP)])
    return kept


def shingles(text: str) -> set[int]:
    """Hashes of every SHINGLE words in a row."""
    found = words(text)
    return {hash(tuple(found[i : i + SHINGLE])) for i in range(len(found) - SHINGLE + 1)}


def without_leaks(texts: list[dict], kept: set[int]) -> set[int]:
    """Without held-out texts of which more than MAX_SEEN was seen in training in the same words."""
    seen: set[int] = set()
    for number in kept:
        if texts[number]["split"] == "train":
            seen |= shingles(texts[number]["text"])

    def leaks(text: dict) -> bool:
        own = shingles(text["text"])
        return bool(own) and len(own & seen) > MAX_SEEN * len(own)

    return {n for n in kept if texts[n]["split"] == "train" or not leaks(texts[n])}


def download() -> list[tuple[str, Path]]:
    """Each package's name and file, downloaded once."""
    paths.PACKAGES.mkdir(parents=True, exist_ok=True)
    found = {path.name.split("_")[0]: path for path in paths.PACKAGES.glob("*.deb")}
    missing = [package.name for package in PACKAGES if package.name not in found]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=paths.PACKAGES, check=True)
        found = {path.name.split("_")[0]: path for path in paths.PACKAGES.glob("*.deb")}
    return [(package.name, found[package.name]) for package in PACKAGES]


def gather() -> tuple[Collection, dict[str, tuple[str, str]]]:
    """Everything that is collected, and each source's version and licences."""
    collection, account = Collection(), {}
    for document in documents.descriptions():
        description(collection, document)
    account["descriptions"] = ("Debian 12's package lists", "as of each package")
    files = dict(download())
    for package in PACKAGES:
        path = files[package.name]
        account[package.name] = (path.name.split("_")[1].replace("%3a", ":"), documents.licences(path))
        cut = {"man": manual_page, "wordnet": entry, "dictionary": entry}.get(package.kind, page)
        for document in documents.read_package(package, path):
            cut(collection, document)
        print(package.name, len(collection.texts), len(collection.pairs), flush=True)
    for document in documents.crates(Path.home() / ".cargo" / "registry" / "src"):
        _sections(collection, document, document.sections)
    account["crates"] = ("those in cargo's cache", "MIT, Apache-2.0, Unicode-3.0, BSD-like and others, by each one's Cargo.toml")
    return collection, account


def write(collection: Collection, kept: set[int]) -> list[dict]:
    """Writes the texts that stay, in an order of their own, and the pairs between them."""
    texts = collection.texts
    order = sorted(kept, key=lambda n: digest("order:" + texts[n]["text"]))
    number = {old: new for new, old in enumerate(order)}
    with paths.TEXTS.open("w") as file:
        file.writelines(json.dumps(texts[old], ensure_ascii=False) + "\n" for old in order)
    with paths.PAIRS.open("w") as file:
        for pair in sorted(collection.pairs, key=lambda pair: digest(f"{pair['query']} {pair['passage']}")):
            if pair["query"] in number and pair["passage"] in number:
                split = texts[pair["query"]]["split"]
                moved = {"query": number[pair["query"]], "passage": number[pair["passage"]], "split": split}
                file.write(json.dumps({**pair, **moved}) + "\n")
    return [texts[old] for old in order]


def write_account(texts: list[dict], account: dict[str, tuple[str, str]]) -> None:
    """SOURCES.md: what came from where, and under which licences."""
    count = Counter((text["source"], text["split"]) for text in texts)
    rows = [
        f"| `{name}` | {version} | {licence} | {count[name, 'train']:,} | {count[name, 'test']:,} |"
        for name, (version, licence) in account.items()
    ]
    head = (paths.REPOSITORY / "training" / "SOURCES.head.md").read_text()
    (paths.REPOSITORY / "training" / "SOURCES.md").write_text(head + "\n".join(rows) + "\n")


def main() -> None:
    collection, account = gather()
    kept = without_leaks(collection.texts, capped(collection.texts, collection.pairs))
    texts = write(collection, kept)
    write_account(texts, account)
    print(Counter((text["split"], text["role"]) for text in texts))


if __name__ == "__main__":
    main()
