// The rules of following one state, without a connection.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Following } from '../../app/web/client/flow-client.js';

const MAX_BUFFERED_EVENTS = 1000;

function at(epoch, revision, status = 'active') {
  return { epoch, revision, status };
}

function range(epoch, from, to) {
  return Array.from({ length: to - from + 1 }, (_, n) => at(epoch, from + n));
}

/** A following that holds a state. */
function level(epoch, revision, now) {
  const following = new Following(now);
  following.answer(following.begin().number, { state: at(epoch, revision), events: [], complete: false });
  assert.equal(following.syncing, false);
  return following;
}

test('the next event is shown, an old or double one is not', () => {
  const following = level('e1', 3);
  assert.deepEqual(following.event(at('e1', 4)), [at('e1', 4)]);
  for (const old of [at('e1', 4), at('e1', 2), at('e0', 9)]) assert.deepEqual(following.event(old), []);
  assert.equal(following.syncing, false);
  assert.deepEqual(following.state, at('e1', 4));
  assert.equal(following.stats.dropped, 3);
  assert.equal(following.stats.gaps, 0);
});

test('a gap needs a sync, which brings what was missed', () => {
  let now = 1000;
  const following = level('e1', 3, () => now);
  assert.deepEqual(following.event(at('e1', 6)), []);
  assert.equal(following.syncing, true);
  const { number, epoch, since } = following.begin();
  assert.deepEqual([epoch, since], ['e1', 3]);
  now = 1250;
  const shown = following.answer(number, { state: at('e1', 6), events: range('e1', 4, 6), complete: true });
  assert.deepEqual(shown, range('e1', 4, 6));
  const expected = { gaps: 1, syncs: 2, repaired: 2, resets: 0, dropped: 1, longestRepair: 250 };
  assert.deepEqual(following.stats, expected);
});

test('a repair begins with the new connection, not with the sync that succeeds', () => {
  let now = 1000;
  const following = new Following(() => now);
  following.want(); // nothing is held: it is no repair
  now += 500;
  following.answer(following.begin().number, { state: at('e1', 1), events: [], complete: false });
  assert.equal(following.stats.longestRepair, 0);
  following.want();
  following.begin();
  now += 300;
  following.want();
  now += 100;
  following.answer(following.begin().number, { state: at('e1', 1), events: [], complete: true });
  assert.equal(following.stats.longestRepair, 400);
});

test('what comes while a sync is under way is shown after its answer', () => {
  const following = new Following();
  const { number } = following.begin();
  assert.deepEqual(following.event(at('e1', 1)), []);
  assert.deepEqual(following.event(at('e1', 2)), []);
  const shown = following.answer(number, { state: at('e1', 1), events: [], complete: false });
  assert.deepEqual(shown, [at('e1', 1), at('e1', 2)]);
  assert.equal(following.syncing, false);
});

test('a gap in what came while a sync was under way needs one more sync', () => {
  const following = level('e1', 1);
  following.want();
  const first = following.begin();
  for (const revision of [2, 4, 5]) following.event(at('e1', revision));
  assert.deepEqual(following.answer(first.number, { events: [], complete: true }), [at('e1', 2)]);
  assert.equal(following.syncing, true);
  const second = following.begin();
  assert.equal(second.since, 2);
  const shown = following.answer(second.number, { events: [at('e1', 3)], complete: true });
  assert.deepEqual(shown, range('e1', 3, 5));
  assert.equal(following.syncing, false);
});

test('only the answer to the last sync counts', () => {
  const following = new Following();
  const first = following.begin();
  const second = following.begin();
  assert.deepEqual(following.answer(first.number, { state: at('e1', 1), events: [], complete: false }), []);
  assert.equal(following.syncing, true);
  const answer = { state: at('e1', 2), events: [], complete: false };
  assert.deepEqual(following.answer(second.number, answer), [at('e1', 2)]);
  assert.deepEqual(following.answer(second.number, answer), []);
});

test('another epoch needs a sync, and its state is a new start', () => {
  const following = level('e1', 7);
  assert.deepEqual(following.event(at('e2', 0)), []);
  const { number, epoch, since } = following.begin();
  assert.deepEqual([epoch, since], ['e1', 7]);
  const shown = following.answer(number, { state: at('e2', 0), events: [], complete: false });
  assert.deepEqual(shown, [at('e2', 0)]);
  assert.equal(following.stats.resets, 1);
  assert.deepEqual(following.event(at('e2', 1)), [at('e2', 1)]);
});

