"""Values that a process makes once, however many threads ask for them first."""

import threading
from collections.abc import Callable
from functools import cache, update_wrapper
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class once(Generic[P, R]):  # noqa: N801 - a decorator, named as `functools.cache` is
    """As `functools.cache`, but of threads that ask at the same time one makes the value, and the others wait for it.

    With `cache` each of them would make one and keep it: two placements, say, each of which hands out all processors.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        """Wrap a function whose arguments can be hashed; it may call itself, or others like it, without a circle."""
        self._cached = cache(function)
        self._guard = threading.RLock()
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the value for these arguments."""
        with self._guard:
            return self._cached(*args, **kwargs)  # type: ignore[arg-type]

    def cache_clear(self) -> None:
        """Forget all values."""
        self._cached.cache_clear()
