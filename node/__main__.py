"""`esker`: one member of a cluster, or `esker local`, a cluster of three on this machine.

Exit codes: 0 after a signal, 1 when the member could not start or had to stop, 2 for settings that
are wrong.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from mvcc.errors import MvccError
from node import logs
from node.bootstrap import BootstrapError
from node.config import ConfigError, NodeConfig, load, usage
from node.failpoint import Failpoints, UnknownFailpoint
from node.member import Member
from node.seams import Seams
from node.version import API_VERSION, VERSION
from raft.core.errors import RaftError

log = logging.getLogger("esker")

_EXPECTED = (BootstrapError, RaftError, MvccError, OSError, ValueError)


def main() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    if sys.flags.optimize:
        sys.exit("esker: refusing to run without its assertions (python -O)")
    if arguments[:1] == ["local"]:
        from node.local import main as local

        sys.exit(local(arguments[1:]))
    if arguments[:1] in (["--help"], ["-h"], ["-help"], ["help"]):
        print(usage())
        return
    if arguments[:1] in (["--version"], ["-version"], ["version"]):
        print(f"esker Version: {VERSION}\netcd API Version: {API_VERSION}")
        return
    try:
        config = load(arguments, os.environ)
        failpoints = Failpoints.from_environment(os.environ)
    except ConfigError as error:
        print("\n".join(f"esker: {fault}" for fault in error.faults), file=sys.stderr)
        sys.exit(2)
    except UnknownFailpoint as error:
        print(f"esker: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(config, failpoints))


def run(config: NodeConfig, failpoints: Failpoints) -> int:
    """Run one member until a signal; the exit code."""
    logs.configure(level=config.log_level, outputs=config.log_outputs, node=config.name)
    for note in config.notes:
        log.warning(note)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(config, failpoints))
    except _EXPECTED as error:
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        log.critical("cannot go on", extra={"why": f"{kind}{logs.reason(error)}"})
        return 1
    return 0


async def _serve(config: NodeConfig, failpoints: Failpoints) -> None:
    member = Member(config, Seams(hit=failpoints.function))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, member.stop)
    await member.run()


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop  # type: ignore[return-value]


if __name__ == "__main__":
    main()
