"""Run by itself, from any directory, against the installed wheel: the ledger loads and a planted case is measured."""

import tempfile
from pathlib import Path

from claimbench.evaluate import evaluate
from claimbench.ledger import claim_ids, load_claims
from claimbench.record import Samples, read_record
from claimbench.run import RunOptions, measure
from claimbench.selftest import planted_claims

with tempfile.TemporaryDirectory() as folder:
    options = RunOptions(out=Path(folder) / "run", quick=True, device="cpu")
    record = read_record(measure(options, (), {"claimbench.cases.planted": ["planted.sleep"]}))
    findings = evaluate(record, [claim for claim in planted_claims() if claim.id == "planted.sleep"]).findings
    if not list(record.of(Samples)) or findings[0].estimate is None or not 1 < findings[0].estimate < 4:
        raise SystemExit(f"a planted sleep of twice the length was not measured: {findings[0].reason}")
print(f"claimbench: {len(load_claims())} claims of {len(claim_ids())} ids; twice the sleep measured as twice the time")
