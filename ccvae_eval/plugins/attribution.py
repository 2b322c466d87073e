"""Attribution of errors to plugins: the plugin's name, its distribution or file, the failed call, and a remedy."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout

from ccvae_eval.core.errors import CcvaeEvalError, PluginError, StopRequest, is_memory_error, is_stop_request
from ccvae_eval.plugins.registry import BUILTIN_DISTRIBUTION, Registration, registrations_of

BUILTIN_PACKAGES = ("ccvae_eval", "ccvae_models", "ccvae_plugins")
CREATION = "its constructor"
"""The ``call`` of :func:`plugin_call` that creates the plugin."""
HINTS = {
    "encode": "Do the data have the size, channels and range that it was trained on (--data NAME:PATH,size=64, "
    "--set images.range=[-1,1])?",
    "decode": "decode takes codes of shape (N, layout.dim), as encode returns them, and returns one tensor of images.",
    "from_spec": "Raise a DataError for a file that cannot be used.",
    "write": "run.json has been written.",
    "settings": "--model NAME chooses another adapter.",
}
"""First thing to check, by the method that failed."""


def is_builtin(plugin: object) -> bool:
    """True if the code of the plugin, an instance, a class or a registration, belongs to this distribution."""
    if isinstance(plugin, Registration):
        return plugin.distribution == BUILTIN_DISTRIBUTION
    return _class_of(plugin).__module__.partition(".")[0] in BUILTIN_PACKAGES


def _class_of(plugin: object) -> type:
    return plugin if isinstance(plugin, type) else type(plugin)


def name_and_origin(plugin: object) -> tuple[str, str]:
    """Returns a plugin's name and where its code comes from.

    The name is the registered one; if the class itself is not registered, it is the attribute ``name`` of metrics and
    matchers, else the class name. The origin is the distribution with its version, or the plugin file; for an
    unregistered class, its module.

    Args:
        plugin: an object, or the registration of one that does not exist yet.
    """
    if isinstance(plugin, Registration):
        return repr(plugin.name), plugin.origin
    kind = _class_of(plugin)
    exact, registrations = registrations_of(kind)
    names, origins = {r.name for r in registrations if exact}, {r.origin for r in registrations}
    own = getattr(plugin, "name", None)
    name = names.pop() if len(names) == 1 else own
    known = isinstance(name, str) and name
    return repr(name) if known else kind.__name__, origins.pop() if len(origins) == 1 else kind.__module__


@contextmanager
def plugin_call(plugin: object, kind: str, call: str) -> Iterator[None]:
    """Turns an exception of a plugin's code into a :class:`PluginError` that names the plugin, its origin and the call.

    ``SystemExit``, and ``KeyboardInterrupt`` without a signal, are turned too. Output of third-party code goes to
    stderr, because stdout may be a JSON document. Must not be entered around a ``yield``, where the end of the
    generator would count as a fault.

    Deliberate errors and those of memory are raised unchanged. So is any other exception of built-in code, because it
    is a bug of this toolkit, unless the input may be the cause: the data of a model, the file of an adapter, the
    settings of a constructor.

    Args:
        plugin: the plugin, or the registration of one that does not exist yet.
        kind: "model", "data set", "metric", "matcher", "feature extractor", "adapter" or "report".
        call: begins with the method's name, such as "decode(codes), codes of shape (32, 10)"; or ``CREATION``.
    """
    try:
        with nullcontext() if is_builtin(plugin) else redirect_stdout(sys.stderr):
            yield
    except BaseException as error:
        if isinstance(error, CcvaeEvalError) or is_memory_error(error) or is_stop_request(error):
            raise
        if is_builtin(plugin) and kind not in ("model", "adapter") and call != CREATION:
            raise
        name, origin = name_and_origin(plugin)
        first = HINTS.get(call.partition("(")[0], "")
        check = f"ccvae-eval check {name[1:-1]}" if name.startswith("'") else "ccvae-eval check"
        raise PluginError(
            f"{kind} {name} cannot be created" if call == CREATION else f"{kind} {name} failed in {call}",
            where=origin,
            why=f"{type(error).__name__}: {error}",
            hint=f"{first} `{check}` tests the {kind} on its own; --debug shows the traceback.".strip(),
        ) from error


@contextmanager
def time_limit(seconds: float | None, message: str) -> Iterator[None]:
    """Interrupts the code inside after some seconds of wall time; None = never.

    Compiled code is interrupted when it returns to Python. Outside of the main thread, and where the operating system
    has no timers, there is no limit.

    Raises:
        TimeoutError: the time is over; with this message.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def expired(*_: object) -> None:
        raise _Expired(signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    except _Expired:
        raise TimeoutError(message) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Expired(StopRequest):
    """The time of a call is over. Not an ``Exception``, which the code at work may catch."""
