"""Checks of arguments, with messages for people."""

import operator
from typing import SupportsIndex

import numpy as np

from zsm.errors import ArgumentError, ArgumentTypeError


def whole_number(name: str, value: SupportsIndex) -> int:
    """Convert an integer of any type, such as `np.int64`, to int.

    Raises ArgumentTypeError for anything else, booleans and whole floats included.
    """
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise ArgumentTypeError(f"{name} is {value!r}; give a whole number")
    return operator.index(value)


def at_least(least: int, name: str, value: SupportsIndex) -> int:
    """Convert an integer that is no smaller than `least`; raises ArgumentError or ArgumentTypeError."""
    number = whole_number(name, value)
    if number < least:
        raise ArgumentError(f"{name} is {number}; give at least {least}")
    return number
