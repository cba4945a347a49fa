const MAX_BUFFERED_EVENTS = 1000; // while a sync is running
const ENDED = new Set(['cleared', 'expired']);

/** True for the last state of an epoch. */
export function isEnded(state) {
  return ENDED.has(state?.status);
}

/**
 * The rules by which one state is followed, without a connection: methods that receive events or answers return
 * the states to deliver now, in order; null among them says that there is no state.
 *
 * The owner runs a sync (`begin`, then `answer`) whenever `syncing` has become true.
 */
export class Following {
  /** The position held: epoch and revision of the last state applied, undefined at first. */
  epoch = undefined;
  revision = undefined;
  /** The state, null if there is none, undefined until that is known. */
  state = undefined;
  /** True if something may be missing: a sync is needed or running. */
  syncing = true;
  stats = noStats();
  #now;
  #syncNumber = 0;
  #gapNoticedAt = undefined;
  #buffer = [];
  #bufferedBeforeSync = 0;

  /** @param {() => number} [now] milliseconds of a monotonic clock */
  constructor(now = () => performance.now()) {
    this.#now = now;
  }

  /** True if it is known that there is no state. A sync then requests a later epoch from its start. */
  get absent() {
    return this.state === null || isEnded(this.state);
  }

  /** Require a sync: after a reconnection or a resync event, events may have been missed. */
  want() {
    this.syncing = true;
    if (this.state !== undefined) this.#gapNoticedAt ??= this.#now();
  }

  /** Forget the position: the running sync is that of another state. */
  forget() {
    this.epoch = this.revision = undefined;
    this.#buffer = [];
    this.#bufferedBeforeSync = 0;
  }

  /** Begin a sync from the position held. Answers to earlier syncs are ignored from now on. */
  begin() {
    this.syncing = true;
    this.stats.syncs += 1;
    this.#syncNumber += 1;
    this.#bufferedBeforeSync = this.#buffer.length;
    return { number: this.#syncNumber, epoch: this.epoch, since: this.revision };
  }

  /** True if no later sync has begun. */
  isLatest(number) {
    return number === this.#syncNumber;
  }

  /** Apply an event of this state. */
  event(event) {
    if (!this.syncing) return this.#apply(event);
    this.#bufferEvent(event);
    return [];
  }

  /** Apply the answer to the sync of this number. */
  answer(number, { state, events, complete }) {
    if (!this.syncing || !this.isLatest(number)) return [];
    this.syncing = false;
    const continues = complete && (this.epoch !== undefined || this.absent);
    const delivered = continues ? this.#catchUp(events) : this.#restart(state);
    if (!this.syncing) {
      const buffered = this.#buffer;
      this.#buffer = [];
      for (const event of buffered) delivered.push(...this.event(event));
    }
    if (!this.syncing && this.#gapNoticedAt !== undefined) {
      this.stats.longestRepair = Math.max(this.stats.longestRepair, this.#now() - this.#gapNoticedAt);
      this.#gapNoticedAt = undefined;
    }
    return delivered;
  }

  #catchUp(events) {
    const buffered = new Set(this.#buffer.map((event) => `${event.epoch}.${event.revision}`));
    const delivered = [];
    for (const event of events) {
      const applied = this.#apply(event, true);
      if (this.syncing) break; // a gap: another sync returns this event and the later ones
      if (applied.length && !buffered.has(`${event.epoch}.${event.revision}`)) this.stats.repaired += 1;
      delivered.push(...applied);
    }
    return delivered;
  }

  #restart(state) {
    if (this.epoch !== undefined) this.stats.resets += 1;
    if (state === null) {
      // Events buffered before the sync belong to an epoch that has ended since.
      this.#buffer.splice(0, this.#bufferedBeforeSync);
      const wasAbsent = this.state === null;
      this.state = null;
      return wasAbsent ? [] : [null];
    }
    if (this.#isOld(state) && !(this.#isHeld(state) && this.state === null)) {
      this.stats.dropped += this.#isHeld(state) ? 0 : 1;
      return [];
    }
    return this.#hold(state);
  }

  /** Apply an event. `certain`: the server proves that nothing lies between. */
  #apply(event, certain = false) {
    if (this.#isOld(event)) {
      this.stats.dropped += 1;
      return [];
    }
    // Without a state, an event of the ended epoch needs a sync.
    const next = event.epoch === this.epoch && event.revision === this.revision + 1;
    const first = this.absent && event.epoch !== this.epoch && event.revision === 0;
    if ((next && (certain || this.state !== null)) || (first && certain)) return this.#hold(event);
    if (!first) this.stats.gaps += 1;
    this.syncing = true;
    this.#gapNoticedAt ??= this.#now();
    this.#bufferEvent(event);
    return [];
  }

  #isOld({ epoch, revision }) {
    return this.epoch !== undefined && (epoch === this.epoch ? revision <= this.revision : epoch < this.epoch);
  }

  #isHeld({ epoch, revision }) {
    return epoch === this.epoch && revision === this.revision;
  }

  #hold(state) {
    this.epoch = state.epoch;
    this.revision = state.revision;
    this.state = state;
    return [state];
  }

  #bufferEvent(event) {
    if (this.#buffer.length >= MAX_BUFFERED_EVENTS) {
      // The newest one stays, so that replaying it shows the gap.
      this.#buffer = [];
      this.#bufferedBeforeSync = 0;
    }
    this.#buffer.push(event);
  }
}

export function noStats() {
  return { gaps: 0, syncs: 0, repaired: 0, resets: 0, dropped: 0, longestRepair: 0 };
}

export function addStats(sum, { longestRepair, ...counters }) {
  for (const [name, count] of Object.entries(counters)) sum[name] += count;
  sum.longestRepair = Math.max(sum.longestRepair, longestRepair);
}
