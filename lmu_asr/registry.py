"""Encoders and heads: every file of a package is one, found by its name.

A file that is dropped into the package is registered; nothing lists it. It holds

- ``Options``, a frozen dataclass of :func:`lmu_asr.options.opt` fields: the section
  ``model.<name>`` of the configuration;
- ``build``, which makes the module: see :mod:`lmu_asr.models.encoder` and
  :mod:`lmu_asr.models.head`.

Files whose names begin with an underscore are helpers. The files of this project import torch within
``build``, since every command reads their options, and torch takes two seconds to import.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType

from lmu_asr.errors import ConfigError


@dataclass(frozen=True)
class Registry:
    """What ``model.<key>`` can name: the modules of a package."""

    key: str
    package: str

    def names(self) -> tuple[str, ...]:
        """Names of all modules of the package now, sorted."""
        path = importlib.import_module(self.package).__path__
        found = {module.name for module in pkgutil.iter_modules(path)}
        return tuple(sorted(name for name in found if not name.startswith("_")))

    def module(self, name: str) -> ModuleType:
        """The module of one encoder or head.

        Raises:
            ConfigError: there is none, it cannot be imported, or it lacks a part.
        """
        if name not in self.names():
            known = ", ".join(self.names())
            raise ConfigError(f"model.{self.key}={name}: want one of {known}")
        full = f"{self.package}.{name}"
        try:
            module = importlib.import_module(full)
        except (ImportError, SyntaxError) as error:
            raise ConfigError(f"{full}: cannot be imported: {error}") from error
        options = getattr(module, "Options", None)
        if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
            raise ConfigError(f"{module.__file__}: want a dataclass Options; see {__name__}")
        if not callable(getattr(module, "build", None)):
            raise ConfigError(f"{module.__file__}: want a function build; see {__name__}")
        return module

    def options(self, name: str) -> type:
        """The dataclass of the options of one encoder or head; errors as of :meth:`module`."""
        found: type = self.module(name).Options
        return found


# configurations know the options of all modules; stamps follow the chosen one alone, where it is built
CHANGES_NO_OUTPUT = ("ENCODERS", "HEADS", "REGISTRIES")
ENCODERS = Registry("encoder", "lmu_asr.models.encoders")
HEADS = Registry("head", "lmu_asr.models.heads")
REGISTRIES = (ENCODERS, HEADS)
