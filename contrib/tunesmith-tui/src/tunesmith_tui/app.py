"""The application: keys, screens, and the clock that reads the logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import ContentSwitcher, DataTable, Input, Static

from tunesmith.errors import TunesmithError
from tunesmith.text import format_count
from tunesmith_evidence.report.answers import AnswerRow, Answers, read_answers
from tunesmith_tui.cells import describe_damage, join, paragraph, shown
from tunesmith_tui.library import GROUPS, Library
from tunesmith_tui.machine_load import describe_machine
from tunesmith_tui.run_state import RunState
from tunesmith_tui.views import monitor
from tunesmith_tui.views.answers import (
    FILTERS,
    MAX_LISTED,
    describe_rows,
    filter_rows,
    list_cells,
    render_answer,
)
from tunesmith_tui.views.compare import Compared, compare_runs, render_comparison
from tunesmith_tui.views.data import render_data
from tunesmith_tui.views.run import render_run
from tunesmith_tui.views.runs import build_row, list_columns
from tunesmith_tui.views.search import render_search

VIEWS = ("runs", "run", "compare", "answers", "data", "monitor", "search")
TICK, READ, FIRST_READ = 0.1, 0.06, 0.15
"""Seconds between two reads, of a read, and of the read before the first frame."""
CHECK_TICKS, SCAN_TICKS = 10, 50
"""Ticks between two looks at all logs, and between two looks for new runs."""
MAX_RESULTS = 4
WRONG_VALUE = (ValueError, LookupError, TypeError, AttributeError)
"""Errors because of a value that this version does not write."""
HELP = (
    ("1 to 7", "Runs, Run, Compare, Answers, Data, Monitor, Search"),
    ("up, down", "move in a list or scroll; also j, k, page up, page down"),
    ("enter", "open the run under the cursor"),
    ("n, p", "next and previous run, on every screen"),
    ("escape", "back to the list"),
    ("/", "Runs: filter; all words must be in the folder, name, model, technique, status or "
     "verdict; escape clears it"),
    ("g", "Runs: group by folder, model, technique, status or verdict"),
    ("t", "Runs: as a tree, below each run those that continue it"),
    ("space", "Runs: mark two runs, A and B, to compare them"),
    ("f", "Answers: all rows, those that got worse, or the wrong ones"),
    ("m", "Monitor: ask for a report; the monitor writes its page"),
    ("?", "this help"),
    ("q", "quit"),
    ("•", "in a curve: mean of the steps of a column; │ is its 95 % interval"),
    ("○", "in a curve: validation rows"),
    ("░", "predicted; ● is the measured value"),
    ("", "Nothing else is written. NO_COLOR turns colors off."),
)  # fmt: skip
"""Keys and signs, with their meaning."""


class Help(ModalScreen[None]):  # type: ignore[misc]
    """The overlay with all keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss", "close")
    ]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            grid = Table.grid(padding=(0, 2))
            for key, meaning in HELP:
                grid.add_row(Text(key, "bold"), Text(meaning))
            yield Static(grid)


class Page(VerticalScroll):  # type: ignore[misc]
    """A screen that scrolls."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", show=False), Binding("k", "scroll_up", show=False)
    ]  # fmt: skip

    def compose(self) -> ComposeResult:
        yield Static()

    def show(self, content: RenderableType) -> None:
        """Replace what the screen shows, and keep its position."""
        self.query_one(Static).update(content)


class Rows(DataTable[Text]):  # type: ignore[misc]
    """A list whose rows keep their cursor when they change."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", show=False), Binding("k", "cursor_up", show=False)
    ]  # fmt: skip

    def on_mount(self) -> None:
        self.cursor_type, self.cell_padding = "row", 0
        self.content: tuple[dict[str, int], list[list[Text]]] = ({}, [])

    def show(self, columns: dict[str, int], rows: list[list[Text]], cursor: int) -> None:
        """Replace the rows if they or the columns, given as widths by heading, changed."""
        new = (columns, rows)
        if new == self.content and self.cursor_row == cursor:
            return
        self.content, top = new, self.scroll_y
        self.clear(columns=True)
        for label, width in columns.items():
            self.add_column(Text(label), width=width + 1)
        for row in rows:
            self.add_row(*row)
        self.move_cursor(row=cursor, animate=False)
        self.scroll_to(y=top, animate=False)


