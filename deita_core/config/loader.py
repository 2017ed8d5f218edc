"""Settings from everywhere: a YAML file, then DEITA_* variables, then what the caller gives, each over those before."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from deita_core.errors import InputError

PREFIX = "DEITA_"
NESTED = "__"

Settings = TypeVar("Settings", bound=BaseModel)


def load(model: type[Settings], config: Path | None, flags: Mapping[str, Any]) -> Settings:
    """Settings of one kind; `flags` that are None are not given. Raises InputError naming the setting."""
    given = _given(flags)
    try:
        return model(**_over(_over(_read_yaml(config), _read_environment(model)), given))
    except ValidationError as error:
        raise InputError(_first_problem(model, error)) from None


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: _given(value) if isinstance(value, Mapping) else value for name, value in flags.items()}
    return {name: value for name, value in kept.items() if value is not None and value != {}}


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, with what is above first; settings within settings are merged one by one."""
    merged = {**below, **above}
    for name, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(name), Mapping):
            merged[name] = _over(below[name], value)
    return merged


def _read_yaml(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The settings file {config} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"The settings file {config} is not YAML: {str(error).splitlines()[0]}.") from error
    if isinstance(content, dict) and (odd := [name for name in content if not isinstance(name, str)]):
        raise InputError(f"The settings file {config} has a setting named {odd[0]!r}; names are words.")
    if content is not None and not isinstance(content, dict):
        raise InputError(f"The settings file {config} holds no settings; write one `name: value` on each line.")
    return content or {}


def _read_environment(model: type[BaseModel], prefix: str = PREFIX) -> dict[str, Any]:
    """DEITA_BUDGET=500, DEITA_LLM__MODEL=... and so on: only variables that name a setting."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        if inner := _inner(field):
            found |= {name: values} if (values := _read_environment(inner, variable + NESTED)) else {}
        elif variable in os.environ:
            found[name] = os.environ[variable]
    return found


def variables_of(model: type[BaseModel], prefix: str = PREFIX) -> Iterator[str]:
    """The names of the variables that settings of one kind are read from."""
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        if inner := _inner(field):
            yield from variables_of(inner, variable + NESTED)
        else:
            yield variable


def _inner(field: FieldInfo) -> type[BaseModel] | None:
    """The settings within a setting."""
    kinds = (field.annotation, *getattr(field.annotation, "__args__", ()))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _first_problem(model: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    owner, field = _find(model, path)
    if not path or (field is None and problem["type"] != "extra_forbidden") or problem["type"] == "value_error":
        sentence = problem["msg"].removeprefix("Value error, ")
        where = f"{'.'.join(path)}: " if path else ""
        return f"The settings do not fit together: {where}{sentence}."
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        hint = "; a key stands in DEITA_LLM__API_KEY only" if path[-1] == "api_key" else ""
        return f"There is no setting {name!r}; the settings are {', '.join(owner.model_fields)}{hint}."
    assert field is not None
    if problem["type"] == "missing":
        return f"The setting {name} is needed. ({field.description})" + _needs(name, field)
    return (
        f"The setting {name} cannot be {str(problem['input'])[:80]!r}: {problem['msg'].lower()}. ({field.description})"
    )


def _needs(name: str, field: FieldInfo) -> str:
    """What has to be given within a setting that holds settings."""
    inner = _inner(field)
    needed = [f"{name}.{part}" for part, f in inner.model_fields.items() if f.is_required()] if inner else []
    return f" Give {', '.join(needed)}." if needed else ""


def _find(model: type[BaseModel], path: list[str]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The settings that a path of names ends in, and the setting itself, if there is one."""
    field = None
    for position, name in enumerate(path):
        if name not in model.model_fields:
            # Beyond a setting the path goes on with the kinds of value that it may be.
            return model, field
        field = model.model_fields[name]
        if (inner := _inner(field)) and position < len(path) - 1:
            model = inner
            field = None
    return model, field
