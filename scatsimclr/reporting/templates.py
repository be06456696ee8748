"""Pages from the templates in `assets`: each with its style sheets and its one script inside."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from scatsimclr.reporting.assets import asset

PARTS = ("base.html", "macros.html")  # what the templates of pages are made of
# page -> its script and its style sheets
PAGES = {
    "report.html": ("map.js", ("theme.css", "chart.css", "page.css")),
    "comparison.html": ("map.js", ("theme.css", "chart.css", "page.css")),
    "labels.html": ("labels.js", ("theme.css", "page.css", "labels.css")),
}


def render(template: str, context: Mapping[str, object]) -> str:
    """Renders a page of PAGES. Everything in the context is escaped unless it is Markup."""
    templates = Environment(
        loader=DictLoader({name: asset(name) for name in (*PARTS, template)}), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters.update(percent=percent, points=points)
    script_name, styles = PAGES[template]
    script = asset(script_name)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = "".join(asset(name) for name in styles)
    return templates.get_template(template).render(
        style=Markup(style), script=Markup(script), script_hash=digest, **context
    )


def percent(share: float | None, deviation: float | None = None) -> str:
    """A share as "81.3 ± 0.4 %"; "–" for None."""
    if share is None:
        return "–"
    return f"{100 * share:.1f}" + (f" ± {100 * deviation:.1f}" if deviation else "") + " %"


def points(gain: float | None) -> str:
    """A difference of shares in percentage points, "+1.2"; "–" for None."""
    if gain is None:
        return "–"
    return f"{100 * gain:+.1f}".replace("-", "−") if gain else "0"


def json_text(value: object) -> Markup:
    """JSON that can stand in a <script> element: no character in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
