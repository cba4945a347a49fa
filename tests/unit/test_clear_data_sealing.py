"""Sealing of data of before the encryption: every page of every collection, with an audit entry."""

from collections.abc import Sequence

from app.contracts.audit import AuditEntry
from app.contracts.ports.keys import SealedPage
from app.services.administration.clear_data import ClearDataSealing, SealingReport
from tests.support.rig import Rig


class FakeClearData:
    """Collections of three pages; one document of each page is in the clear until it was read once."""

    collections: Sequence[str] = ("flow_states", "flow_history")

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []

    async def seal_page(self, collection: str, after: str, limit: int) -> SealedPage:
        sealed = 0 if (collection, after) in self.read else 1
        self.read.append((collection, after))
        return SealedPage(limit, sealed, None if after == "bb" else f"{after}b")


async def test_all_pages_are_sealed_once_with_progress_and_an_audit_entry() -> None:
    rig = Rig()
    audit = rig.service.audit
    data = FakeClearData()
    seen: list[tuple[str, int, int]] = []
    sealing = ClearDataSealing(data, audit)
    report = await sealing.seal(lambda *progress: seen.append(progress), caller="root")
    assert report == SealingReport(checked=1200, sealed=6)
    assert data.read == [(name, after) for name in data.collections for after in ("", "b", "bb")]
    assert seen[2] == ("flow_states", 600, 3)
    assert seen[-1] == ("flow_history", 600, 3)
    done = rig.audit_store.entries[-1]
    assert isinstance(done, AuditEntry)
    assert (done.act.action, done.act.actor) == ("keys.seal", "root")
    assert done.act.details == {"checked": 1200, "sealed": 6}
    assert (await sealing.seal()).sealed == 0
