"""HTML pages that open from disk: their frame and the style they share."""

from __future__ import annotations

from html import escape

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222}table{border-collapse:collapse}td,th{text-align:left;vertical-align:top}
figure{margin:0;font-size:12px}img{border:1px solid #ddd}.muted{color:#777}
"""
"""Fonts, tables and figures of every page; a page adds its own layout."""


def page(title: str, body: str, *, heading: str | None = None, style: str = "") -> str:
    """A whole page.

    Args:
        title: text of the browser's tab.
        body: HTML.
        heading: text above the body; the title by default.
        style: CSS beside the shared one.
    """
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style>"
        f"<body><h1>{escape(title if heading is None else heading)}</h1>{body}</body></html>"
    )
