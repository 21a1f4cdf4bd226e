"""Progress and tables in the terminal; plain lines where rich is not installed, as on a bare GPU machine."""

import contextlib

try:
    import rich.box
    import rich.console
    import rich.progress
    import rich.table
except ImportError:
    rich = None


class Console:
    def __init__(self):
        self.rich = rich.console.Console() if rich else None
        if self.rich and not self.rich.is_terminal:
            self.rich.width = 120  # a log file has no width of its own

    def print(self, text: str = ""):
        if self.rich:
            self.rich.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, flush=True)

    @contextlib.contextmanager
    def progress(self, total: int):
        """Gives advance(text): one of `total` steps begins."""
        if not self.rich:
            yield lambda text: None
            return
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TimeRemainingColumn(),
        )
        with rich.progress.Progress(*columns, console=self.rich, transient=True) as bar:
            task = bar.add_task("starting", total=total)
            yield lambda text: bar.update(task, description=text, advance=1)

    def table(self, title: str, columns: list[str], rows: list[list[str]], left: int = 1, bold=lambda cells: False):
        """The first `left` columns to the left, numbers to the right."""
        if not self.rich:
            widths = [max(len(cells[i]) for cells in [columns, *rows]) for i in range(len(columns))]
            self.print("\n" + title)
            for cells in [columns, *rows]:
                self.print("  ".join(cell.ljust(w) for cell, w in zip(cells, widths, strict=True)).rstrip())
            return
        table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False)
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i < left else "right", no_wrap=True)
        for cells in rows:
            escaped = [cell.replace("[", r"\[") for cell in cells]
            table.add_row(*escaped, style="bold" if bold(cells) else None)
        self.rich.print(table)
