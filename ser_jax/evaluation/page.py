"""Templates of this folder, filled in: self-contained HTML pages that share one look."""

from typing import Any

import jinja2

from ser_jax.evaluation import formats


def render(template: str, **values: Any) -> str:
    """Returns a page.

    Args:
      template: File name of the template in this folder.
      **values: What it shows; text is escaped, only `markupsafe.Markup` is taken as it is.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ser_jax", "evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = ("percent", "points", "spread", "interval", "decimals", "p_value", "duration", "value")
    environment.filters |= {name: getattr(formats, name) for name in filters}
    environment.globals["difference"] = formats.difference
    return environment.get_template(template).render(**values)
