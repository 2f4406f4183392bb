"""What a run is: written into the journal, compared when it is resumed, told in the output's header."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from astroclip.errors import DataError, UsageError
from astroclip.schema import VERSION, ColumnSpec
from astroclip.tables.anytable import Table
from astroclip.tables.arrowfields import add_metadata, is_layout_card
from astroclip.tables.hdus import Card

JOURNAL_FORMAT = 2
_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}")


def describe_run(
    table: Table,
    columns: Sequence[ColumnSpec],
    settings: Mapping[str, Any],
    *,
    rows: tuple[int, int],
    shard: tuple[int, int] | None,
    form: str,
    dropped: Sequence[str],
) -> dict[str, Any]:
    """Return what must be the same in a resumed run, in the types that JSON gives back."""
    run = {
        "format": JOURNAL_FORMAT,
        "program": f"astroclip {VERSION}",
        "input": {"name": table.name, **table.fingerprint},
        "hdu": table.place,
        "output": form,
        "dropped": dropped,
        "columns": columns,
        "rows": rows,
        "shard": shard,
        "settings": settings,
    }
    described: dict[str, Any] = json.loads(json.dumps(run))
    return described


def check_same_run(earlier: dict[str, Any], run: dict[str, Any], catalog: str, output: str) -> None:
    """Refuse to continue a part that another catalogue, other settings or another program began.

    Raises
    ------
    DataError
        If the catalogue is another one.
    UsageError
        Naming all settings that differ.
    """
    if earlier["input"]["sha256"] != run["input"]["sha256"]:
        raise DataError(
            f"{catalog}: is not the file that the part of {output} was begun with (its SHA-256 differs). "
            "Start again without resume"
        )
    check_same_settings(
        earlier, run, ("format", "program", "hdu", "output", "dropped", "columns", "rows", "shard"), output
    )


def check_same_settings(
    earlier: dict[str, Any], run: dict[str, Any], keys: Sequence[str], output: str
) -> None:
    """Raise `UsageError` naming all of `keys`, and of what is in ``settings``, that differ."""
    pairs = [(key, earlier.get(key), run[key]) for key in keys]
    old, new = earlier["settings"], run["settings"]
    pairs += [(key, old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys())]
    differing = [f"{key} was {was!r}, now {now!r}" for key, was, now in pairs if was != now]
    if differing:
        raise UsageError(
            f"{output}: its part was begun with other settings: {'; '.join(differing)}. "
            "Resume with the same settings, or start again without resume"
        )


def provenance_cards(run: dict[str, Any], cards: Mapping[str, Any], history: Sequence[str]) -> list[Card]:
    """Return the cards that tell what was done: program, input and settings, then what the caller says."""
    names = ", ".join(spec[0] for spec in run["columns"])
    lines = [
        f"{run['program']}: {names} added to {Path(run['input']['name']).name}",
        f"SHA-256 of that file: {run['input']['sha256']}",
        f"settings: {json.dumps(run['settings'])}",
        *history,
    ]
    return program_cards(cards, lines)


def program_cards(cards: Mapping[str, Any], history: Sequence[str]) -> list[Card]:
    """Return the cards of the program's version and the date, and those that the caller gives."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    everything = {
        "ACVERS": (VERSION, "version of astroclip"),
        "ACDATE": (now, "when it wrote its columns, UTC"),
        **cards,
    }
    pairs = [(key, value if isinstance(value, tuple) else (value,)) for key, value in everything.items()]
    return [Card(key, *value) for key, value in pairs] + [Card("HISTORY", line) for line in history]


def cards_metadata(cards: Sequence[Card]) -> dict[str, str]:
    """Return cards as metadata of a schema: values by keyword, the lines of HISTORY in one text."""
    said: dict[str, str] = {}
    for card in cards:
        add_metadata(said, {card.key: str(card.value)})
    return said


def metadata_cards(said: Mapping[str, Any]) -> list[Card]:
    """Return as cards what metadata of a table say under the keywords of FITS."""
    words = {
        key: str(text) for key, text in said.items() if _KEYWORD.fullmatch(key) and not is_layout_card(key)
    }
    words.pop("COMMENT", None)
    history = words.pop("HISTORY", "").splitlines()
    return [Card(key, text) for key, text in words.items()] + [Card("HISTORY", line) for line in history]
