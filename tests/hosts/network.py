"""Hosts on this machine: each with network, name, processes, /tmp and shared memory of its own, on one switch.

Nothing of it is seen from outside, and nothing is left behind: a host's first process ends when this one closes its
pipe or dies, and the kernel then ends all that ran there and removes its namespaces.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SUBNET = "10.77.0"
_NAMESPACES = ("--net", "--uts", "--mount", "--pid", "--ipc")
_ENDS_WITHIN_S = 30.0


def why_missing() -> str:
    """Say what keeps hosts from being made here; empty if nothing does."""
    missing = [program for program in ("unshare", "nsenter", "ip") if shutil.which(program) is None]
    if missing:
        return f"needs the programs {', '.join(missing)}"
    allowed = subprocess.run(["unshare", *_NAMESPACES, "--fork", "true"], check=False, capture_output=True)
    return "needs the right to make namespaces (root)" if allowed.returncode else ""


class Process:
    """A process on a host, with all that it starts."""

    def __init__(self, host: "Host", command: Sequence[str], environment: Mapping[str, str], log: Path, cwd: Path):
        self.log = log
        with log.open("ab") as out:
            self._entered = subprocess.Popen(
                [*host.enter, *command], env=dict(environment), cwd=cwd, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._entered.poll()

    def wait(self, timeout_s: float) -> int:
        """Wait for its end."""
        return self._entered.wait(timeout_s)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to it and to all that it started in its session, and wait until it has ended."""
        if self.code is None:
            os.killpg(self._entered.pid, how)
            try:
                self._entered.wait(_ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._entered.pid, signal.SIGKILL)
                self._entered.wait()
        deadline = time.monotonic() + _ENDS_WITHIN_S
        while _session_lives(self._entered.pid):  # nsenter ends at once, what it entered a little later
            if time.monotonic() > deadline:
                os.killpg(self._entered.pid, signal.SIGKILL)
            time.sleep(0.05)


class Host:
    """One host; `tmp` and `home` are its own folders, seen from outside."""

    def __init__(self, network: "Network", name: str, number: int, folder: Path) -> None:
        self.name = name
        self.address = f"{SUBNET}.{number}"
        self.folder = folder
        self.home = folder / "home"
        self.tmp = folder / "tmp"
        for place in (self.home, self.tmp):
            place.mkdir(parents=True)
        self.tmp.chmod(0o1777)
        self._network = network
        self._port = f"port-{number}"
        self._first = _first_process(
            f"hostname {name} && mount --bind {self.tmp} /tmp && mount -t tmpfs tmpfs /dev/shm "
            f"&& mount --bind {network.names} /etc/hosts && ip link set lo up",
            ("--fork", "--kill-child", "--mount-proc", *_NAMESPACES),
        )
        self._pid = int(Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text().split()[0])
        self._connect()

    @property
    def enter(self) -> list[str]:
        """What runs a command on this host."""
        return ["nsenter", "--target", str(self._pid), *_NAMESPACES]

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a command here and return what it prints."""
        done = subprocess.run(
            [*self.enter, *command], env=None if environment is None else dict(environment),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)} on {self.name}: {done.stderr}"
        return done.stdout

    def cut_off(self) -> None:
        """Take its cable out: packets are lost, nobody is told."""
        self._network.on_switch("ip", "link", "set", self._port, "down")

    def plug_in(self) -> None:
        """Put it in again."""
        self._network.on_switch("ip", "link", "set", self._port, "up")

    def processes(self, part: str) -> list[int]:
        """Return the processes here whose command line holds `part`, oldest first, by their ids outside."""
        mine = os.readlink(f"/proc/{self._pid}/ns/pid")
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(place / "ns" / "pid") == mine and part in _command_line(place):
                    found.append(int(place.name))
            except OSError:  # it ended meanwhile, or is none of ours
                continue
        return sorted(found)

    def stop(self) -> None:
        """End the host as a power cut does."""
        _end(self._first)

    def _connect(self) -> None:
        switch = str(self._network.switch.pid)
        _call("ip", "link", "add", self._port, "netns", switch, "type", "veth", "peer", "eth0", "netns", str(self._pid))
        self._network.on_switch("ip", "link", "set", self._port, "master", "switch", "up")
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")


class Network:
    """A switch and the hosts on it; each knows all by name."""

    def __init__(self, folder: Path, numbers: Mapping[str, int]) -> None:
        """Make the hosts.

        Args:
            folder: below which each host has a folder.
            numbers: the last part of each host's address, by its name.
        """
        self.names = folder / "hosts"
        lines = ["127.0.0.1 localhost", *(f"{SUBNET}.{number} {name}" for name, number in numbers.items())]
        self.names.write_text("\n".join(lines) + "\n")
        self.hosts: dict[str, Host] = {}
        self.switch = _first_process("ip link add switch type bridge && ip link set switch up", ("--net",))
        try:
            for name, number in numbers.items():
                self.hosts[name] = Host(self, name, number, folder / name)
        except BaseException:
            self.stop()
            raise

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts.values())

    def on_switch(self, *command: str) -> None:
        """Run a command where the switch is."""
        _call("nsenter", "--target", str(self.switch.pid), "--net", *command)

    def stop(self) -> None:
        """End everything."""
        for host in self:
            host.stop()
        _end(self.switch)


def _first_process(prepare: str, namespaces: Sequence[str]) -> "subprocess.Popen[str]":
    """Start a process in namespaces of its own that lives as long as the pipe to it.

    It is a shell that waits for `cat`: like an init system it buries whatever lost its parent.
    """
    process = subprocess.Popen(
        ["unshare", *namespaces, "sh", "-c", f"{prepare} && echo ready && cat; :"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", f"cannot make a host: {prepare}"
    return process


def _end(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait(_ENDS_WITHIN_S)


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def parent_of(process: int) -> int:
    """Return the parent's id, seen from outside; 0 for a process that has ended."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])


def _command_line(place: Path) -> str:
    return (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _session_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
