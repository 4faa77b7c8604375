"""What deploy/ runs: each component's command and environment, from the units and from the compose file."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
UNITS: Final = DEPLOY / "systemd"
PROGRAM: Final = "/opt/pneumowatch/bin/pneumowatch"
COMPONENTS: Final = ("watch", "schedule", "work", "training", "review")


@dataclass(frozen=True)
class Program:
    """`words` behind `pneumowatch`."""

    words: tuple[str, ...]
    environment: Mapping[str, str]

    def relocated(self, paths: Mapping[str, str]) -> "Program":
        """Return it with its paths replaced by those of this machine, the longest first."""

        def moved(text: str) -> str:
            for path in sorted(paths, key=len, reverse=True):
                text = text.replace(path, paths[path])
            return text

        return Program(tuple(map(moved, self.words)), {name: moved(value) for name, value in self.environment.items()})


def unit_programs() -> dict[str, Program]:
    """Return the programs as systemd would start them, the worker on the CPU."""
    common = _directives((UNITS / "pneumowatch-.service.d" / "common.conf").read_text("utf-8"))
    found = {}
    for component in COMPONENTS:
        name = "work@" if component == "work" else component
        given = common + _directives((UNITS / f"pneumowatch-{name}.service").read_text("utf-8"))
        shared = _variables((UNITS / "pneumowatch.env").read_text("utf-8").splitlines())
        # a file's variables win over the unit's own
        variables = _variables([value for key, value in given if key == "Environment"]) | shared
        (start,) = (value for key, value in given if key == "ExecStart")
        program, *words = shlex.split(start.replace("%i", "cpu"))
        assert program == PROGRAM
        found[component] = Program(tuple(words), variables)
    return found


def compose_programs() -> dict[str, Program]:
    services: dict[str, Any] = compose()["services"]
    return {
        component: Program(tuple(services[component]["command"]), services[component]["environment"])
        for component in COMPONENTS
    }


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return loaded


def _directives(text: str) -> list[tuple[str, str]]:
    lines = (line for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


def _variables(lines: list[str]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
