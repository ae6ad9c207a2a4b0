"""What a run was, for people and for programs: report.txt, report.json, the history beside them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.history import History
from tests.chaos.verdict import Findings


@dataclass
class Injected:
    """One fault. Times are of the history's clock; `skipped` says why it could not be had here."""

    name: str
    injected: int = 0
    healed: int = 0
    detail: str = ""
    meanwhile: str = ""
    skipped: str = ""


@dataclass
class Report:
    """`failure` is what ended the run early, with the members' last words."""

    seed: int
    seconds: float
    faults: list[Injected] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    failure: str = ""

    @property
    def verdict(self) -> str:
        return "illegal" if self.failure else self.findings.verdict

    def as_json(self, history: History) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "verdict": self.verdict,
            "failure": self.failure,
            "checked": dict(sorted(self.findings.checked.items())),
            "searches given up": self.findings.unknown,
            "anomalies": [each._asdict() for each in self.findings.anomalies],
            "faults": [asdict(each) for each in self.faults],
            "recovery": recoveries(self.faults, history),
        }

    def text(self, history: History) -> str:
        rows = self.as_json(history)
        lines = [
            f"seed {self.seed}, {self.seconds:g} s: {self.verdict}",
            "",
            *(f"{count:8}  {name}" for name, count in rows["checked"].items()),
            f"{self.findings.unknown:8}  searches given up",
            f"{len(self.findings.anomalies):8}  anomalies",
            "",
            f"{'fault':36}  times   seconds to a write, median and worst, after it",
            f"{'':36}          {'began':14}  ended",
            *_table(rows["recovery"]),
        ]
        if skipped := {each.name: each.skipped for each in self.faults if each.skipped}:
            lines += ["", "not injected:", *(f"  {n}: {why}" for n, why in skipped.items())]
        lines += ["", *(f"{each.check}: {each.text}" for each in self.findings.anomalies)]
        if self.failure:
            lines += ["", f"the run ended early: {self.failure}"]
        return "\n".join(lines).rstrip() + "\n"

    def save(self, folder: Path, history: History) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(self.as_json(history), indent=1) + "\n")
        (folder / "report.txt").write_text(self.text(history))
        history.save(folder / "history.jsonl")


def recoveries(faults: Iterable[Injected], history: History) -> dict[str, dict[str, Any]]:
    """By name: how often, and the seconds until a write was answered that began after the fault
    did, or after it ended. A write that somebody else's member answers counts: it is the cluster's.
    """
    writes = sorted(
        (each.called, each.returned or 0) for each in history.acknowledged() if each.request.writes
    )
    found: dict[str, dict[str, Any]] = defaultdict(lambda: {"times": 0, "began": [], "ended": []})
    for each in faults:
        if each.skipped:
            continue
        row = found[each.name]
        row["times"] += 1
        for word, start in (("began", each.injected), ("ended", each.healed)):
            if start:
                ends = (returned for called, returned in writes if called >= start)
                first = min(ends, default=None)
                if first is not None:
                    row[word].append(round((first - start) / 1e9, 3))
    return dict(sorted(found.items()))


def _table(rows: dict[str, dict[str, Any]]) -> Iterable[str]:
    for name, row in rows.items():
        cells = []
        for word in ("began", "ended"):
            seconds = sorted(row[word])
            middle = seconds[len(seconds) // 2] if seconds else float("nan")
            worst = seconds[-1] if seconds else float("nan")
            cells.append(f"{middle:6.2f}  {worst:6.2f}")
        yield f"{name:36}  {row['times']:5}   {'  '.join(cells)}"
