"""Read records of named fields from JSON and Parquet. Nothing here imports torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from charrnn.data.formats import Log, numbered_lines
from charrnn.data.sources import Document
from charrnn.data.vocabulary import shortened
from charrnn.errors import DataError

MOST_BYTES = 1 << 31  # bytes of a Parquet file, decompressed


def is_json(text: str) -> bool:
    """Whether the first line of a text is an object of JSON."""
    first = text.lstrip()[:100_000].partition("\n")[0]
    if not first.startswith("{"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def json_records(text: str, document: Document, log: Log) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON array, or of JSON lines."""
    name = document.name
    numbered: Iterable[tuple[int, Any]]
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{name} is not an array of JSON ({_reason(error)}); give one object on each line"
            ) from error
        numbered = enumerate(values, 1)
    else:
        numbered = ((line, row) for line, row in numbered_lines(text) if row.strip())
    for line, row in numbered:
        value = row
        if isinstance(row, str):
            try:
                value = json.loads(row)
            except (ValueError, RecursionError) as error:
                log.fault(name, line, f"is not JSON ({_reason(error)}): {shortened(row)}")
                continue
        if isinstance(value, dict):
            yield line, value
        else:
            log.fault(name, line, f"is not an object of JSON: {shortened(str(row))}")


def _reason(error: Exception) -> str:
    return "too deeply nested" if isinstance(error, RecursionError) else str(error)[:60]


def is_parquet(document: Document) -> bool:
    with document.open() as file:
        return file.read(4) == b"PAR1"


def parquet_records(document: Document) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file. Raises DataError if pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{document.name} is a Parquet file, which needs the package pyarrow; run "
            f"pip install 'charrnn-trainer[parquet]', or save the table as CSV"
        ) from error
    with document.open() as file:
        content = file.read()
    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
        about = table.metadata
        size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        if size > MOST_BYTES:
            raise DataError(
                f"{document.name} has {size:,} bytes once it is decompressed, but at most "
                f"{MOST_BYTES:,} are read; divide it into smaller files"
            )
        for batch in table.iter_batches():
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0][:100]
        raise DataError(f"cannot read {document.name} as Parquet: {reason}") from error


def flat(record: dict[str, Any], prefix: str = "", depth: int = 0) -> dict[str, str]:
    """Turn a record into texts by name; the names of a record inside it are joined by dots."""
    fields: dict[str, str] = {}
    for name, value in record.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and depth < 4:
            fields |= flat(value, f"{key}.", depth + 1)
        elif isinstance(value, str):
            fields[key] = value.strip()
        elif value is None:
            fields[key] = ""
        else:
            fields[key] = json.dumps(value, ensure_ascii=False, default=str)
    return fields
