"""A real ComfyUI server, headless on the CPU, with this pack in it: started, asked over its API, stopped."""

import json
import os
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
PACK_NAME = "ComfyUI-CineScene"
START_SECONDS = 120
RUN_SECONDS = 120


@dataclass(frozen=True)
class ComfyPaths:
    """Where a ComfyUI stands: `COMFYUI_PATH` (a checkout) and `COMFYUI_PYTHON` (its interpreter)."""

    checkout: Path
    python: Path
    base: Path
    """Temporary base directory with custom_nodes, models, input, output and user."""

    @property
    def version(self) -> str:
        text = (self.checkout / "comfyui_version.py").read_text(encoding="utf-8")
        return text.split('"')[1]

    @property
    def environment(self) -> dict[str, str]:
        """The server is not ours: it must not see this environment's packages. Small tensors need one thread."""
        return {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def run_script(self, name: str, *arguments: object, **environment: str) -> str:
        """Run a script of this folder in the host's Python, without a server; what it printed.

        Raises:
            RuntimeError: it failed.
        """
        command = [self.python, Path(__file__).parent / name, self.checkout, self.base, *arguments]
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.checkout,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def prepare(self) -> None:
        """Make the base directory, with this repository as a custom node."""
        for folder in ("custom_nodes", "models", "input", "output", "temp", "user/default"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        (self.base / "custom_nodes" / PACK_NAME).symlink_to(REPOSITORY, target_is_directory=True)
        settings = {"Comfy.TutorialCompleted": True}  # else a dialog covers the page
        (self.base / "user/default/comfy.settings.json").write_text(json.dumps(settings), encoding="utf-8")


@dataclass(frozen=True)
class Run:
    """What became of one queued prompt."""

    status: str
    """success, error or interrupted."""
    outputs: dict[str, Any]
    """What each node showed, by node id."""
    cached: frozenset[str]
    """Ids of nodes whose result was taken from an earlier run."""
    executed: frozenset[str]
    """Ids of nodes that ran."""
    error: str = ""
    """Message of the exception, if one ended the run."""
    seconds: float = 0.0


class RefusedError(Exception):
    """The server did not queue a prompt; the text holds every sentence it gave."""


@dataclass
class Host:
    """A running server."""

    paths: ComfyPaths
    port: int
    process: subprocess.Popen[bytes]
    log_path: Path
    _catalogue: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @classmethod
    def start(cls, paths: ComfyPaths) -> "Host":
        """Start the server and wait until it answers."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log_path = paths.base / "server.log"
        command = [str(paths.python), "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
        command += ["--base-directory", str(paths.base), "--disable-api-nodes", "--disable-auto-launch", "--log-stdout"]
        # A file: older hosts cannot scan their assets with a database in memory.
        command += ["--database-url", f"sqlite:///{paths.base / 'comfy.sqlite'}"]
        command += shlex.split(os.environ.get("COMFYUI_ARGS", ""))
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=paths.checkout, env=paths.environment, stdout=log, stderr=subprocess.STDOUT
            )
        host = cls(paths, port, process, log_path)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {process.returncode} at start:\n{host.log()[-4000:]}")
            try:
                host.get("/system_stats")
                return host
            except OSError:
                time.sleep(0.2)
        host.stop()
        raise TimeoutError(f"ComfyUI did not answer within {START_SECONDS} s:\n{host.log()[-4000:]}")

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        """Everything the server has printed."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        """JSON of a GET request."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def get_text(self, path: str) -> str:
        """Body of a GET request."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read().decode("utf-8")

    def post(self, path: str, data: dict[str, Any]) -> Any:
        """JSON of a POST request; None when the answer is empty."""
        request = urllib.request.Request(
            self.url + path, json.dumps(data).encode("utf-8"), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def nodes(self) -> dict[str, Any]:
        """The server's description of this pack's nodes, by node id; read once."""
        if not self._catalogue:
            found = self.get("/object_info")
            self._catalogue = {name: info for name, info in found.items() if name.startswith("CineScene")}
        return self._catalogue

    def submit(self, prompt: dict[str, Any]) -> str:
        """Queue a prompt in API form without waiting; return its id.

        Raises:
            RefusedError: the server found it invalid.
        """
        try:
            return self.post("/prompt", {"prompt": prompt, "client_id": "cinescene-tests"})["prompt_id"]
        except urllib.error.HTTPError as error:
            answer = json.loads(error.read())
            reasons = [answer.get("error", {}).get("message", "")]
            for node in answer.get("node_errors", {}).values():
                reasons += [f"{reason['message']}: {reason['details']}" for reason in node["errors"]]
            raise RefusedError("\n".join(reasons)) from error

    def wait(self, prompt_id: str, timeout: float = RUN_SECONDS) -> Run:
        """Wait for a queued prompt to end."""
        start = time.monotonic()
        while time.monotonic() < start + timeout:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return _as_run(history[prompt_id])
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended while it worked:\n{self.log()[-4000:]}")
            time.sleep(0.05)
        raise TimeoutError(f"The prompt did not end within {timeout} s:\n{self.log()[-4000:]}")

    def queue(self, prompt: dict[str, Any], timeout: float = RUN_SECONDS) -> Run:
        """Queue a prompt in API form and wait for its end; `Run.status` says how it went."""
        return self.wait(self.submit(prompt), timeout)

    def output_files(self, run: Run) -> list[Path]:
        """Every file the nodes of a run say they wrote."""
        files = []
        for shown in run.outputs.values():
            for entries in shown.values():
                for entry in entries if isinstance(entries, list) else ():
                    if isinstance(entry, dict) and "filename" in entry:
                        files.append(self.paths.base / entry["type"] / entry.get("subfolder", "") / entry["filename"])
        return files


def _as_run(record: dict[str, Any]) -> Run:
    """A history entry as a `Run`."""
    messages = dict(record["status"]["messages"])
    cached = frozenset(messages.get("execution_cached", {}).get("nodes", ()))
    status = "interrupted" if "execution_interrupted" in messages else record["status"]["status_str"]
    ended = next((messages[kind] for kind in messages if kind in _ENDS), {})
    started = messages.get("execution_start", {}).get("timestamp", 0)
    ran = frozenset(ended.get("executed", ())) or frozenset(record["prompt"][2]) - cached
    return Run(
        status=status,
        outputs=record["outputs"],
        cached=cached,
        executed=ran,
        error=messages.get("execution_error", {}).get("exception_message", "").strip(),
        seconds=(ended.get("timestamp", started) - started) / 1000,
    )


_ENDS = ("execution_success", "execution_error", "execution_interrupted")
