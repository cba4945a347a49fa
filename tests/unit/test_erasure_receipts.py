"""The receipt of an erasure, which a third party checks with an export of the audit log."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec import structs

from app.cli import main
from app.contracts.audit import AuditEntry
from app.contracts.callers import ADMIN, Caller
from app.contracts.commands import Origin, StartCommand
from app.contracts.errors import StoreUnavailableError
from app.contracts.results import Erasure
from app.contracts.wire.administration import erasure_receipt_view, erasure_view
from app.contracts.wire.audit import audit_entry_view
from app.contracts.wire.encoding import encode
from app.services.administration.erasure_receipts import receipt_fault
from tests.support.fake_audit import FakeAuditStore
from tests.support.rig import Rig, rig

ROOT = Origin(Caller("root", scopes=frozenset({ADMIN})), client="http")
USER = 'ada "Ä" \\ €😀'
PAGE = Path(__file__).parents[2] / "docs/operations/audit.md"
pytestmark = pytest.mark.expected_logs("delivery incomplete, records stay in outboxes", optional=True)


@pytest.fixture(autouse=True)
def no_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay does not run here."""
    monkeypatch.setattr("app.services.administration.personal_data.MAX_DRAIN_SECONDS", 0.0)


async def erased(user: str = "ada") -> tuple[Rig, Erasure]:
    made = await rig()
    await made.flows.start_flow(user, "loop", StartCommand(payload={"iban": "DE02"}))
    return made, await made.service.personal_data.erase(user, ROOT)


def files(folder: Path, made: Rig, done: Erasure) -> tuple[Path, Path]:
    """Write an export of the log, and the output of ``user erase``."""
    log, receipt = folder / "audit.jsonl", folder / "receipt.json"
    entries = [entry for entry in made.audit_store.entries if isinstance(entry, AuditEntry)]
    log.write_bytes(b"".join(encode(audit_entry_view(entry)) + b"\n" for entry in entries))
    receipt.write_bytes(encode(erasure_view(done)))
    return log, receipt


def last(made: Rig) -> AuditEntry:
    entry = made.audit_store.entries[-1]
    assert isinstance(entry, AuditEntry)
    return entry


async def test_the_entry_of_an_erasure_does_not_name_the_user() -> None:
    made, done = await erased()
    entry = last(made)
    assert done.receipt is not None
    assert (entry.act.action, entry.outcome, entry.sequence) == (
        "user.erase",
        "done",
        done.receipt.audit_sequence,
    )
    words = re.findall(r"\w+", repr(made.audit_store.entries))  # a hash may have these letters too
    assert "ada" not in words
    assert done.receipt.claims.salt not in repr(made.audit_store.entries)
    assert [chain.hash for chain in done.receipt.claims.chains] == [done.receipts[0].hash]


async def test_who_erases_their_own_data_is_not_named_either() -> None:
    made = await rig()
    own = Origin(Caller("root", scopes=frozenset({ADMIN})), client="http")
    await made.service.personal_data.erase("root", own)
    assert "root" not in repr(made.audit_store.entries)


async def test_another_erasure_has_another_pseudonym_and_receipt() -> None:
    made, first = await erased()
    second = await made.service.personal_data.erase("ada", ROOT)
    assert first.receipt is not None
    assert second.receipt is not None
    assert first.receipt.claims.salt != second.receipt.claims.salt
    assert len({entry.act.target for entry in made.audit_store.entries if isinstance(entry, AuditEntry)}) == 3
    assert receipt_fault(erasure_receipt_view(second.receipt), last(made)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"user_id": "bob"},
        {"salt": "00"},
        {"records_erased": 7},
        {"destroyed_keys": ("ab",)},
        {"actor": "bob"},
        {"chains": ()},
        {"at": "2020-01-01T00:00:00.000Z"},
    ],
)
async def test_a_changed_receipt_is_not_confirmed(changes: dict[str, Any]) -> None:
    made, done = await erased()
    assert done.receipt is not None
    receipt = erasure_receipt_view(done.receipt)
    assert receipt_fault(receipt, last(made)) is None
    changed = structs.replace(receipt, claims=structs.replace(receipt.claims, **changes))
    assert receipt_fault(changed, last(made)) is not None
    assert receipt_fault(structs.replace(receipt, audit_hash="00"), last(made)) is not None
    assert receipt_fault(receipt, None) is not None


@pytest.mark.expected_logs("audit entry delayed")
async def test_an_erasure_without_a_proof_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await rig()
    await made.flows.start_flow("ada", "loop", StartCommand(payload={"iban": "DE02"}))
    store: FakeAuditStore = made.audit_store
    erase = made.letters.delete_of_state

    async def then_fail(state_id: Any) -> None:
        await erase(state_id)
        store.unavailable = True

    monkeypatch.setattr(made.letters, "delete_of_state", then_fail)
    with pytest.raises(StoreUnavailableError):
        await made.service.personal_data.erase("ada", ROOT)
    monkeypatch.setattr(made.letters, "delete_of_state", erase)
    store.unavailable = False
    done = await made.service.personal_data.erase("ada", ROOT)
    await made.service.audit.close()
    assert done.receipt is not None
    found = await made.service.audit.verify()
    assert (found.broken, found.unfinished) == (None, ())


async def test_the_command_checks_an_export_and_a_receipt_offline(tmp_path: Path) -> None:
    made, done = await erased(USER)
    log, receipt = files(tmp_path, made, done)
    words = ["audit", "verify", "--file", str(log), "--receipt", str(receipt)]
    answer = CliRunner().invoke(main, words)
    assert answer.exit_code == 0, answer.output
    assert answer.output.splitlines() == [
        f"entries: {len(made.audit_store.entries)}",
        f"head: {last(made).hash}",
        "chain: whole",
        "receipt: confirmed",
    ]
    assert CliRunner().invoke(main, [*words, "--expect-head", "00"]).exit_code == 1
    receipt.write_text(receipt.read_text().replace('"recordsErased":1', '"recordsErased":2'))
    assert "receipt: not confirmed" in CliRunner().invoke(main, words).output
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0].replace('"version":1', '"version":2'), *lines[1:]]))
    answer = CliRunner().invoke(main, words[:4])
    assert answer.exit_code == 1
    assert "chain: broken at entry 1, it was changed" in answer.output
    log.write_text("{}\n")
    assert "line 1 cannot be read" in CliRunner().invoke(main, words[:4]).output


async def test_the_program_of_the_documentation_checks_a_receipt(tmp_path: Path) -> None:
    made, done = await erased(USER)
    log, receipt = files(tmp_path, made, done)
    program = re.search(r"```python\n(# check_erasure\.py\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert program is not None
    script = tmp_path / "check_erasure.py"
    script.write_text(program[1])

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(script), str(log), str(receipt)],
            capture_output=True,
            text=True,
            check=False,
        )

    answer = run()
    assert answer.returncode == 0, answer.stderr
    found = json.loads(receipt.read_text())
    for path, value in (("userId", "bob"), ("recordsErased", 9), ("salt", "00")):
        changed = json.loads(receipt.read_text())
        changed["receipt"]["claims"][path] = value
        receipt.write_text(json.dumps(changed))
        assert run().returncode != 0
        receipt.write_text(json.dumps(found))
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:1] + lines[2:]))
    assert run().returncode != 0
