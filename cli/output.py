"""What the commands print: for people by default, JSON with ``--json``, nothing but errors with ``--quiet``.

Results go to stdout, progress and errors to stderr, so that both can be piped.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

MANY = 10  # of a list, so many are printed
PROGRESS_AFTER_S = 2.0  # nothing quicker than this shows a bar


@dataclass
class Output:
    """Where and how a command speaks; set once from the global options."""

    quiet: bool = False
    json: bool = False
    verbose: int = 0

    @property
    def _silent(self) -> bool:
        return self.quiet or self.json

    def say(self, text: str) -> None:
        """Print a line for people."""
        if not self._silent:
            sys.stdout.write(f"{text}\n")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print rows under column names; with ``--json`` a list of objects."""
        if self.json:
            _print_json([dict(zip(columns, row, strict=True)) for row in rows])
        elif not self.quiet:
            from rich.console import Console
            from rich.table import Table

            table = Table(*columns, box=None, pad_edge=False, header_style="bold")
            for row in rows:
                table.add_row(*("" if value is None else str(value) for value in row))
            Console(width=None if sys.stdout.isatty() else 200).print(table)

    def result(self, values: Mapping[str, Any]) -> None:
        """Print named values, one a line; with ``--json`` one object."""
        if self.json:
            _print_json(dict(values))
        elif not self.quiet:
            width = max(map(len, values), default=0)
            for name, value in values.items():
                sys.stdout.write(f"{name:<{width}}  {_in_words(value)}\n")

    def caution(self, model: str | None) -> None:
        """Say on stderr what the model that ships is for, if it is this one."""
        if model == "mini" and not self._silent:
            sys.stderr.write(
                "mini learned from mock galaxies: it is for learning and testing. For science: "
                "astroclip models pull astroclip, then --model astroclip\n"
            )

    def error(self, text: str) -> None:
        """Print an error to stderr, whatever the options."""
        sys.stderr.write(json.dumps({"error": text}) + "\n" if self.json else f"Error: {text}\n")

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[..., None] | None]:
        """Yield ``report(done, total, note)``; once the work has lasted 2 s, a bar on stderr shows it.

        A `note` stands where the rate would. Yields None where nobody is watching (stderr is not a terminal,
        ``--quiet``, ``--json``). Work that never reports shows that it is running.
        """
        if self._silent or not sys.stderr.isatty():
            yield None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        task = bar.add_task(label, total=None, rate="")
        begin = time.monotonic()
        timer = threading.Timer(PROGRESS_AFTER_S, bar.start)
        timer.daemon = True
        timer.start()

        def report(done: int, total: int, note: str = "") -> None:
            rate = note or f"{done / max(time.monotonic() - begin, 1e-9):.1f}/s"
            bar.update(task, completed=done, total=total, rate=rate)

        try:
            yield report
        finally:
            timer.cancel()
            bar.stop()


def _in_words(value: Any) -> str:
    """Return a value as people read it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(part)}" for name, part in value.items()) or "none"
    if isinstance(value, tuple):
        return "".join(f"\n  {part}" for part in value[:MANY]) + (
            f"\n  and {len(value) - MANY} more" if len(value) > MANY else "" if value else "none"
        )
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


output = Output()
