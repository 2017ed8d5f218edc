"""Loads Prefect with the user's settings from variables, .env, prefect.toml, pyproject.toml and profiles.toml."""

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import getproxies_environment

import typer

from deita_core.errors import InputError, cause

if TYPE_CHECKING:
    from prefect.settings import Settings
    from pydantic import ValidationError

# Hosts of this machine, including the address with which servers listen on all interfaces.
LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104
# Proxy schemes that the HTTP client of Prefect and of the endpoints supports.
PROXIES = ("http", "https", "socks5", "socks5h")


def spare_loopback() -> None:
    """Exclude this machine's own addresses from proxies, if the environment sets any."""
    if not getproxies_environment().keys() - {"no"}:
        return
    # Some libraries read the upper-case spelling first, others the lower-case one.
    upper, lower = os.environ.get("NO_PROXY", ""), os.environ.get("no_proxy", "")
    for name, kept in (("NO_PROXY", upper or lower), ("no_proxy", lower or upper)):
        hosts = [host.strip() for host in kept.split(",") if host.strip()]
        if hosts != ["*"]:
            os.environ[name] = ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])


def load_prefect() -> "Settings":
    """Import Prefect and return the user's Prefect settings. Raises InputError with one sentence for invalid ones."""
    _check_proxies()
    # Whenever Prefect reads the settings it prints messages that it also raises, or that are printed once below.
    with redirect_stderr(io.StringIO()) as said, _settings_errors():
        import_module("prefect")
    logging.getLogger("dotenv.main").setLevel(logging.ERROR)
    if line := re.search("could not parse statement starting at (line [0-9]+)", said.getvalue()):
        typer.echo(f"deita: .env cannot be understood at {line[1]}, so Prefect does not see it.", err=True)
    with _settings_errors():
        # Imported after the redirect, because it logs to the current stderr.
        import_module("prefect.main")
        from prefect.settings import get_current_settings

        return get_current_settings()


@contextmanager
def _settings_errors() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Failed to")
            yield
    except ImportError:
        raise
    except Exception as error:
        raise InputError(_refused(error)) from error


def _check_proxies() -> None:
    """Raise InputError for a proxy that no client supports; Prefect's client would fail even for loopback."""
    for name, url in getproxies_environment().items():
        kind = url.partition("://")[0] if "://" in url else "http"
        if name not in ("http", "https", "all"):
            continue
        variable = f"{name.upper()}_PROXY"
        if kind not in PROXIES:
            raise InputError(
                f"{variable} names a proxy of the kind {kind}://, which cannot be used; write http://, https:// or "
                f"socks5:// if that is what it is, or unset {variable}."
            )
        if kind.startswith("socks") and find_spec("socksio") is None:
            raise InputError(
                f"{variable} names a SOCKS proxy, for which a package is missing; pip install socksio, or unset "
                f"{variable}."
            )


def _refused(error: Exception) -> str:
    """Return the sentence for an error in Prefect's settings, with the place of the wrong setting."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return _invalid(error)
    said = cause(error).rstrip(".")
    places = [str(file) for file in _files() if file.name not in said]
    where = f"; they stand in {', '.join(places)}" if places and "toml" not in said else ""
    return f"Prefect cannot use its settings ({said}){where}; correct them."


def _invalid(error: "ValidationError") -> str:
    first = error.errors()[0]
    name, value = ".".join(map(str, first["loc"])), first["input"]
    holders = [variable for variable, held in os.environ.items() if variable.startswith("PREFECT_") and held == value]
    files = [str(file) for file in _files() if str(value) in file.read_text(encoding="utf-8", errors="replace")]
    where = ", ".join(holders or files) or error.title
    return f"Prefect's setting {name} cannot be {value!r} ({first['msg']}); correct it in {where}."


def _files() -> list[Path]:
    """Return the existing files from which Prefect reads settings."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    return [file for file in (Path(".env"), Path("prefect.toml"), Path("pyproject.toml"), profiles) if file.is_file()]
