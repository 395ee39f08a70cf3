"""Rows of a parquet file, by pyarrow (Apache-2.0), which is imported when it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kontext_core.errors import InputError

# Rows held at a time; pictures are in them.
BATCH = 16


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries; pictures as {"bytes": ..., "path": ...}, as `datasets` stores them.

    Raises:
        InputError: pyarrow is not installed, or the file is no parquet.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError(
            f"{path.name} is parquet, which needs pyarrow: pip install pyarrow. Or give the folder with "
            "metadata.jsonl"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                yield from batch.to_pylist()
    except (OSError, arrow.ArrowException) as error:
        raise InputError(f"can't read {path} ({error}); is it a parquet file?") from error
