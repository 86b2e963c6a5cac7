# SPDX-License-Identifier: Apache-2.0
"""What all errors share: they travel, and tell what led to them."""

from __future__ import annotations

import pytest

from pluggableflow.exceptions import NotFound, PluggableFlowError


def chain() -> PluggableFlowError:
    middle = PluggableFlowError("no answer", cause=OSError("unplugged"))
    return NotFound("lost", cause=middle)


def test_the_text_of_an_error_tells_what_led_to_it() -> None:
    assert str(chain()) == "lost\n  PluggableFlowError: no answer\n    OSError: unplugged"
    assert str(NotFound("lost")) == "lost"


def test_an_error_is_formatted_as_told() -> None:
    assert chain().pformat(indent=1, indent_text="-", show_root_class=True).splitlines() == [
        "NotFound: lost",
        "-PluggableFlowError: no answer",
        "--OSError: unplugged",
    ]
    with pytest.raises(ValueError, match="must not be negative, as -1 is"):
        chain().pformat(indent=-1)


def test_an_error_that_led_to_itself_is_formatted_once() -> None:
    error = chain()
    assert error.cause is not None
    error.cause.__cause__ = error
    assert error.pformat().count("lost") == 1


def test_what_an_error_was_raised_from_is_its_cause_but_no_part_of_its_text() -> None:
    with pytest.raises(PluggableFlowError) as raised:
        raise PluggableFlowError("lost") from OSError("unplugged")
    assert (str(raised.value), str(raised.value.cause)) == ("lost", "unplugged")
    assert raised.value.pformat() == "lost\n  OSError: unplugged"
