"""
What the status page looks like::

    write(statusPage(totals, rows, query="", paused=False))

A page of plain HTML, made by C{twisted.web.template}, which escapes whatever it is
given: names, agents and addresses come from strangers, and show as one line each, in
whichever direction they are written.  It needs no script; it asks for itself again
every few seconds, unless whoever reads it has paused that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from twisted.web.template import Tag, tags

from aesm.status.units import number, seconds, size
from aesm.text import escape

REFRESH = 5  # seconds

STYLE = """\
:root { color-scheme: light dark; --text: #1b1f24; --soft: #57606a; --back: #ffffff;
  --band: #f3f5f7; --line: #d0d7de; --good: #116329; --bad: #a40e26; --link: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --soft: #9da7b3;
  --back: #0d1117; --band: #161b22; --line: #30363d; --good: #7ee787; --bad: #ffa198;
  --link: #79c0ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 90rem; padding: 1.5rem; background: var(--back);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
a { color: var(--link); } p { margin: .25rem 0; } .soft, caption { color: var(--soft); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -100rem; } .skip:focus { left: 1rem; }
code, td.key { font-family: ui-monospace, monospace; font-size: .85em; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr));
  gap: .75rem; margin: 1rem 0; }
dl div { background: var(--band); border-radius: .5rem; padding: .6rem .9rem; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.wide { overflow-x: auto; font-size: .9rem; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding: .25rem 0; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; vertical-align: top; }
thead th, thead td { border-bottom-width: 2px; font-size: .85rem; }
tbody tr:nth-child(even) { background: var(--band); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.text, th.text { max-width: 16rem; overflow: hidden; text-overflow: ellipsis; }
.small table { width: auto; } .small { display: flex; flex-wrap: wrap; gap: 2.5rem; }
input, button { font: inherit; padding: .25rem .6rem; border: 1px solid var(--line);
  border-radius: .4rem; background: var(--back); color: var(--text); }
"""


def statusPage(
    totals: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    query: str = "",
    paused: bool = False,
) -> Tag:
    """
    Lay the page out.

    @param totals: as of L{Overview.totals<aesm.status.overview.Overview.totals>}.
    @param rows: of the connections to show, as of its C{rows}.
    @param query: whom was asked for, C{""} for all.
    @param paused: whether it stays as it is.
    @return: to be flattened, behind a C{DOCTYPE}.
    """
    refresh: list[Tag] = []
    if not paused:
        refresh = [tags.meta(**{"http-equiv": "refresh", "content": str(REFRESH)})]
    return tags.html(
        tags.head(
            tags.meta(charset="utf-8"),
            tags.meta(name="viewport", content="width=device-width"),
            *refresh,
            tags.title(f"aesm: {totals['connections']} connected"),
            tags.link(rel="stylesheet", href="/style.css"),
        ),
        tags.body(
            tags.a("To the connections", href="#connections", class_="skip"),
            tags.header(*_header(totals, query, paused)),
            Tag("main")(
                tags.dl(*(tags.div(*each) for each in _figures(totals))),
                *_connections(totals, rows, query),
                tags.div(_refusals(totals), _times(totals), class_="small"),
            ),
        ),
        lang="en",
    )


def _header(totals: Mapping[str, Any], query: str, paused: bool) -> Iterable[Tag]:
    """Say which server it is, and how it is."""
    yield tags.h1("aesm ", tags.span(totals["version"], class_="soft"))
    spool, cluster = totals["spool"], totals["cluster"]
    if totals["stopping"]:
        state = tags.strong("Stopping: nobody is let in any more.", class_="bad")
    elif spool is not None and spool["failure"] is not None:
        state = tags.strong(
            "The spool cannot be written: ", _shown(spool["failure"]), class_="bad"
        )
    elif cluster is not None and cluster["failure"] is not None:
        state = tags.strong(
            "The engine cannot be used: ", _shown(cluster["failure"]), class_="bad"
        )
    else:
        state = tags.strong("Running.", class_="good")
    yield tags.p(
        state,
        f" Up for {seconds(totals['uptime'])}, process {totals['pid']}, listening on ",
        ", ".join(map(escape, totals["listening"])) or "nothing",
        ".",
    )
    if cluster is not None:
        yield tags.p("Node ", _shown(cluster["node"]), " of ", _shown(cluster["name"]))
    yield tags.p("Key ", tags.code(totals["key"]), class_="soft")
    clock = datetime.fromtimestamp(totals["time"]).astimezone()
    asked = {"q": query} if query else {}
    if paused:
        other = tags.a("Refresh by itself", href="/?" + urlencode(asked))
    else:
        other = tags.a("Pause", href="/?" + urlencode({**asked, "refresh": "off"}))
    often = "" if paused else f"Again every {REFRESH} seconds. "
    yield tags.p(f"As of {clock:%Y-%m-%d %H:%M:%S %Z}. {often}", other, class_="soft")


def _figures(totals: Mapping[str, Any]) -> Iterable[tuple[Tag, Tag]]:
    """Give the numbers that matter most."""
    figures = [
        ("Connected", f"{totals['connections']:,}"),
        ("Waiting to come back", f"{totals['waiting']:,}"),
        ("Handshakes under way", f"{totals['handshakes']:,}"),
        ("Places taken", f"{totals['placesTaken']:,} of {totals['places']:,}"),
        ("Messages received", _counted(totals, "In")),
        ("Messages acknowledged", _counted(totals, "Out")),
        ("Buffered", f"{size(totals['buffered'])} of {size(totals['totalBuffer'])}"),
    ]
    if totals["spool"] is not None:
        figures.append(("Spool", size(totals["spool"]["bytes"])))
    return ((tags.dt(what), tags.dd(value)) for what, value in figures)


def _counted(totals: Mapping[str, Any], way: str) -> str:
    """Write how many messages went one way, and how many bytes."""
    return f"{totals[f'messages{way}']:,} ({size(totals[f'bytes{way}'])})"


def _connections(
    totals: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], query: str
) -> Iterable[Tag]:
    """List connections."""
    yield tags.h2("Connections", id="connections", tabindex="-1")
    yield tags.form(
        tags.label("Name, key, address or session ", for_="q"),
        tags.input(type="search", name="q", id="q", value=query),
        " ",
        tags.button("Find", type="submit"),
        (" ", tags.a("Show all", href="/")) if query else "",
        method="get",
        action="/",
    )
    everybody = totals["connections"] + totals["waiting"]
    if query:
        told = f"{len(rows):,} found."
    elif len(rows) < everybody:
        told = f"The {len(rows):,} of {everybody:,} that lag most."
    else:
        told = f"All {everybody:,}; those that lag most come first."
    numbers = [
        "Idle",
        "Round trip",
        "Received",
        "Acknowledged",
        "Unacknowledged",
        "Oldest",
        "Unread",
    ]
    yield tags.div(
        tags.table(
            tags.caption(told),
            tags.thead(
                tags.tr(
                    *(
                        tags.th(each, scope="col")
                        for each in ("Name", "Address", "Key", "Agent", "State")
                    ),
                    *(tags.th(each, scope="col", class_="number") for each in numbers),
                )
            ),
            tags.tbody(*(_row(row, totals["time"]) for row in rows)),
        ),
        class_="wide",
        tabindex="0",
        role="region",
        **{"aria-label": "Connections"},
    )


def _row(row: Mapping[str, Any], now: float) -> Tag:
    """Show one connection."""
    state = f"{row['state']} for {seconds(now - row['since'])}"
    if row["grace"] is not None:
        state = f"away, {seconds(row['grace'])} left"
    oldest = row["oldestUnacknowledged"]
    return tags.tr(
        tags.th(_shown(row["name"] or "-"), scope="row", class_="text"),
        tags.td(_shown(row["address"])),
        tags.td(row["key"][:12], "…", class_="key", title=row["key"]),
        tags.td(_shown(row["agent"] or "-"), class_="text"),
        tags.td(state, title=f"since {_clock(row['since'])}"),
        *(
            tags.td(each, class_="number")
            for each in (
                seconds(row["idle"]),
                seconds(row["roundTrip"]),
                _both(row["messagesIn"], row["bytesIn"]),
                _both(row["messagesOut"], row["bytesOut"]),
                _both(row["unacknowledged"], row["unacknowledgedBytes"]),
                seconds(oldest),
                _both(row["unread"], row["unreadBytes"]),
            )
        ),
    )


def _both(messages: int, count: int) -> str:
    """Write a number of messages, and of their bytes."""
    return f"{number(messages)} ({size(count)})" if messages else "0"


def _refusals(totals: Mapping[str, Any]) -> Tag:
    """Count who was not let in."""
    counts = [
        (kind, f"{count:,}") for kind, count in totals["refusals"].items() if count
    ]
    return tags.section(
        tags.h2("Not let in"),
        _table(("Reason", "Clients"), counts) if counts else tags.p("Nobody."),
    )


def _times(totals: Mapping[str, Any]) -> Tag:
    """Say how long things took."""
    rows = []
    for what, field in (
        ("Acknowledgement", "acknowledged"),
        ("Round trip", "roundTrips"),
    ):
        found = totals[field]
        rows.append(
            (
                what,
                f"{found['count']:,}",
                *(_below(found, share) for share in (0.5, 0.9, 0.99)),
            )
        )
    return tags.section(
        tags.h2("How long it took"),
        _table(("", "Counted", "Half below", "90 % below", "99 % below"), rows),
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Tag:
    """Lay out a table whose first column says what the numbers are of."""
    first, *others = heads
    return tags.table(
        tags.thead(
            tags.tr(
                tags.th(first, scope="col") if first else tags.td(),
                *(tags.th(each, scope="col", class_="number") for each in others),
            )
        ),
        tags.tbody(
            *(
                tags.tr(
                    tags.th(row[0], scope="row"),
                    *(tags.td(each, class_="number") for each in row[1:]),
                )
                for row in rows
            )
        ),
    )


def _shown(text: str) -> Tag:
    """Show a stranger's text: on one line, whichever way it is written."""
    return Tag("bdi")(escape(text), title=escape(text))


def _below(found: Mapping[str, Any], share: float) -> str:
    """Find the first bound of a histogram that so many are below."""
    if not found["count"]:
        return "-"
    for bound, below in found["buckets"]:
        if below >= share * found["count"]:
            return seconds(bound)
    return f"over {seconds(found['buckets'][-1][0])}"


def _clock(seconds: float) -> str:
    """Write a time as short as it can be understood now."""
    return f"{datetime.fromtimestamp(seconds):%m-%d %H:%M:%S}"