test('that there is no state is reported once, and the position stays', () => {
  const following = level('e1', 7);
  const none = { state: null, events: [], complete: false };
  following.want();
  assert.deepEqual(following.answer(following.begin().number, none), [null]);
  following.want();
  assert.deepEqual(following.answer(following.begin().number, none), []);
  assert.equal(following.state, null);
  assert.deepEqual(following.event(at('e1', 8)), []);
  assert.equal(following.syncing, true);
  assert.deepEqual(following.begin(), { number: 4, epoch: 'e1', since: 7 });
});

test('after no state an epoch is shown from its first revision', () => {
  const following = new Following();
  assert.equal(following.absent, false);
  following.answer(following.begin().number, { state: null, events: [], complete: false });
  for (const epoch of ['e1', 'e2']) {
    assert.equal(following.absent, true);
    const events = range(epoch, 0, 1);
    for (const event of events) assert.deepEqual(following.event(event), []);
    const { number } = following.begin();
    assert.deepEqual(following.answer(number, { state: events[1], events, complete: true }), events);
    assert.equal(following.absent, false);
    following.event(at(epoch, 2, 'cleared')); // the second one begins after this end
  }
  assert.deepEqual(following.event(at('e1', 0)), []);
  assert.deepEqual([following.stats.gaps, following.stats.syncs, following.stats.resets], [0, 3, 0]);
});

test('after no state a sync may bring an epoch from its first revision', () => {
  const [none, ended] = [new Following(), level('e1', 4)];
  none.answer(none.begin().number, { state: null, events: [], complete: false });
  ended.event(at('e1', 5, 'expired'));
  for (const following of [none, ended]) {
    following.want();
    assert.equal(following.absent, true);
    const { number } = following.begin();
    following.event(at('e2', 2));
    const answer = { state: at('e2', 2), events: range('e2', 0, 2), complete: true };
    assert.deepEqual(following.answer(number, answer), range('e2', 0, 2));
    assert.deepEqual([following.syncing, following.stats.gaps, following.stats.resets], [false, 0, 0]);
  }
});

test('no state ends an epoch, whatever arrived before the sync', () => {
  const following = new Following();
  following.event(at('e1', 5));
  const none = { state: null, events: [], complete: false };
  assert.deepEqual(following.answer(following.begin().number, none), [null]);
  assert.equal(following.syncing, false);
  following.event(at('e1', 6));
  assert.deepEqual(following.answer(following.begin().number, none), []);
  assert.equal(following.syncing, false);
});

test('a state that is read is not shown when a newer or the same one was', () => {
  const following = level('e2', 5);
  for (const state of [at('e2', 5), at('e2', 4), at('e1', 9)]) {
    following.want();
    assert.deepEqual(following.answer(following.begin().number, { state, events: [], complete: false }), []);
    assert.equal(following.syncing, false);
  }
  assert.deepEqual(following.state, at('e2', 5));
});

test('more events than the buffer holds leave a gap', () => {
  const following = level('e1', 0);
  following.want();
  const { number } = following.begin();
  for (const event of range('e1', 1, MAX_BUFFERED_EVENTS + 1)) following.event(event);
  assert.deepEqual(following.answer(number, { events: [], complete: true }), []);
  assert.equal(following.syncing, true);
  const events = range('e1', 1, MAX_BUFFERED_EVENTS + 1);
  assert.equal(following.answer(following.begin().number, { events, complete: true }).length, MAX_BUFFERED_EVENTS + 1);
  assert.equal(following.syncing, false);
});

test('as many events as the buffer holds need no other sync', () => {
  const following = level('e1', 0);
  following.want();
  const { number } = following.begin();
  for (const event of range('e1', 1, MAX_BUFFERED_EVENTS)) following.event(event);
  assert.equal(following.answer(number, { events: [], complete: true }).length, MAX_BUFFERED_EVENTS);
  assert.equal(following.syncing, false);
});

/** Numbers from 0 to below `n`, the same ones for the same seed. */
function dice(seed) {
  let state = seed * 2654435761;
  return (n) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % n;
  };
}

