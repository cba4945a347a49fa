"""A pure model of one user's state in one flow, written from the documents.

States and records are plain dicts; what is absent has no key. Epochs are the numbers of the lives.
"""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from tests.support.model_conflicts import merge
from tests.support.model_values import Command, Step, Version

State = dict[str, Any]
Answer = Any
TERMINAL_STATUSES = ("cleared", "expired")
REPAIRS = ("reset", "set", "clear")
IDEMPOTENCY_WINDOW = timedelta(hours=24)
MILLISECOND = timedelta(milliseconds=1)
OF_THE_STEP = ("timeout_at", "timeout_left_ms")


class Origin(NamedTuple):
    """``expected``: the revision, and the life if that is asked for too."""

    actor: str
    request_id: str | None = None
    expected: tuple[int, int | None] | None = None


class Change(NamedTuple):
    """The change that a command makes, without the members that every commit sets."""

    kind: str
    transition: str
    after: State
    payload: dict[str, Any]
    merged: list[State] = []


class RememberedRequest(NamedTuple):
    """A request that changed something."""

    command: Command
    answer: Answer
    at: datetime


class RefusedError(Exception):
    """Carries the code of the interface."""


class Model:
    """``state`` is what is stored, also when it ended; ``damaged``: it cannot be read."""

    def __init__(self, who: State, versions: list[Version], max_payload_bytes: int) -> None:
        self.who = who
        self.versions = versions
        self.state: State | None = None
        self.damaged = False
        self.lives = 0
        self.history: list[State] = []
        self.memory: dict[tuple[str, str], RememberedRequest] = {}
        self._max_payload_bytes = max_payload_bytes

    def read(self, now: datetime) -> Answer:
        if self.damaged:
            raise RefusedError("FLOW_STATE_CORRUPTION")
        present = self.present(now)
        return None if present is None else self._shown(present)

    def present(self, now: datetime) -> State | None:
        absent = self.state is None or self.state["status"] in TERMINAL_STATUSES or _is_late(self.state, now)
        return None if absent else self.state

    def run(self, command: Command, origin: Origin, now: datetime) -> Answer:
        if self.damaged:
            if command.name not in REPAIRS:
                raise RefusedError("FLOW_STATE_CORRUPTION")
            self.recover(origin.actor, now)
        key = (origin.actor, origin.request_id or "")
        if self.state is not None and key in self.memory and now - self.memory[key].at < IDEMPOTENCY_WINDOW:
            if self.memory[key].command.content != command.content:
                raise RefusedError("INVALID_REQUEST")
            return self.memory[key].answer
        while self.apply_due_change(now):
            pass
        present = self.present(now)
        try:
            merged = self._check_position(present, origin.expected, command)
            decide: Callable[..., Change | None] = getattr(self, f"_{command.name}")
            change = decide(present, now, **command.args)
            change = change and change._replace(merged=merged)
        except RefusedError as refusal:
            if present is not None:
                self._refuse(present, command, origin, str(refusal), now)
            raise
        if change is not None:
            self._commit(change, origin, now, begins=present is None)
        assert change is None or self.state is not None
        answer: Answer = change is not None
        if command.name != "clear":
            answer = self._shown(self.state or {})
            answer = (answer, change is not None) if command.name == "start" else answer
        if change is not None and origin.request_id is not None:
            self.memory[key] = RememberedRequest(command, answer, now)
        return answer

    def apply_due_change(self, now: datetime) -> bool:
        """Make the one change that is due; False when none is."""
        state = self.state
        if self.damaged or state is None or state["status"] in TERMINAL_STATUSES:
            return False
        if _is_late(state, now):
            self._commit(Change("expired", "expired", _end(state, "expired"), {}), Origin("system"), now)
            return True
        if state["status"] != "active" or "timeout_at" not in state or state["timeout_at"] > now:
            return False
        timeout = self._step(state).timeout
        assert timeout is not None
        change = self._transition(state, now, timeout[1])
        if "previous" in change.after:  # an administrator alone undoes what the timer did
            change.after["undo_roles"] = ()
        self._commit(change, Origin("timer"), now)
        return True

    def recover(self, actor: str, now: datetime, *, forged: bool = False, lost: bool = False) -> Answer:
        """``forged``: it can be read, and is not as its last record left it; ``lost``: there is no
        document, so that a life begins that no client can know."""
        if not self.damaged and not forged and not lost:
            present = self.present(now)
            if present is None:
                raise RefusedError("FLOW_NOT_STARTED")
            return "kept", self._shown(present)
        last = next(record["after"] for record in reversed(self.history) if "after" in record)
        late = last["status"] not in TERMINAL_STATUSES and _is_late(last, now)
        reported = {"payload": {"action": "rebuilt", "step": last["step"]}}
        self.damaged, self.state = False, last
        after = _end(last, "expired") if late else last
        self._commit(Change("recovered", "recovered", after, reported), Origin(actor), now, begins=lost)
        return "rebuilt", None if self.state["status"] in TERMINAL_STATUSES else self._shown(self.state)

    # The decisions: what a command makes of the present state (None: there is none)

    def _start(self, present: State | None, now: datetime, **given: Any) -> Change | None:
        return None if present is not None else self._fresh(now, **given)

    def _transition(
        self, present: State | None, now: datetime, transition: str, *, ok: bool = True, **given: Any
    ) -> Change:
        state = _active(present)
        if transition not in self._step(state).transitions:
            raise RefusedError("INVALID_TRANSITION")
        target, marks = self._step(state).transitions[transition]
        after = _without(state, "previous", "undo_roles", "message", *OF_THE_STEP)
        after |= self._entered(state["version"], target, now) | given | {"ok": ok}
        if "payload" in given:
            after["payload"] = state.get("payload", {}) | given["payload"]
        if "reversible" in marks:
            after["previous"] = state["step"]
        return self._change("transitioned", transition, after, given)

    def _reset(self, present: State | None, now: datetime, step: str | None = None) -> Change:
        if present is None:
            return self._fresh(now, step=step)
        stored = _without(_active(present), "previous", "undo_roles", "message", "payload", *OF_THE_STEP)
        newest = len(self.versions)
        after = stored | self._entered(newest, step, now) | {"version": newest, "ok": True}
        return self._change("reset", "reset", after, {})

    def _back(self, present: State | None, now: datetime) -> Change:
        state = _active(present)
        if "previous" not in state:
            raise RefusedError("INVALID_TRANSITION")
        after = _without(state, "previous", "undo_roles", "message", *OF_THE_STEP)
        after |= self._entered(state["version"], state["previous"], now) | {"ok": True}
        return self._change("undone", "undone", after, {})

    def _set(self, present: State | None, now: datetime, step: str, **given: Any) -> Change:
        newest = len(self.versions)
        entered = self._entered(newest, step, now)
        if given.get("previous", step) not in self.versions[-1].steps:
            raise RefusedError("INVALID_REQUEST")
        after = {"created_at": now, "version": newest, "service": "", "ok": True, **entered, **given}
        if present is not None:
            after["created_at"] = present["created_at"]
            if present["status"] == "paused":
                after |= {"status": "paused", "pause_reason": present["pause_reason"]}
                after = self._held(after, now)
        return self._change("set", "set", after, given)

    def _clear(self, present: State | None, now: datetime) -> Change | None:
        if present is None:
            return None
        return self._change("cleared", "cleared", _end(_active(present), "cleared"), {})

    def _pause(self, present: State | None, now: datetime, reason: str) -> Change | None:
        state = _started(present)
        if state["status"] == "paused":
            return None
        if state["status"] == "completed":
            raise RefusedError("INVALID_TRANSITION")
        after = self._held(state | {"status": "paused", "pause_reason": reason}, now)
        left = after.pop("expires_at") - now
        after["expiry_left_ms"] = left // MILLISECOND
        return self._change("paused", "paused", after, {})

    def _resume(self, present: State | None, now: datetime) -> Change | None:
        state = _started(present)
        if state["status"] != "paused":
            return None
        after = _without(state, "pause_reason", "timeout_left_ms", "expiry_left_ms")
        after["expires_at"] = now + state["expiry_left_ms"] * MILLISECOND
        after["status"] = "active" if self._step(state).transitions else "completed"
        if "timeout_left_ms" in state:
            after["timeout_at"] = now + state["timeout_left_ms"] * MILLISECOND
        return self._change("resumed", "resumed", after, {})

    # What they share

    def _fresh(self, now: datetime, step: str | None = None, **given: Any) -> Change:
        newest = len(self.versions)
        after = {"created_at": now, "version": newest, "service": "", "ok": True}
        after |= self._entered(newest, step, now) | given
        return self._change("started", "started", after, given)

    def _change(self, kind: str, transition: str, after: State, given: State) -> Change:
        came = {"payload": given["payload"]} if "payload" in given else {}
        if came and len(json.dumps(after["payload"], separators=(",", ":"))) > self._max_payload_bytes:
            raise RefusedError("PAYLOAD_TOO_LARGE")
        return Change(kind, transition, after, came)

    def _entered(self, version: int, step: str | None, now: datetime) -> State:
        steps = self.versions[version - 1].steps
        name = next(iter(steps)) if step is None else step
        if name not in steps:
            raise RefusedError("INVALID_REQUEST")
        timeout = steps[name].timeout
        due = {} if timeout is None else {"timeout_at": now + timeout[0]}
        return {"step": name, "status": "active" if steps[name].transitions else "completed", **due}

    def _held(self, state: State, now: datetime) -> State:
        timeout = self._step(state).timeout
        if timeout is None or timeout[2] == "absolute":
            return state
        left = timeout[0] if timeout[2] == "restart" else state["timeout_at"] - now
        return _without(state, "timeout_at") | {"timeout_left_ms": left // MILLISECOND}

    def _step(self, state: State) -> Step:
        step: Step = self.versions[state["version"] - 1].steps[state["step"]]
        return step

    def _shown(self, state: State) -> State:
        """With the transitions that may run now."""
        paused = state["status"] == "paused"
        transitions = {} if paused else self._step(state).transitions
        shown = [
            (name, target, marks.replace("merge", "").strip())
            for name, (target, marks) in transitions.items()
        ]
        return state | {"transitions": shown}

    def _check_position(
        self, present: State | None, expected: tuple[int, int | None] | None, command: Command
    ) -> list[State]:
        """Return the fields that are merged."""
        if expected is None:
            return []
        if present is not None:
            revision, life = expected
            if revision == present["revision"] and life in (None, present["epoch"]):
                return []
            _, marks = self._step(present).transitions.get(command.args.get("transition", ""), ("", ""))
            if command.name == "transition" and "merge" in marks:
                merged: list[State] | None = merge(self.history, present, expected, command.args)
                if merged is not None:
                    return merged
        raise RefusedError("REVISION_CONFLICT")

    def _commit(self, change: Change, origin: Origin, now: datetime, *, begins: bool = False) -> None:
        self.lives += begins
        before = self.state
        revision = 0 if begins or before is None else before["revision"] + 1
        after = self.who | change.after | {"epoch": self.lives, "revision": revision, "updated_at": now}
        ttl = self.versions[after["version"] - 1].ttl
        if after["status"] == "paused" and change.kind != "paused":
            after["expiry_left_ms"] = ttl // MILLISECOND
        elif after["status"] not in TERMINAL_STATUSES and change.kind not in ("paused", "resumed"):
            after["expires_at"] = now + ttl
        unlinked = begins or before is None or change.kind == "recovered"
        from_step = "" if unlinked or before is None else before["step"]
        more = change.payload | ({"merged": change.merged} if change.merged else {})
        self._store(change.kind, change.transition, from_step, after, origin, now, after=after, **more)
        self.state = after

    def _refuse(self, state: State, command: Command, origin: Origin, code: str, now: datetime) -> None:
        self._store("refused", command.recorded_as, state["step"], state, origin, now, error=code)

    def _store(
        self,
        kind: str,
        transition: str,
        from_step: str,
        at: State,
        origin: Origin,
        now: datetime,
        **more: Any,
    ) -> None:
        record = {name: at[name] for name in ("epoch", "revision", "version", "service", *self.who)}
        record |= {"kind": kind, "transition": transition, "from_step": from_step, "to_step": at["step"]}
        record |= {"timestamp": now, "success": kind != "refused", "actor": origin.actor, **more}
        if origin.request_id is not None:
            record["request_id"] = origin.request_id
        self.history.append(record)


def _started(state: State | None) -> State:
    if state is None:
        raise RefusedError("FLOW_NOT_STARTED")
    return state


def _active(state: State | None) -> State:
    if _started(state)["status"] == "paused":
        raise RefusedError("STATE_PAUSED")
    return _started(state)


def _is_late(state: State, now: datetime) -> bool:
    return "expires_at" in state and bool(state["expires_at"] <= now)


def _end(state: State, status: str) -> State:
    stored = ("version", "epoch", "revision", "step", "service", "ok", "created_at")
    return {name: state[name] for name in stored} | {"status": status}


def _without(state: State, *names: str) -> State:
    return {name: value for name, value in state.items() if name not in names}
