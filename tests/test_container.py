"""The Dockerfile: its user, its volume, and that what it copies and installs is there."""

import re
import tomllib

from sources import ROOT

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STEPS = [
    tuple(step.split(maxsplit=1))
    for step in re.sub(r"\\\n\s*", "", TEXT).splitlines()
    if step and not step.startswith("#")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def values(instruction: str) -> list[str]:
    return [value for name, value in STEPS if name == instruction]


def test_it_does_not_run_as_root_and_keeps_its_cache_in_a_volume():
    after_user = [name for name, _ in STEPS][[name for name, _ in STEPS].index("USER") :]
    assert values("USER") == ["1000"] and not {"RUN", "COPY"} & set(after_user)
    assert values("VOLUME") == ["/cache"] and values("ENV") == ["XDG_CACHE_HOME=/cache"]
    assert values("ENTRYPOINT") == ['["ser-jax"]'] and "ser-jax" in PROJECT["scripts"]


def test_what_it_copies_and_installs_is_there():
    defaults = dict(value.split("=") for value in values("ARG") if "=" in value)
    assert (ROOT / f"constraints/{defaults['PYTHON']}.txt").is_file()
    assert set(defaults["EXTRAS"].split(",")) <= set(PROJECT["optional-dependencies"])
    copied = {source for value in values("COPY") for source in value.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    assert {PROJECT["readme"], *PROJECT["license-files"], "ser_jax", "configs"} <= copied
