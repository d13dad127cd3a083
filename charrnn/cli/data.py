"""`charrnn data list`, `fetch`, `verify` and `remove`: the named corpora and the cache."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from charrnn.cli.display import aligned, say
from charrnn.cli.options import quiet

if TYPE_CHECKING:
    from charrnn.data.corpora import NamedCorpus


@click.group()
def data() -> None:
    """List, download, check and delete named corpora.

    A corpus is downloaded when a command first reads it, for instance `charrnn train enwik8`, and
    is then kept in the cache folder. Each corpus comes with its usual split and vocabulary.

    \b
    Examples:
      charrnn data list
      charrnn data fetch enwik8 gutenberg:1342
      charrnn data verify
      charrnn data remove enwik8
    """


@data.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each corpus.")
def list_corpora(as_json: bool) -> None:
    """List the named corpora with their sizes, symbols, splits and licences.

    A book of Project Gutenberg has its number in its name, as in gutenberg:1342.

    \b
    Examples:
      charrnn data list
      charrnn data list --json
    """
    from charrnn.data.corpora import BOOK, NAMED, cached_books, megabytes

    records = [_record(corpus) for corpus in [*NAMED.values(), *cached_books()]]
    if as_json:
        for record in records:
            click.echo(json.dumps(record))
        return
    rows = [("corpus", "download", "size", "symbols", "split", "cached", "licence")]
    for record in records:
        sizes = [megabytes(record[key]) if record[key] else "-" for key in ("download", "size")]
        cached = "yes" if record["cached"] else "no"
        rows.append((record["name"], *sizes, record["symbols"], record["split"], cached,
                     record["licence"]))  # fmt: skip
    for line in aligned(rows):
        click.echo(line)
    say(f"{BOOK}NUMBER is a book of Project Gutenberg")


def _record(corpus: NamedCorpus) -> dict[str, Any]:
    """Collect the record that `list --json` prints; files in the cache are not checked."""
    from charrnn.data.corpora import texts_of

    files = {part: texts_of(corpus, part) for part in corpus.parts}
    is_cached = all(files.values())
    sizes = [paths[0].stat().st_size for paths in files.values() if paths]
    return {
        "schema": 1,
        "name": corpus.name,
        "about": corpus.about,
        "licence": corpus.licence,
        "download": corpus.download or None,
        "size": corpus.size or sum(sizes),
        "symbols": corpus.symbols,
        "split": corpus.split,
        "parts": [f"{corpus.name}:{part}" for part in corpus.parts if part],
        "settings": dict(corpus.settings),
        "cached": is_cached,
        "files": [str(paths[0]) for paths in files.values() if paths],
    }


@data.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@quiet
def fetch(names: tuple[str, ...]) -> None:
    """Download corpora that are not in the cache, and print the paths of their texts.

    An interrupted download continues where it stopped.

    \b
    Examples:
      charrnn data fetch enwik8 gutenberg:1342
    """
    from charrnn.data.corpora import fetch, named

    for corpus in [named(name) for name in names]:
        for path in fetch(corpus).values():
            click.echo(str(path))


@data.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
def verify(names: tuple[str, ...]) -> None:
    """Check the texts in the cache, or those of some corpora, against their checksums.

    \b
    Examples:
      charrnn data verify
      charrnn data verify enwik8
    """
    from charrnn.data.corpora import NAMED, cached_books, cached_text, named, texts_of
    from charrnn.errors import DataError

    chosen = [named(name) for name in names] or [*NAMED.values(), *cached_books()]
    damaged = []
    for corpus in chosen:
        if not any(texts_of(corpus, part) for part in corpus.parts):
            if names:
                click.echo(f"{corpus.name}: not in the cache")
            continue
        wrong = [part for part in corpus.parts if cached_text(corpus, part) is None]
        damaged += [corpus.name] * bool(wrong)
        click.echo(f"{corpus.name}: {'damaged or incomplete' if wrong else corpus.verdict}")
    if not (names or any(texts_of(one, part) for one in chosen for part in one.parts)):
        say("no corpus is in the cache")
    if damaged:
        raise DataError(
            f"damaged or incomplete in the cache: {', '.join(damaged)}; download again with "
            f"charrnn data fetch {' '.join(damaged)}"
        )


@data.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove(names: tuple[str, ...]) -> None:
    """Delete corpora from the cache, incomplete downloads included.

    \b
    Examples:
      charrnn data remove enwik8
    """
    from charrnn.data.corpora import megabytes, named, remove

    for corpus in [named(name) for name in names]:
        size = remove(corpus)
        say(f"{corpus.name}: {f'{megabytes(size)} freed' if size else 'not in the cache'}")
