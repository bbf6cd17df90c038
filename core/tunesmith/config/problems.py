"""Convert validation errors to problems of a run file, each with a hint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ValidationError

from tunesmith.errors import Problem
from tunesmith.options import earlier_keys, fields_by_key, nested_options, table_options
from tunesmith.renamed import find_present_name
from tunesmith.text import suggest_name

_UNION_BRANCHES = {"float", "int", "str", "bool", "constrained-float", "constrained-int"}


def convert_problems(
    error: ValidationError, table: str, model: type[BaseModel]
) -> Iterator[Problem]:
    """Convert the errors of a pydantic validation to problems of a run file."""
    seen = set()
    for item in error.errors(include_url=False):
        unknown = item["type"] == "extra_forbidden"
        # For an unknown key, the location ends with the key that the user wrote.
        path, options = _follow_location(model, item["loc"][:-1] if unknown else item["loc"])
        if unknown:
            path.append(str(item["loc"][-1]))
        where = ".".join([table, *path]) if table else ".".join(path)
        if unknown:
            problem = _unknown_key(where, path[-1], options)
        elif item["type"] == "missing":
            problem = Problem(where, "is required, but missing")
        elif item["type"] in ("model_type", "model_attributes_type"):
            problem = _not_a_table(where, item["input"], options)
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = (message[:1].lower() + message[1:]).removeprefix("input ")
            whole = item["type"] == "value_error" and isinstance(item["input"], dict)
            got = "" if whole else f", got {item['input']!r}"  # not a table with all its keys
            problem = Problem(where, f"{message}{got}"[:300])
        if problem.where not in seen or unknown:
            seen.add(problem.where)
            yield problem


def _unknown_key(where: str, key: str, options: type[BaseModel]) -> Problem:
    """Return a problem for an unknown key; its hint is the new name or the most similar key."""
    if present := earlier_keys(options).get(key) or _find_renamed(key, options):
        return Problem(where, f'was renamed to "{present}"')
    guess = suggest_name(key, fields_by_key(options))
    if guess is None:  # the key may exist in a table inside this one
        inner = _keys_of_inner_tables(options)
        guess = inner.get(suggest_name(key, inner) or "")
    known = f"keys: {', '.join(fields_by_key(options))}"
    return Problem(where, "unknown key", f'did you mean "{guess}"?' if guess else known)


def _find_renamed(key: str, options: type[BaseModel]) -> str | None:
    """Return the current name of a key that was renamed before version 0.1, or None."""
    # test_size belongs to the core, although it is in the data loader's table.
    return find_present_name(key, {*fields_by_key(options), "test_size"})


def _not_a_table(where: str, value: object, options: type[BaseModel]) -> Problem:
    """Return a problem for a value that should be a table of options."""
    key = next(iter(fields_by_key(options)), None)
    hint = f"write {where.rpartition('.')[2]}.{key} = ..." if key else None
    return Problem(where, f"must be a table, got {value!r}"[:300], hint)


def _follow_location(
    options: type[BaseModel], location: Sequence[str | int]
) -> tuple[list[str], type[BaseModel]]:
    """Return the keys in pydantic's error location, and the options class that contains the last.

    A location also names the branches of unions, which are not keys.
    """
    path: list[str] = []
    for part in location:
        field = fields_by_key(options).get(str(part))
        if field is None and _is_union_branch(part):
            continue
        path.append(str(part))
        if field is not None:
            options = nested_options(field.annotation) or options
    return path, options


def _keys_of_inner_tables(options: type[BaseModel]) -> dict[str, str]:
    """Map the last part of each dotted key to the whole key, for all nested tables of a table."""
    keys: dict[str, str] = {}
    for name, field in fields_by_key(options).items():
        inner = table_options(field)
        if inner is not None:
            deeper = _keys_of_inner_tables(inner)
            own = {key: key for key in fields_by_key(inner)}
            keys |= {key: f"{name}.{dotted}" for key, dotted in {**deeper, **own}.items()}
    return keys


def _is_union_branch(part: str | int) -> bool:
    """Return True if a location part that is not a key names a branch of a union type."""
    return "[" in str(part) or part in _UNION_BRANCHES
