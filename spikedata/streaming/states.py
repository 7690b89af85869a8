"""Checks of a state that is loaded: it may be of anything."""

from collections.abc import Mapping
from typing import Any

from spikedata.errors import StoreError


def check_kinds(state: Any, kinds: Mapping[str, type]) -> None:
    """Check that a state has these keys, with values of these types.

    Raises:
        StoreError: it has not.
    """
    if not isinstance(state, Mapping):
        raise StoreError(f"a state is a dict of {', '.join(kinds)}, got a {type(state).__name__}")
    for key, kind in kinds.items():
        if type(state.get(key)) is not kind:
            raise StoreError(
                f"the state's {key!r} is {state.get(key)!r:.60}, expected {kind.__name__}. Give "
                "what state_dict of the same class gave"
            )


def check_same(told: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a state that would go on with other windows.

    Raises:
        StoreError: a setting differs.
    """
    for key, value in own.items():
        if told.get(key) != value:
            if key == "clips":
                raise StoreError("the state is of other clips than these; open the same set, whole")
            raise StoreError(
                f"the state was saved with {key} {told.get(key)!r:.60}, and this has "
                f"{value!r:.60}. Give the same settings, or begin without it"
            )