/** A state that changes, ends and starts again, and answers what the service would. */
class Truth {
  epochs = [];
  #roll;

  constructor(roll) {
    this.#roll = roll;
  }

  get newest() {
    return this.epochs.at(-1)?.at(-1);
  }

  get state() {
    return this.newest?.status === 'active' ? this.newest : null;
  }

  change() {
    if (!this.state) {
      this.epochs.push([at(`epoch-${String(this.epochs.length).padStart(4, '0')}`, 0)]);
    } else {
      const { epoch, revision } = this.newest;
      this.epochs.at(-1).push(at(epoch, revision + 1, this.#roll(12) === 0 ? 'cleared' : 'active'));
    }
    return this.newest;
  }

  /** `fromStart`: the follower knew of no state. */
  answer({ epoch, since }, fromStart) {
    const held = fromStart && this.state && epoch !== this.newest.epoch ? { epoch: this.newest.epoch, since: -1 } : { epoch, since };
    const provable = held.epoch !== undefined && held.epoch === this.newest?.epoch && this.#roll(5) > 0;
    const events = provable ? this.epochs.at(-1).slice(held.since + 1) : [];
    return { state: this.state, events, complete: provable };
  }
}

/** Changes, losses, doubles, reorderings, syncs that overlap or get lost; everything that is shown. */
function storm(roll) {
  const truth = new Truth(roll);
  const following = new Following();
  const shown = [];
  let underway = []; // events on their way
  let syncs = []; // begun, not answered yet
  let answers = []; // answers on their way
  const deliver = () => {
    const event = underway[roll(3) ? 0 : roll(underway.length)];
    if (roll(6)) underway.splice(underway.indexOf(event), 1); // else it comes again
    if (roll(8)) shown.push(...following.event(event)); // else it is lost
  };
  const actions = [
    () => underway.push(truth.change()),
    () => underway.length && deliver(),
    () => underway.length && deliver(),
    () => following.syncing && syncs.push([following.begin(), following.absent]),
    () => syncs.length && answers.push([syncs[0][0].number, truth.answer(...syncs.shift())]),
    () => answers.length && shown.push(...following.answer(...answers.splice(roll(answers.length), 1)[0])),
    () => roll(10) || following.want(),
    () => roll(10) || (answers = []),
    () => roll(10) || (syncs = []),
    () => roll(20) || (underway = []),
  ];
  for (let turn = 0; turn < 400; turn += 1) actions[roll(actions.length)]();
  return { truth, following, shown };
}

/** Sync as long as something may be missing. */
function settle({ truth, following, shown }) {
  for (let syncs = 0; following.syncing; syncs += 1) {
    assert.ok(syncs < 3, 'it does not become level');
    const sync = following.begin();
    shown.push(...following.answer(sync.number, truth.answer(sync, following.absent)));
  }
}

function check({ truth, following, shown }) {
  const { newest } = truth;
  if (truth.state) assert.deepEqual(following.state, newest);
  else assert.ok(following.state === null || following.state === newest, 'it has not ended');
  const keys = shown.filter(Boolean).map(({ epoch, revision }) => `${epoch}.${String(revision).padStart(6, '0')}`);
  assert.deepEqual(keys, [...new Set(keys)].sort(), 'shown twice, or an older one after a newer one');
  for (const [n, state] of shown.entries()) assert.ok(state || shown[n - 1] !== null, 'null was delivered twice');
}

for (const [what, last] of [
  ['a last sync', ({ following }) => following.want()],
  ['the newest event', ({ truth, following, shown }) => shown.push(...following.event(truth.change()))],
]) {
  test(`whatever is lost, doubled or late: after ${what} the state is the newest`, () => {
    const seen = { gaps: 0, repaired: 0, resets: 0, dropped: 0 };
    for (let seed = 1; seed <= 1000; seed += 1) {
      try {
        const done = storm(dice(seed));
        last(done);
        settle(done);
        check(done);
        for (const name of Object.keys(seen)) seen[name] += done.following.stats[name];
      } catch (error) {
        error.message = `seed ${seed}: ${error.message}`;
        throw error;
      }
    }
    for (const [name, count] of Object.entries(seen)) assert.ok(count > 1000, `hardly any ${name}: ${count}`);
  });
}
