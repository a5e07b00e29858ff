"""Several communities in one process: `tenants = "tenants.d"` in relay.toml names a folder of their files.

relay.toml then has `[store]`, `[web]` and `[log]`, which are the process's, and each tenant's file has the rest, as
relay.toml has it for one community. The environment speaks of relay.toml only.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from relay.config.loading import anchored, checked, refuse_inline_tenants, validate
from relay.config.mistakes import Location, did_you_mean
from relay.config.settings import LogSettings, Settings, StoreSettings, WebSettings, example, locate
from relay.config.sources import gather
from relay.config.store_url import of_tenant, passwords_of
from relay.errors import ConfigurationError, Mistake

_NAME = re.compile(r"[a-z0-9_]{1,40}")
_OF_THE_PROCESS = ("store", "log")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """relay.toml where it has tenants."""

    # The folder of the tenants' files.
    tenants: str = field(metadata=example('"tenants.d"'))
    store: StoreSettings
    web: WebSettings
    log: LogSettings

    def secrets(self) -> frozenset[str]:
        """The values that must never be printed."""
        token = self.web.token
        return frozenset(() if token is None else (token.get_secret_value(),)).union(passwords_of(self.store.url))


@dataclass(frozen=True, slots=True)
class Host:
    """A configuration with tenants."""

    # relay.toml.
    file: Path
    folder: Path
    settings: HostSettings

    def files(self) -> Mapping[str, Path]:
        """The tenants' files by their names; what is called otherwise is not a tenant's."""
        try:
            found = sorted(self.folder.glob("*.toml"))
        except OSError:
            return {}
        return {path.stem: path for path in found if _NAME.fullmatch(path.stem)}

    def path_of(self, tenant: str) -> Path:
        """A tenant's file. Raises `ConfigurationError` if there is none."""
        path = self.folder / f"{tenant}.toml"
        if not _NAME.fullmatch(tenant) or not os.path.lexists(path):
            files = self.files()
            none = f"there is none in {self.folder}: write a file for each, like name.toml"
            remedy = did_you_mean(tenant, files) if files else none
            raise ConfigurationError.of("--tenant", "there is no such tenant", remedy)
        return path

    def load(
        self, tenant: str, text: str | None = None, options: Mapping[Location, str] = MappingProxyType({})
    ) -> Settings:
        """The settings of a tenant. `text`: what its file is to say. Raises `ConfigurationError`."""
        source = gather(self.path_of(tenant), {}, Settings, text, options)
        for section in _OF_THE_PROCESS:
            if source.values.pop(section, None) is not None:
                remedy = f"write it into {self.file}: it is the same for all tenants"
                source.mistakes.append(
                    Mistake(source.origin.where((section,)), f"a tenant has no [{section}] of its own", remedy)
                )
        web = source.values.get("web", {})
        if isinstance(web, dict):
            source.values["web"] = {"listen": "", **web}
        settings = checked(source)
        store = self.settings.store
        own = replace(store, url=of_tenant(store.url, tenant))
        return replace(settings, store=own, log=self.settings.log)


def load_host(path: Path | None, environ: Mapping[str, str]) -> Host | None:
    """The configuration, if it has tenants; None if it is that of one community. Raises `ConfigurationError`."""
    file = locate(path, environ)
    source = gather(file, environ, HostSettings)
    if source.broken or "tenants" not in source.values:
        return None
    refuse_inline_tenants(source)
    settings, mistakes = validate(source, HostSettings)
    if settings is not None and not (folder := file.parent / settings.tenants).is_dir():
        mistakes.append(Mistake(source.origin.where(("tenants",)), f"there is no folder {folder}", "make it"))
    if settings is None or mistakes or source.mistakes:
        raise ConfigurationError(tuple(dict.fromkeys((*source.mistakes, *mistakes))))
    store = replace(settings.store, url=anchored(settings.store.url, file.parent))
    return Host(file, file.parent / settings.tenants, replace(settings, store=store))
