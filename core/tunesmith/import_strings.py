"""Import strings, which name a class or function that is only imported when it is needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_CORRECT_IT = 'correct the import string, "package.module:name"'


class ImportString(str):
    """The import string of a class or function, ``package.module:name``.

    A call with arguments imports the object and calls it; a call without arguments returns it.
    """

    def __call__(self, *arguments: Any) -> Any:
        found = self.load()
        return found(*arguments) if arguments else found

    def load(self) -> Any:
        """Import the object that the string names.

        Raises:
            ImportError: the module does not exist, or does not define the name.
        """
        path, _, name = self.partition(":")
        try:
            module = import_module(path)
        except ModuleNotFoundError as error:
            if not f"{path}.".startswith(f"{error.name}."):  # a library that the module needs
                raise
            raise ImportError(f'"{self}": no module named "{error.name}"; {_CORRECT_IT}') from None
        if name not in vars(module):
            raise ImportError(f'"{self}": {module.__file__} has no "{name}"; {_CORRECT_IT}')
        return vars(module)[name]


class Imported(Generic[T]):
    """A dataclass field that contains a class or function, or its import string."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> T:
        if instance is None:  # dataclasses ask a descriptor for the default; this field has none
            raise AttributeError(self.name)
        value: T = vars(instance)[self.name]
        return value

    def __set__(self, instance: object, value: T | str) -> None:
        vars(instance)[self.name] = ImportString(value) if isinstance(value, str) else value
