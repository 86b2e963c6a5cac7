# SPDX-License-Identifier: Apache-2.0
"""Several results of one task: by their place in a tuple, and by their key in a dict."""

from __future__ import annotations

from pluggableflow import api, task
from pluggableflow.flow import Flow
from pluggableflow.patterns import graph_flow


class Divide(task.Task):
    """Provides the items of a tuple, by index."""

    default_provides = ("quotient", "remainder")

    def execute(self, dividend: int, divisor: int) -> tuple[int, int]:
        return divmod(dividend, divisor)


class Describe(task.Task):
    """Provides the values of a dict, by key."""

    default_provides = {"text", "length"}

    def execute(self, quotient: int, remainder: int) -> dict[str, object]:
        text = f"{quotient}, remainder {remainder}"
        return {"text": text, "length": len(text)}


def create_flow() -> Flow:
    return graph_flow.Flow("division").add(Divide(), Describe())


if __name__ == "__main__":
    results = api.run(None, create_flow(), store={"dividend": 17, "divisor": 5})
    print(f"quotient {results['quotient']}, remainder {results['remainder']}")
    print(f"{results['text']!r} has {results['length']} characters")
