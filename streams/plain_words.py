"""What is wrong with settings, in plain words: the key, what is wrong with its value, what is expected. Pure."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from driftline.schemas.text import for_log

SHOWN = 60  # characters of a wrong value
_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")
OURS = {"CONFIG", "READY_FILE"}  # variables that are no settings
_TESTS = "TEST_"


def wrong_values(error: ValidationError, settings: type[BaseModel], prefix: str, environment: Mapping[str, str]) -> list[str]:  # fmt: skip  # noqa: E501
    """One line for each problem, under the name by which the value was set: a variable, or a key of the file."""
    set_by = {name.upper(): name for name in environment}
    lines = []
    for detail in error.errors(include_url=False):
        keys = [str(part) for part in detail["loc"]]
        name = set_by.get(prefix + "__".join(keys).upper(), ".".join(keys))
        said = _say(detail, settings)
        lines.append(f"{name}: {said}" if name else said)
    return lines


def _say(detail: ErrorDetails, settings: type[BaseModel]) -> str:
    context, kind = detail.get("ctx", {}), detail["type"]
    secret = _is_secret(settings, detail["loc"])
    given = detail["input"]
    got = "" if secret or isinstance(given, dict | list | BaseModel) else f", got {for_log(repr(given), SHOWN)}"
    match kind:
        case "extra_forbidden":
            return _no_such_key(str(detail["loc"][-1]), _fields(settings, detail["loc"][:-1]))
        case "missing":
            return "is missing"
        case "literal_error" | "enum":
            return f"expected {context['expected']}{got}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
            bounds = " and ".join(f"{words[k]} {v}" for k, v in context.items() if k in words)
            why = f" ({reason})" if kind.startswith("less") and (reason := _reason(settings, detail["loc"])) else ""
            return f"expected {bounds}{why}{got}"
        case "string_pattern_mismatch":
            return f"expected a text of the form {context['pattern']}{got}"
        case "string_too_short" | "string_too_long" | "too_short" | "too_long":
            bound = "at least" if "short" in kind else "at most"
            many = context.get("min_length", context.get("max_length"))
            what = "characters" if isinstance(given, str) else "entries"
            return f"expected {bound} {many} {what}" + (f", it has {len(given)}" if hasattr(given, "__len__") else "")
        case "value_error":
            return str(context["error"])
    for begin, expected in _EXPECTED.items():
        if kind.startswith(begin):
            return f"expected {expected}{got}"
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}{got}"


_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text, in quotes",
    "path": "a path, in quotes",
    "model": "a section with keys",
    "dict": "a section with keys",
    "tuple": "a list",
    "list": "a list",
    "is_instance": "a text, in quotes",
}


def _no_such_key(key: str, known: list[str]) -> str:
    close = get_close_matches(key.lower(), known, n=1)
    if close:
        return f"there is no such key; did you mean {close[0]}?"
    return f"there is no such key; there are {', '.join(known)}" if known else "there is no such key"


def unknown_variables(environment: Mapping[str, str], prefix: str, settings: type[BaseModel]) -> Iterator[str]:
    """One line for each variable that looks as if it were to set something, and sets nothing."""
    known = {flat(name): name for name in _variables(settings, prefix)}
    sections = sorted(settings.model_fields)
    for name, value in sorted(environment.items()):
        rest = name.upper().removeprefix(prefix)
        if not name.upper().startswith(prefix) or rest in OURS or rest.startswith(_TESTS):
            continue
        section = rest.partition("__")[0].lower()
        if section in settings.model_fields:
            continue  # its keys are checked with all others
        if ("://" in value and rest.endswith("_PORT")) or (
            _KUBERNETES.search(rest) and flat(name.upper()) not in known
        ):
            continue  # Kubernetes tells every container so where services are
        close = known.get(flat(name.upper())) or next(
            (known[found] for found in get_close_matches(flat(name.upper()), list(known), n=1, cutoff=0.85)), None
        )
        if close:
            yield f"{name}: sets nothing; did you mean {close}?"
        elif "__" in rest:
            near = get_close_matches(section, sections, n=1)
            advice = f"did you mean {prefix}{near[0].upper()}__…?" if near else f"there are {', '.join(sections)}"
            yield f"{name}: there is no section {for_log(section, SHOWN)!r}; {advice}"
        elif rest.partition("_")[0].lower() in settings.model_fields:
            yield f"{name}: sets nothing; settings are named {prefix}<SECTION>__<KEY>, with two underscores"


def no_json(environment: Mapping[str, str], prefix: str, settings: type[BaseModel]) -> Iterator[str]:
    """One line for each variable that stands for a section or a list, and is no JSON."""
    for name, text in sorted(environment.items()):
        loc = name.upper().removeprefix(prefix).lower().split("__")
        if not name.upper().startswith(prefix) or _is_json(text):
            continue
        for annotation in _annotations(settings, loc):
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield f"{name}: expected JSON; single keys are {name}__<KEY>"
            elif any(_mentions(annotation, kind) for kind in (tuple, list, dict)) or _models(annotation):
                yield f"{name}: expected JSON"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def flat(name: str) -> str:
    return re.sub("_+", "_", name)


def _variables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        variable = prefix + name.upper()
        yield variable
        for inner in _models(field.annotation):
            yield from _variables(inner, f"{variable}__")


def _fields(settings: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that a section has; none where it is no section."""
    here: list[type[BaseModel]] = [settings]
    for part in loc:
        if isinstance(part, int):
            continue
        here = [m for model in here if part in model.model_fields for m in _models(model.model_fields[part].annotation)]
    return sorted({name for model in here for name in model.model_fields})


def _is_secret(settings: type[BaseModel], loc: tuple[int | str, ...]) -> bool:
    """Also where nothing is known of it: what stands under a mistyped key may be a secret."""
    here = _annotations(settings, loc)
    return not here or any(_mentions(annotation, SecretStr) for annotation in here)


def _annotations(settings: type[BaseModel], loc: Sequence[int | str]) -> list[Any]:
    """Of a key, in every form in which its sections may be; none: there is no such key."""
    here: list[Any] = [settings]
    for part in loc:
        if isinstance(part, str):
            models = [model for annotation in here for model in _models(annotation)]
            here = [model.model_fields[part].annotation for model in models if part in model.model_fields]
    return here


def _reason(settings: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """Why a number has an upper bound: the description of its field. Empty: none is needed."""
    *sections, name = [part for part in loc if isinstance(part, str)]
    models = [model for annotation in _annotations(settings, sections) for model in _models(annotation)]
    described = (model.model_fields[name].description for model in models if name in model.model_fields)
    return next(filter(None, described), "")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _mentions(annotation: Any, wanted: type) -> bool:
    return (
        annotation is wanted
        or get_origin(annotation) is wanted
        or any(_mentions(part, wanted) for part in get_args(annotation))
    )