class Dashboard(App[None]):  # type: ignore[misc]
    """Shows the runs of a library."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { overflow: hidden; }
    #tabs, #foot { height: 1; }
    Input { display: none; height: 1; border: none; padding: 0; }
    Input.open { display: block; }
    ContentSwitcher, Page, Rows { height: 1fr; }
    #list { height: 40%; }
    Rows > .datatable--header { text-style: bold; color: ansi_default; background: ansi_default; }
    Rows > .datatable--cursor, Rows:focus > .datatable--cursor {
        text-style: reverse; color: ansi_default; background: ansi_default;
    }
    #help { width: 70; height: auto; max-height: 100%; border: solid; padding: 0 1; }
    Help { align: center middle; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(n), f"view('{name}')", name) for n, name in enumerate(VIEWS, 1)),
        Binding("question_mark", "help", "help"),
        Binding("q", "quit", "quit"),
        Binding("ctrl+c", "quit", "quit", priority=True),
        Binding("n", "step(1)", "next run"),
        Binding("p", "step(-1)", "previous run"),
        Binding("escape", "back", "back"),
        Binding("slash", "filter", "filter"),
        Binding("g", "group", "group"),
        Binding("t", "tree", "tree"),
        Binding("space", "mark", "mark"),
        Binding("f", "answers", "answers"),
        Binding("m", "monitor", "monitor"),
    ]

    def __init__(self, library: Library, machine: Callable[[], str] = describe_machine) -> None:
        # The terminal's own colors, so that light and dark terminals are both readable.
        super().__init__(ansi_color=True)
        self.library, self.machine = library, machine
        # Kept as attributes, because a query looks only at the screen on top, such as the help.
        self.tabs, self.foot = Static(id="tabs"), Static(id="foot")
        self.switcher, self.box = ContentSwitcher(initial="runs"), Input(placeholder="filter")
        self.runs_list, self.answers_list, self.answers_page = Rows(), Rows(id="list"), Page()
        self.pages = {name: Page(id=name) for name in VIEWS if name not in ("runs", "answers")}
        self.view = "runs"
        self.current: RunState | None = None
        self.is_chosen = False
        """False until the user chooses a run: until then, the first one is current."""
        self.marked: list[Path] = []
        self.group_by, self.is_tree, self.kept = "", False, FILTERS[0]
        self.ticks = 0
        self.results: dict[tuple[Any, ...], Any] = {}
        """Results of slow work by its key: a result, an error as text, or None while it runs."""
        self.answer_rows: Sequence[AnswerRow] = ()
        self.metric = ""
        self.listed: list[RunState] = []

    def compose(self) -> ComposeResult:
        yield self.tabs
        with self.switcher:
            with VerticalScroll(id="runs", can_focus=False):
                yield self.box
                yield self.runs_list
            with VerticalScroll(id="answers", can_focus=False):
                yield self.answers_list
                yield self.answers_page
            yield from self.pages.values()
        yield self.foot

    def on_mount(self) -> None:
        self.theme = "ansi-dark"
        self.library.scan()
        self.library.advance(FIRST_READ)
        self.refresh_view()
        self.runs_list.focus()
        self.set_interval(TICK, self.tick)

    def tick(self) -> None:
        """Read what is new, and show it."""
        self.ticks += 1
        changed = self.library.advance(READ, self.current)
        if self.ticks % SCAN_TICKS == 0:
            changed |= self.library.scan()
        if self.ticks % CHECK_TICKS == 0:
            changed |= self.library.check() or self.view == "run"
        if changed:
            self.refresh_view()

    def on_resize(self, event: events.Resize) -> None:
        self.call_after_refresh(self.refresh_view)

    # ------------------------------------------------------------------ what is shown

    def refresh_view(self) -> None:
        """Show the current state on the visible screen."""
        width = self.size.width
        listed = self.library.arrange(self.box.value, self.group_by, self.is_tree)
        if listed and not self.is_chosen:
            self.current = listed[0].run
        self._show_frame(len(listed))
        if self.view == "runs":
            columns = list_columns(width, self.group_by)
            rows = [build_row(item, self.marked, columns) for item in listed]
            runs = [item.run for item in listed]
            cursor = runs.index(self.current) if self.current in runs else 0
            self.listed = runs
            self.runs_list.show(columns, rows, cursor)
        elif self.view == "answers":
            self._show_answers(width)
        elif self.current is None:
            self.pages[self.view].show(Text("No run was found."))
        else:
            self.pages[self.view].show(self._render_safely(self.current, width - 2))

    def _render_safely(self, run: RunState, width: int) -> RenderableType:
        """Return the content of a screen, or what is wrong with an event of another version."""
        try:
            return self._render(run, width)
        except WRONG_VALUE as error:
            return paragraph(f"events.jsonl has a value that cannot be shown: {error}", "red")

    def _render(self, run: RunState, width: int) -> RenderableType:
        match self.view:
            case "run":
                return render_run(run, width, self.machine())
            case "data":
                return render_data(run)
            case "search":
                return render_search(self.library.find_search(run), width)
            case "monitor":
                missing = monitor.describe_monitor(run.path)
                return paragraph(
                    missing or self.results.get(("monitor", run.path)) or "Press m for a report."
                )
        return self._render_comparison(run, width)

    def _show_frame(self, count: int) -> None:
        tabs = Text(no_wrap=True, overflow="ellipsis")
        for number, name in enumerate(VIEWS, 1):
            style = "bold reverse" if name == self.view else ""
            tabs.append(f" {number} {name.capitalize()} ", style)
        self.tabs.update(tabs)
        parts = [format_count(count, "run")]
        if self.view == "runs":
            parts += [
                f"by {self.group_by}" if self.group_by else "",
                "tree" if self.is_tree else "",
            ]
            parts.append(f"filter: {value}" if (value := self.box.value) else "")
        elif self.current is not None:
            parts.append(self.current.path.name)
        if left := self.library.left_share:
            parts.append(f"{100 * (1 - left):.0f} % read")
        if self.current is not None and self.view == "runs":
            parts.append(describe_damage(self.current))
        texts = [shown(part, 60) for part in parts if part]
        self.foot.update(join([*texts, Text("? help  q quit", "dim")], " · "))

    def _show_answers(self, width: int) -> None:
        rows, page, self.answer_rows = self.answers_list, self.answers_page, ()
        run = self.current
        if run is None or not run.report.tuned:
            rows.show({"": 10}, [], 0)
            page.show(Text("The tuned model has no measured answers yet."))
            return
        found = self._result(
            ("answers", run.path, *count_results(run)), lambda: read_answers(run.path, run.report)
        )
        if not isinstance(found, Answers):
            text = (
                "reading the answers …"
                if found is None
                else found or "No metric has a value per row."
            )
            rows.show({"": 10}, [], 0)
            page.show(paragraph(text))
            return
        self.answer_rows = filter_rows(found, self.kept)[:MAX_LISTED]
        cells = [list_cells(row, width) for row in self.answer_rows]
        title = shown(describe_rows(found, self.kept), width - 14).plain
        cursor = min(max(0, rows.cursor_row), max(0, len(cells) - 1))
        self.metric = found.label
        rows.show({"": 9, title: max(10, width - 13)}, cells, cursor)
        self._show_answer(cursor)

    def _show_answer(self, cursor: int) -> None:
        page = self.answers_page
        if cursor < len(self.answer_rows):
            page.show(render_answer(self.answer_rows[cursor], self.metric))
        else:
            page.show(Text("No such row."))

    def _render_comparison(self, run: RunState, width: int) -> RenderableType:
        pair = [self.library.runs[path] for path in self.marked]
        if len(pair) < 2 and run not in pair:
            parent = self.library.find_parents().get(run)
            pair = [*(pair or ([parent] if parent else [])), run]
        if len(pair) < 2:
            return Text(
                "Mark two runs in the list with the space bar, A and B, to compare them. Without "
                "marks, a run is compared with the run that it continues."
            )
        key = ("compare", *((one.path, *count_results(one)) for one in pair))
        found = self._result(key, lambda: compare_runs(pair[0].path, pair[1].path))
        if isinstance(found, Compared):
            return render_comparison(found, width)
        return paragraph("comparing …" if found is None else found)

    def _result(self, key: tuple[Any, ...], work: Callable[[], Any]) -> Any:
        """Return the result of slow work, or None while a thread does it; "" stands for none."""
        if key not in self.results:
            for old in [*self.results][: 1 - MAX_RESULTS]:
                del self.results[old]
            self.results[key] = None
            self.run_worker(lambda: self._work(key, work), thread=True, exit_on_error=False)
        return self.results[key]

    def _work(self, key: tuple[Any, ...], work: Callable[[], Any]) -> None:
        try:
            result = work() or ""
        except (TunesmithError, OSError, *WRONG_VALUE) as error:
            hint = getattr(error, "hint", "")
            result = f"{error}\n{hint}".strip()
        self.call_from_thread(self._finish, key, result)

    def _finish(self, key: tuple[Any, ...], result: Any) -> None:
        if key in self.results:
            self.results[key] = result
            self.refresh_view()

    # ------------------------------------------------------------------ keys

    def action_view(self, name: str) -> None:
        """Show another screen."""
        self.view, self.is_chosen = name, self.current is not None
        self.switcher.current = name
        lists = {"runs": self.runs_list, "answers": self.answers_list}
        (lists.get(name) or self.pages[name]).focus()
        self.refresh_view()

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help())

    def action_step(self, by: int) -> None:
        """Go to the next or the previous run."""
        if self.current in self.listed:
            place = self.listed.index(self.current) + by
            if 0 <= place < len(self.listed):
                self.current, self.is_chosen = self.listed[place], True
                self.refresh_view()

    async def action_back(self) -> None:
        """Close the filter, or go back to the list."""
        box = self.box
        if self.view == "runs" and box.has_class("open"):
            box.value = ""
            box.remove_class("open")
        self.action_view("runs")

    def action_filter(self) -> None:
        """Open the filter."""
        self.action_view("runs")
        box = self.box
        box.add_class("open")
        box.focus()

    def action_group(self) -> None:
        """Group the runs by the next of the possible keys."""
        keys = ["", *GROUPS]
        self.group_by, self.is_tree = keys[(keys.index(self.group_by) + 1) % len(keys)], False
        self.refresh_view()

    def action_tree(self) -> None:
        """Show the runs as a tree, or as a list."""
        self.is_tree, self.group_by = not self.is_tree, ""
        self.refresh_view()

    def action_mark(self) -> None:
        """Mark the current run, or remove its mark."""
        if self.current is None:
            return
        path = self.current.path
        kept = [p for p in self.marked if p != path]
        self.marked = kept if path in self.marked else [*kept[-1:], path]
        self.refresh_view()

    def action_answers(self) -> None:
        """Show all rows, those that got worse, or those that are wrong."""
        self.kept = FILTERS[(FILTERS.index(self.kept) + 1) % len(FILTERS)]
        self.refresh_view()

    def action_monitor(self) -> None:
        """Ask the monitor of the current run for its report."""
        run = self.current
        if self.view == "monitor" and run and not monitor.describe_monitor(run.path):
            self.results.pop(("monitor", run.path), None)
            self._result(("monitor", run.path), lambda: monitor.read_monitor(run.path))

    def on_input_changed(self) -> None:
        self.refresh_view()

    def on_input_submitted(self) -> None:
        self.runs_list.focus()

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        # Events can be late; the position of the cursor is always the newest.
        cursor = event.data_table.cursor_row
        if event.data_table is self.answers_list:
            if self.answer_rows:
                self._show_answer(cursor)
        elif cursor < len(self.listed) and self.listed[cursor] is not self.current:
            self.current, self.is_chosen = self.listed[cursor], True
            self._show_frame(len(self.listed))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        if event.data_table is self.runs_list:
            self.action_view("run")


def count_results(run: RunState) -> tuple[int, bool]:
    """Return what changes when a run has new results, for the keys of slow work."""
    return len(run.report.measured), run.report.finished is None
