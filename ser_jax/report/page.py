"""Renders the templates of the self-contained HTML pages."""

from typing import Any

import jinja2

from ser_jax.report import formats
from ser_jax.runtime.progress import counted


def render(template: str, **values: Any) -> str:
    """Renders a template; values are escaped, except `markupsafe.Markup`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ser_jax", "report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = "percent points spread interval difference decimals p_value duration value".split()
    names.append("spread_and_interval")
    environment.filters |= {name: getattr(formats, name) for name in names}
    environment.filters["counted"] = counted
    environment.filters["mean"] = formats.mean
    return environment.get_template(template).render(**values)
