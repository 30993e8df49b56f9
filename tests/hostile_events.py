"""Events and results of which every text is a hostile one."""

from typing import Any

from msgspec import inspect

LONG = 5_000  # characters of a text that may be of any length
TS = 1_793_606_400_000_000


def filled(kind: type, text: str, **known: Any) -> Any:
    """An instance of a struct: each text is `text`, as long as the field may be, each number small."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return kind(**{field.name: known.get(field.name, _value(field.type, text)) for field in info.fields})


def _value(kind: inspect.Type, text: str) -> Any:
    match kind:
        case inspect.StrType():
            return text[: kind.max_length or LONG]
        case inspect.BytesType():
            return text[:LONG].encode()
        case inspect.IntType():
            return kind.ge or 1
        case inspect.FloatType():
            return 0.5
        case inspect.BoolType():
            return True
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.UnionType():
            return _value(kind.types[0], text)
        case inspect.Metadata():
            return _value(kind.type, text)
        case inspect.ListType():
            return [_value(kind.item_type, text)]
        case inspect.DictType():
            return {_value(kind.key_type, text): _value(kind.value_type, text)}
        case inspect.StructType():
            return filled(kind.cls, text)
    raise NotImplementedError(kind)
