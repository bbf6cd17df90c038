"""Load modules as plugins, without the installed plugins."""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith.offers import FILE_DISTRIBUTION, Plugin
from tunesmith.plugins import Plugins, create_manager, load_plugin


def load_modules(modules: Mapping[str, object]) -> Plugins:
    """Load these modules, given by plugin name, and no installed plugins."""
    plugins = Plugins(create_manager())
    for name, module in modules.items():
        module_name = str(vars(module).get("__name__", name))
        plugin = Plugin(name=name, distribution=FILE_DISTRIBUTION, version="", module=module_name)

        def load(module: object = module) -> object:
            return module

        plugins.found.append(load_plugin(plugins.manager, plugin, load))
    return plugins
