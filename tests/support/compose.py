"""docker-compose.yml without Docker: its commands, with its environment and nothing else, its mounts as folders."""

import asyncio
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, str]]:
    """What the last stage of the Dockerfile does: (word, what follows)."""
    text = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    found = [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines if line)]
    start = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def value(word: str) -> str:
    """What the image's last instruction of this kind says."""
    return next(rest for one, rest in reversed(instructions()) if one == word)


@dataclass(slots=True)
class Container:
    """The service `relay`: its folders are below `folder`, its port is the system's choice."""

    folder: Path
    log: Path = field(init=False)
    # By where they are in the container.
    folders: dict[str, Path] = field(init=False)
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        service = COMPOSE["services"]["relay"]
        self.log = self.folder / "log"
        mounts = [_mount(one) for one in service["volumes"]] + [one.partition(":")[0] for one in service["tmpfs"]]
        self.folders = {there: self.folder / there.strip("/").replace("/", "-") for there in mounts}
        for made in self.folders.values():
            made.mkdir(mode=0o700)
        set_by_image = " ".join(rest for word, rest in instructions() if word == "ENV")
        image = dict(re.findall(r"(\w+)=\"?([^\" ]+)", set_by_image))
        image["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        self.environment = {
            "HOME": self.here(value("WORKDIR")),
            "TMPDIR": self.here("/tmp"),
            "PYTHONPATH": str(ROOT),
            **{name: self.here(text) for name, text in (image | service["environment"]).items()},
        }
        self.environment["RELAY_WEB__LISTEN"] = self.environment["RELAY_WEB__LISTEN"].replace(":9464", ":0")

    def here(self, text: str) -> str:
        """A path of the container, or something with one in it, on this machine."""
        places = "|".join(self.folders)
        return re.sub(rf"(?<![\w.])({places})(?=/|$)", lambda found: str(self.folders[found[0]]), text)

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """The image's command, or another one for the relay."""
        entry = json.loads(value("ENTRYPOINT"))
        assert entry == ["relay"]
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "relay", *(arguments or json.loads(value("CMD")))),
                cwd=self.here(value("WORKDIR")),
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def relay(self, *arguments: str) -> tuple[int, str]:
        """`docker compose run --rm relay …`, or `exec relay relay …`: its exit status and what it wrote."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        process = await self.start(*arguments)
        return await process.wait(), self.log.read_text(encoding="utf-8", errors="replace")[begin:]

    def memory_for_files(self) -> int:
        """Bytes that there are for files on their way."""
        [found] = [re.findall(r":size=(\d+)g", one) for one in COMPOSE["services"]["relay"]["tmpfs"]]
        return int(found[0]) * 1024**3

    def url(self) -> str | None:
        """Where its web server listens, on loopback; None before it does."""
        found = re.findall(r'"url": "http://[^:"]+:(\d+)/"', self.log.read_text(encoding="utf-8", errors="replace"))
        return f"http://127.0.0.1:{found[-1]}" if found else None

    async def is_healthy(self) -> bool:
        """What the image's health check says."""
        (_, _, command) = value("HEALTHCHECK").partition("CMD ")
        program, *arguments = json.loads(command)
        assert (program, command.count("http://127.0.0.1:9464/")) == ("python", 1)
        arguments = [one.replace("http://127.0.0.1:9464", self.url() or "http://127.0.0.1:9") for one in arguments]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=self.environment, stderr=asyncio.subprocess.DEVNULL
        )
        return await process.wait() == 0


def _mount(volume: Any) -> str:
    """Where a volume of a service is in the container."""
    return str(volume["target"] if isinstance(volume, dict) else volume.split(":")[1])
