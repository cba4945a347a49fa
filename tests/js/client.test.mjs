// What the client does with its connection, on a stand-in for socket.io-client: no network, and an answer to
// each event that the test decides.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FlowClient, FlowError } from '../../app/web/client/flow-client.js';

const FLOW = 'a-flow';
const USER = 'ü-1';
const TOKEN = `x.${Buffer.from(JSON.stringify({ sub: USER })).toString('base64url')}.y`;
const NONE = { state: null, events: [], complete: false };

const at = (revision, more = {}) => ({ flow: FLOW, userId: USER, epoch: 'e1', revision, ...more });
const from = (revision) => ({ state: at(revision), events: [], complete: false });
const refused = (code, more = {}) => ({ ok: false, error: { code, message: 'no', retryable: false, details: {}, ...more } });
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** A socket as the client uses it. */
class Socket {
  connected = false;
  #server;
  #listeners = [];
  #timeout;
  #unanswered = new Set();

  constructor(server, options) {
    this.#server = server;
    this.options = options;
    queueMicrotask(() => {
      const refusal = server.refuse?.(this);
      if (refusal instanceof Error) return this.fire('connect_error', refusal);
      if (refusal) {
        const data = refusal.code ? refusal : undefined;
        return this.fire('connect_error', Object.assign(new Error(refusal.code), { data }));
      }
      this.connected = true;
      this.fire('connect');
    });
  }

  on(name, call) {
    this.#listeners.push({ name, call });
  }

  once(name, call) {
    this.on(name, call);
  }

  off(name, call) {
    this.#listeners = this.#listeners.filter((one) => one.name !== name || one.call !== call);
  }

  timeout(milliseconds) {
    this.#timeout = milliseconds;
    return this;
  }

  emit(event, body, ack) {
    const sent = JSON.parse(JSON.stringify(body));
    this.#server.sent.push([event, sent]);
    if (this.#server.stuck) return; // the connection is dead: socket.io-client buffers it for another one
    const late = () => settle(new Error('operation has timed out'));
    const timer = setTimeout(late, this.#timeout);
    const settle = (...answer) => {
      clearTimeout(timer);
      if (this.#unanswered.delete(settle)) ack(...answer);
    };
    this.#unanswered.add(settle);
    const answer = this.#server[event]?.(sent, this);
    if (answer) queueMicrotask(() => settle(null, { ok: true, ...answer }));
  }

  count(name) {
    return this.#listeners.filter((one) => one.name === name).length;
  }

  fire(name, ...values) {
    for (const one of this.#listeners) if (one.name === name) one.call(...values);
  }

  lose(reason = 'transport close') {
    if (!this.connected) return;
    this.connected = false;
    this.fire('disconnect', reason);
    for (const settle of [...this.#unanswered]) settle(new Error('socket has been disconnected'));
  }

  disconnect() {
    this.lose('io client disconnect');
  }
}

/** A client of a server that answers with the given `answers`, and everything that it received. */
function clientOf(t, answers = {}, options = {}) {
  const server = { 'flow-subscribe': () => from(0), ...answers, sent: [], sockets: [] };
  const io = (url, given) => {
    server.sockets.push(new Socket(server, { url, ...given }));
    return server.sockets.at(-1);
  };
  const client = new FlowClient('http://flows.test/', { token: TOKEN, io, ...options });
  t.after(() => client.close());
  return { client, server, bodies: (event) => server.sent.filter(([name]) => name === event).map(([, body]) => body) };
}

/** The next `n` states. */
async function take(following, n) {
  const states = [];
  while (states.length < n) states.push((await following.next()).value);
  return states;
}

test('it connects on the first use, with the token, the device, and a socket of its own', async (t) => {
  const { client, server } = clientOf(t, {}, { device: 'phone', transports: ['polling'] });
  await turn();
  assert.equal(server.sockets.length, 0);
  await take(client.follow(FLOW), 1);
  const { url, path, auth, transports, forceNew, reconnection } = server.sockets[0].options;
  assert.deepEqual([url, path], ['http://flows.test', '/socket.io']);
  assert.deepEqual(auth, { token: TOKEN, device: 'phone' });
  assert.deepEqual([transports, forceNew, reconnection], [['polling'], true, false]);
});

test('a service below a path is reached there', async (t) => {
  const io = (url, options) => (seen.push(url, options.path), new Socket({ sent: [] }, options));
  const seen = [];
  const client = new FlowClient('https://example.test/flows/', { token: TOKEN, io });
  t.after(() => client.close());
  client.follow(FLOW);
  await turn();
  assert.deepEqual(seen, ['https://example.test', '/flows/socket.io']);
});

test('events of the state come to the loop, others do not; leaving it unsubscribes', async (t) => {
  const { client, server, bodies } = clientOf(t);
  const seen = [];
  for await (const state of client.follow(FLOW)) {
    seen.push(state.revision);
    if (state.revision === 2) break;
    const [socket] = server.sockets;
    socket.fire('flow-state-updated', at(state.revision + 1, { userId: 'somebody else' }));
    socket.fire('flow-state-updated', at(state.revision + 1, { flow: 'another-flow' }));
    socket.fire('flow-state-updated', at(state.revision + 1));
  }
  assert.deepEqual(seen, [0, 1, 2]);
  assert.deepEqual(bodies('flow-unsubscribe'), [{ flowId: FLOW }]);
  assert.equal(client.stats.gaps, 0);
});

test('the user is the one that the server names, where another claim than sub does', async (t) => {
  const answers = { 'flow-subscribe': ({ since = 0 }) => ({ ...from(since), userId: 'ada@flows.test' }) };
  const { client, server, bodies } = clientOf(t, answers);
  const following = client.follow(FLOW);
  await take(following, 1);
  await turn();
  assert.equal(bodies('flow-subscribe').length, 2); // what came before the first answer may be missing
  server.sockets[0].fire('flow-state-updated', at(1)); // of another user, whom the token's sub names
  server.sockets[0].fire('flow-state-updated', at(1, { userId: 'ada@flows.test' }));
  const [state] = await take(following, 1);
  assert.deepEqual([state.revision, state.userId], [1, 'ada@flows.test']);
  server.sockets[0].lose();
  while (bodies('flow-subscribe').length < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  await turn();
  await turn();
  assert.equal(bodies('flow-subscribe').length, 3); // it knows by now
});

test('followings of one state share a subscription, until the last one ends', async (t) => {
  const { client, server, bodies } = clientOf(t);
  const first = client.follow(FLOW);
  await take(first, 1);
  const calls = [];
  const second = client.follow(FLOW, (state) => calls.push(state.revision));
  const other = client.follow(FLOW, { userId: 'u-2' });
  await take(other, 1);
  server.sockets[0].fire('flow-state-updated', at(1, { userId: 'u-2', step: 'elsewhere' }));
  server.sockets[0].fire('flow-state-updated', at(1));
  assert.deepEqual(await take(first, 1), [at(1)]);
  assert.equal((await take(other, 1))[0].step, 'elsewhere');
  assert.deepEqual(calls, [0, 1]);
  assert.deepEqual(bodies('flow-subscribe'), [{ flowId: FLOW }, { flowId: FLOW, userId: 'u-2' }]);
  first.close();
  assert.deepEqual(await first.next(), { value: undefined, done: true });
  assert.deepEqual(bodies('flow-unsubscribe'), []);
  second.close();
  assert.deepEqual(bodies('flow-unsubscribe'), [{ flowId: FLOW }]);
});

/** A revision of one of many states of the user. */
const one = (entityId, revision, more = {}) => at(revision, { instances: 'many', entityId, ...more });

test('an event of one of many is that of the subscription with its entity; a label names nothing', async (t) => {
  const subscribe = ({ entityId }) => ({ ...from(0), state: entityId ? one(entityId, 0) : at(0) });
  const { client, server, bodies } = clientOf(t, { 'flow-subscribe': subscribe });
  const [plain, first, second] = [undefined, 'e-1', 'e-2'].map((entityId) => client.follow(FLOW, { entityId }));
  const foreign = client.follow(FLOW, { userId: 'u-2', entityId: 'e-1' });
  for (const each of [plain, first, second, foreign]) await take(each, 1);
  const events = [
    at(1, { entityId: 'e-1' }),
    one('e-1', 1, { step: 'first' }),
    one('e-2', 1, { step: 'second' }),
    one('e-3', 1),
    one('e-1', 1, { userId: 'u-2' }),
    one('e-2', 2, { userId: 'u-2' }),
  ];
  for (const event of events) server.sockets[0].fire('flow-state-updated', event);
  await turn();
  assert.deepEqual([plain, first, second, foreign].map(({ state }) => state), [events[0], events[1], events[2], events[4]]);
  assert.deepEqual([client.stats.gaps, client.stats.syncs, client.stats.dropped], [0, 4, 0]);
  assert.deepEqual(bodies('flow-subscribe'), [
    { flowId: FLOW },
    { flowId: FLOW, entityId: 'e-1' },
    { flowId: FLOW, entityId: 'e-2' },
    { flowId: FLOW, userId: 'u-2', entityId: 'e-1' },
  ]);
  first.close();
  assert.deepEqual(bodies('flow-unsubscribe'), [{ flowId: FLOW, entityId: 'e-1' }]);
});

test('without an entity it is the one that the server finds, also when there are others later', async (t) => {
  const found = { ...from(3), state: one('e-1', 3) };
  const { client, server, bodies } = clientOf(t, { 'flow-subscribe': () => found });
  const following = client.follow(FLOW);
  assert.deepEqual(await take(following, 1), [found.state]);
  server.sockets[0].fire('flow-state-updated', at(4));
  server.sockets[0].fire('flow-state-updated', one('e-2', 4));
  server.sockets[0].fire('flow-state-updated', one('e-1', 4));
  assert.deepEqual(await take(following, 1), [one('e-1', 4)]);
  assert.deepEqual([client.stats.gaps, client.stats.dropped], [0, 0]);
  server['flow-subscribe'] = () => ({ state: one('e-1', 5), events: [one('e-1', 5)], complete: true });
  server.sockets[0].fire('flow-resync', { reason: 'x' });
  assert.deepEqual(await take(following, 1), [one('e-1', 5)]);
  assert.deepEqual(bodies('flow-subscribe').slice(1), [{ flowId: FLOW, entityId: 'e-1', epoch: 'e1', since: 4 }]);

  server.sockets[0].fire('flow-state-updated', one('e-1', 6, { status: 'cleared' }));
  server.sockets[0].fire('flow-state-updated', one('e-2', 5));
  assert.deepEqual([following.level, following.state.revision], [true, 6]);

  const named = client.follow(FLOW, { entityId: 'e-1' });
  following.close(); // the server knows only one subscription to that state
  assert.deepEqual(bodies('flow-unsubscribe'), []);
  named.close();
  assert.deepEqual(bodies('flow-unsubscribe'), [{ flowId: FLOW, entityId: 'e-1' }]);
});

test('a first state of many is found, in whichever order its events and the answers come', async (t) => {
  const events = [one('e-1', 0, { epoch: 'e2' }), one('e-1', 1, { epoch: 'e2' })];
  const found = { state: events[0], events: [events[0]], complete: true };
  const late = { state: events[1], events: [events[1]], complete: true };
  for (const none of [NONE, { ...NONE, state: at(7, { status: 'cleared' }) }]) {
    const { client, server, bodies } = clientOf(t, { 'flow-subscribe': () => none });
    const following = client.follow(FLOW);
    await take(following, 1);
    const answers = [found, late];
    server['flow-subscribe'] = (body, socket) => {
      // It was read before this event, which arrives before it.
      if (answers.length === 2) socket.fire('flow-state-updated', events[1]);
      return answers.shift();
    };
    server.sockets[0].fire('flow-state-updated', one('e-0', 9, { status: 'cleared' })); // it is none
    await turn();
    assert.equal(bodies('flow-subscribe').length, 1);
    server.sockets[0].fire('flow-state-updated', events[0]);
    assert.deepEqual(await take(following, 2), events);
    const [, first, second] = bodies('flow-subscribe');
    assert.deepEqual([first.entityId, first.fromStart, second], [undefined, true, { flowId: FLOW, entityId: 'e-1', epoch: 'e2', since: 0 }]);
    assert.equal(following.level, true);
    assert.equal(client.stats.gaps, 0);
  }
});

test('a state of many that starts while the answer that there is none is on its way is found', async (t) => {
  const answers = [NONE, { state: one('e-1', 0), events: [one('e-1', 0)], complete: true }];
  const subscribe = (body, socket) => {
    if (answers.length === 2) socket.fire('flow-state-updated', one('e-1', 0));
    return answers.shift();
  };
  const { client } = clientOf(t, { 'flow-subscribe': subscribe });
  assert.deepEqual(await take(client.follow(FLOW), 2), [null, one('e-1', 0)]);
});

test('the one that is found has a position of its own, whatever the state before it had', async (t) => {
  const { client, server } = clientOf(t);
  const following = client.follow(FLOW);
  await take(following, 1);
  const found = one('e-1', 2, { epoch: 'e0' }); // it began before the other one did
  server['flow-subscribe'] = (body, socket) => {
    socket.fire('flow-state-updated', at(1, { status: 'cleared' }));
    return { state: found, events: [], complete: false };
  };
  server.sockets[0].fire('flow-resync', { reason: 'x' });
  assert.deepEqual(await take(following, 1), [found]);
  assert.equal(following.level, true);
  assert.deepEqual([following.stats.dropped, following.stats.gaps], [0, 0]);
});

test('a subscription that needs an entity, or is not allowed any more, ends; others go on', async (t) => {
  const { client, server } = clientOf(t, { 'flow-subscribe': ({ entityId }) => ({ ...from(0), state: one(entityId, 0) }) });
  client.on('error', () => {});
  const [removed, other] = ['e-1', 'e-2'].map((entityId) => client.follow(FLOW, { userId: 'u-2', entityId }));
  for (const each of [removed, other]) await take(each, 1);
  const required = refused('ENTITY_REQUIRED', { details: { entityIds: ['e-1', 'e-2'], more: false } });
  server['flow-subscribe'] = ({ entityId }) => {
    if (!entityId) return required;
    if (entityId === 'e-1') return refused('INSUFFICIENT_PERMISSIONS');
    return { state: one('e-2', 0, { userId: 'u-2' }), events: [], complete: true };
  };
  await assert.rejects(client.follow(FLOW).next(), { code: 'ENTITY_REQUIRED', details: required.error.details });
  server.sockets[0].fire('flow-resync', { reason: 'participants' });
  await assert.rejects(removed.next(), { code: 'INSUFFICIENT_PERMISSIONS' });
  server.sockets[0].fire('flow-state-updated', one('e-2', 1, { userId: 'u-2' }));
  assert.deepEqual(await take(other, 1), [one('e-2', 1, { userId: 'u-2' })]);
});

test('requests name one of many, and lists have pages', async (t) => {
  const state = () => ({ state: at(1) });
  const changes = ['start', 'transition', 'reset', 'claim', 'release', 'withdraw', 'participants'];
  const answers = Object.fromEntries(['state', ...changes].map((name) => [`flow-${name}`, state]));
  const { client, server, bodies } = clientOf(t, answers);
  const address = { userId: 'u-2', entityId: 'e-1' };
  const participants = [{ role: 'approver', userId: 'u-3' }];
  await client.state(FLOW, address);
  await client.start(FLOW, { ...address, participants });
  await client.transition(FLOW, 'go', address);
  await client.reset(FLOW, address);
  await client.claim(FLOW, { ...address, role: 'approver' });
  await client.release(FLOW, address);
  await client.withdraw(FLOW, address);
  assert.deepEqual(await client.assign(FLOW, participants, { ...address, expectedRevision: 4 }), at(1));
  const more = {
    start: { participants },
    transition: { transition: 'go' },
    claim: { role: 'approver' },
    participants: { participants, expectedRevision: 4 },
  };
  assert.deepEqual(bodies('flow-state'), [{ flowId: FLOW, ...address }]);
  for (const name of changes) {
    const [{ requestId, ...body }] = bodies(`flow-${name}`);
    assert.deepEqual(body, { flowId: FLOW, ...address, ...more[name] });
    assert.match(requestId, /^[\x21-\x7e]{1,128}$/);
  }
  server['flow-list'] = ({ after }) => ({ items: [at(1)], next: after ? undefined : 'there' });
  assert.deepEqual(await client.list(FLOW, { status: 'active', limit: 1 }), { items: [at(1)], next: 'there' });
  assert.deepEqual(await client.tasks('approver', { after: 'there' }), { items: [at(1)], next: null });
  assert.deepEqual(bodies('flow-list'), [
    { flowId: FLOW, status: 'active', limit: 1 },
    { as: 'approver', after: 'there' },
  ]);
});

test('a gap, a resync and a new connection sync with the position held', async (t) => {
  const { client, server, bodies } = clientOf(t);
  const following = client.follow(FLOW);
  await take(following, 1);
  assert.equal(following.level, true);
  const events = [at(1), at(2)];
  server['flow-subscribe'] = () => ({ state: at(2), events, complete: true });
  server.sockets[0].fire('flow-state-updated', at(2));
  assert.equal(following.level, false);
  assert.deepEqual(await take(following, 2), events);
  assert.equal(following.level, true);
  server['flow-subscribe'] = () => ({ state: at(3), events: [at(3)], complete: true });
  server.sockets[0].fire('flow-resync', { reason: 'x' });
  assert.deepEqual(await take(following, 1), [at(3)]);
  server['flow-subscribe'] = () => ({ state: at(4), events: [at(4)], complete: true });
  server.sockets[0].lose('io server disconnect');
  assert.equal(following.level, false);
  assert.deepEqual(await take(following, 1), [at(4)]);
  const positions = bodies('flow-subscribe').map(({ epoch, since }) => [epoch, since]);
  assert.deepEqual(positions, [[undefined, undefined], ['e1', 0], ['e1', 2], ['e1', 3]]);
  assert.equal(following.stats.repaired, 3); // of 4: one of them arrived as well
  assert.deepEqual(client.stats, following.stats);
});

test('a sync that is not answered, or for now refused, is repeated; another refusal ends it', async (t) => {
  const answers = [
    undefined,
    refused('STORE_UNAVAILABLE', { retryable: true }),
    refused('RATE_LIMITED', { retryable: true, details: { retryAfterMs: 30 } }),
    from(1),
    refused('INSUFFICIENT_PERMISSIONS'),
  ];
  const { client, server } = clientOf(t, { 'flow-subscribe': () => answers.shift() }, { timeout: 20 });
  const errors = [];
  client.on('error', (error) => errors.push(error.code));
  const following = client.follow(FLOW);
  assert.deepEqual(await take(following, 1), [at(1)]);
  assert.deepEqual(errors, []);
  server.sockets[0].fire('flow-state-updated', at(2));
  server.sockets[0].fire('flow-resync', { reason: 'x' });
  while (!errors.length) await turn();
  assert.deepEqual(await take(following, 1), [at(2)]); // what came before is still shown
  await assert.rejects(following.next(), { name: 'FlowError', code: 'INSUFFICIENT_PERMISSIONS' });
  assert.deepEqual(await following.next(), { value: undefined, done: true });
  assert.deepEqual(errors, ['INSUFFICIENT_PERMISSIONS']);
});

test('an answer that does not fit, again and again, is not requested without a pause', async (t) => {
  const { client, server, bodies } = clientOf(t);
  const following = client.follow(FLOW);
  await take(following, 1);
  server['flow-subscribe'] = () => ({ state: at(9), events: [at(9)], complete: true });
  const began = performance.now();
  server.sockets[0].fire('flow-resync', { reason: 'x' });
  while (bodies('flow-subscribe').length < 4) await turn();
  assert.ok(performance.now() - began > 90);
});

test('a callback is not called after its following was closed', async (t) => {
  const { client, server } = clientOf(t);
  const calls = [];
  const following = client.follow(FLOW, (state) => calls.push(state.revision));
  while (!calls.length) await turn();
  server.sockets[0].fire('flow-state-updated', at(1));
  following.close();
  await turn();
  assert.deepEqual(calls, [0]);
  await assert.rejects(following.next(), TypeError);
});

test('the oldest states that wait are left out for a slow consumer', async (t) => {
  const { client, server } = clientOf(t);
  const following = client.follow(FLOW);
  await take(following, 1);
  for (let revision = 1; revision <= 1500; revision += 1) server.sockets[0].fire('flow-state-updated', at(revision));
  const seen = (await take(following, 1000)).map(({ revision }) => revision);
  assert.deepEqual(seen, Array.from({ length: 1000 }, (_, n) => n + 501));
  assert.equal(following.state.revision, 1500);
});

test('what a callback throws stops neither the client nor the other callbacks', async (t) => {
  const thrown = [];
  process.setUncaughtExceptionCaptureCallback((error) => thrown.push(error.message));
  t.after(() => process.setUncaughtExceptionCaptureCallback(null));
  const { client, server } = clientOf(t);
  client.follow(FLOW, () => {
    throw new Error('mine');
  });
  const following = client.follow(FLOW);
  await take(following, 1);
  server.sockets[0].fire('flow-state-updated', at(1));
  assert.equal((await take(following, 1))[0].revision, 1);
  await turn();
  assert.deepEqual(thrown, ['mine', 'mine']);
});

test('a change is repeated with one id, through a late answer, a lost connection and a refusal for now', async (t) => {
  const answers = [
    () => undefined,
    (socket) => void socket.lose(),
    () => refused('STORE_UNAVAILABLE', { retryable: true }),
    () => refused('AUTHENTICATION_REQUIRED'),
    () => ({ state: at(1) }),
  ];
  const transition = (_, socket) => answers.shift()(socket);
  let tokens = 0;
  const token = async () => ((tokens += 1), TOKEN);
  const { client, bodies } = clientOf(t, { 'flow-transition': transition }, { token, timeout: 20 });
  assert.deepEqual(await client.transition(FLOW, 'start', { payload: { a: 1 } }), at(1));
  const sent = bodies('flow-transition');
  assert.equal(sent.length, 5);
  const [{ requestId }] = sent;
  assert.match(requestId, /^[\x21-\x7e]{1,128}$/);
  assert.deepEqual(sent, Array(5).fill({ flowId: FLOW, transition: 'start', payload: { a: 1 }, requestId }));
  assert.equal(tokens, 3); // the first, after the loss, after the token was refused
});

test('what was sent into a dead connection is repeated as soon as there is another one', async (t) => {
  const { client, server } = clientOf(t, { 'flow-state': () => ({ state: at(1) }) });
  await client.state(FLOW);
  server.stuck = true;
  const call = client.state(FLOW);
  await turn();
  server.stuck = false;
  server.sockets[0].lose('ping timeout');
  assert.deepEqual(await call, at(1));
  assert.equal(server.sockets.length, 2);
});

test('an answered call leaves nothing behind', async (t) => {
  const { client, server } = clientOf(t, { 'flow-state': () => ({ state: at(1) }) });
  await client.state(FLOW);
  const listeners = server.sockets[0].count('disconnect');
  for (let n = 0; n < 10; n += 1) await client.state(FLOW);
  assert.equal(server.sockets[0].count('disconnect'), listeners);
});

test('each call has an id of its own, unless it is given one', async (t) => {
  const { client, bodies } = clientOf(t, { 'flow-reset': () => ({ state: at(1) }) });
  await client.reset(FLOW);
  await client.reset(FLOW);
  await client.reset(FLOW, { requestId: 'mine' });
  const ids = bodies('flow-reset').map(({ requestId }) => requestId);
  assert.equal(new Set(ids).size, 3);
  assert.equal(ids[2], 'mine');
});

test('what only the caller can decide, and what is refused for good, is not repeated', async (t) => {
  for (const [code, retryable] of [['STATE_PAUSED', true], ['REVISION_CONFLICT', true], ['CLAIMED', true], ['INVALID_TRANSITION', false]]) {
    const answer = refused(code, { retryable, details: { a: 1 } });
    const { client, bodies } = clientOf(t, { 'flow-transition': () => answer });
    const expected = { code, retryable, details: { a: 1 }, message: 'no' };
    await assert.rejects(client.transition(FLOW, 'start'), (error) => {
      assert.ok(error instanceof FlowError);
      assert.deepEqual({ ...error, message: error.message, name: undefined }, { ...expected, name: undefined });
      return true;
    });
    assert.equal(bodies('flow-transition').length, 1);
  }
});

test('a call fails at its deadline with the last error of the service', async (t) => {
  const { client, server } = clientOf(t, { 'flow-state': () => undefined }, { timeout: 20 });
  await assert.rejects(client.state(FLOW, { deadline: 50 }), { code: 'TIMEOUT', retryable: true });
  server['flow-state'] = () => refused('STORE_UNAVAILABLE', { retryable: true });
  await assert.rejects(client.state(FLOW, { deadline: 150 }), { code: 'STORE_UNAVAILABLE' });
  const answers = [server['flow-state']()];
  server['flow-state'] = () => answers.shift();
  await assert.rejects(client.state(FLOW, { deadline: 150 }), { code: 'STORE_UNAVAILABLE' });
  server.refuse = () => ({ code: 'STORE_UNAVAILABLE', message: 'no', retryable: true, details: {} });
  server.sockets[0].lose();
  await assert.rejects(client.state(FLOW, { deadline: 50 }), { code: 'TIMEOUT' });
});

/** What a call is refused with, and how long that took. */
async function refusal(call) {
  const began = performance.now();
  const error = await call.then(() => assert.fail('it was not refused'), (refused) => refused);
  assert.ok(error instanceof FlowError, String(error));
  assert.ok(performance.now() - began < 1000, 'it was not refused at once');
  return error;
}

function nested(levels) {
  let value = 1;
  for (let level = 0; level < levels; level += 1) value = { a: value };
  return value;
}

test('a payload that JSON cannot carry is refused before it is sent', async (t) => {
  const { client, bodies } = clientOf(t);
  const circular = {};
  circular.self = [circular, circular];
  for (const [payload, pointer] of [
    [{ a: new Uint8Array(3) }, '/payload/a'],
    [{ a: [1, Buffer.from('x')] }, '/payload/a/1'],
    [{ a: { 'b/~': new ArrayBuffer(2) } }, '/payload/a/b~1~0'],
    [{ a: new DataView(new ArrayBuffer(2)) }, '/payload/a'],
    [{ a: new Blob(['x']) }, '/payload/a'],
    [{ a: new File(['x'], 'f') }, '/payload/a'],
    [{ a: { toJSON: () => new Uint8Array(1) } }, '/payload/a'],
    [{ a: Object(10n) }, '/payload/a'],
    [{ a: [new Date(NaN)] }, '/payload/a/0'],
    [new Uint8Array(3), '/payload'],
    [{ a: NaN }, '/payload/a'],
    [{ a: [-Infinity] }, '/payload/a/0'],
    [{ a: 1n }, '/payload/a'],
    [{ a: new Map([[1, 2]]) }, '/payload/a'],
    [nested(33), `/payload${'/a'.repeat(32)}`],
    [nested(1000), `/payload${'/a'.repeat(32)}`],
    [nested(5000), `/payload${'/a'.repeat(32)}`],
    [circular, '/payload/self'],
  ]) {
    for (const call of [client.start(FLOW, { payload }), client.transition(FLOW, 'go', { payload })]) {
      const { code, retryable, details, message } = await refusal(call);
      assert.deepEqual([code, retryable], ['INVALID_PAYLOAD', false], message);
      assert.ok(details.errors[0].pointer.startsWith(pointer), `${details.errors[0].pointer} ${message}`);
      assert.ok(details.errors.length <= 100);
    }
  }
  const { code } = await refusal(client.state(FLOW, { userId: new Uint8Array(1) }));
  assert.equal(code, 'INVALID_REQUEST');
  await assert.rejects(client.follow(new Uint8Array(1)).next(), { code: 'INVALID_REQUEST' });
  assert.deepEqual([bodies('flow-start'), bodies('flow-transition'), bodies('flow-state')], [[], [], []]);
});

test('what JSON can carry is sent as it carries it, also when the original changes meanwhile', async (t) => {
  const answers = [undefined, { state: at(1) }];
  const { client, bodies } = clientOf(t, { 'flow-transition': () => answers.shift() }, { timeout: 20 });
  const when = new Date(0);
  const payload = { when, left: undefined, list: [undefined, null, () => 1], 'ü': { __proto__: null, a: 1 }, deep: nested(30) };
  payload.own = JSON.parse('{"__proto__": 1}');
  const expected = JSON.parse(JSON.stringify(payload));
  const call = client.transition(FLOW, 'go', { payload });
  payload.list.push(4);
  await call;
  const [first, second] = bodies('flow-transition');
  assert.deepEqual(first.payload, expected);
  assert.deepEqual(second, first);
});

test('a message over the limit of the service is refused before it is sent', async (t) => {
  const { client, server, bodies } = clientOf(t, { 'flow-transition': () => ({ state: at(1) }) });
  const big = (bytes) => client.transition(FLOW, 'go', { payload: { a: 'ü'.repeat(bytes / 2) } });
  const limited = async (bytes, limit) => {
    const { code, retryable, details } = await refusal(big(bytes));
    assert.deepEqual([code, retryable, details], ['PAYLOAD_TOO_LARGE', false, { limit }]);
  };
  await limited(3_000_000, 2_097_152);
  await limited(1_048_576, 1_048_576);
  await big(1_048_000);
  server.sockets[0].io = { engine: { _maxPayload: 2_000_000 } };
  await big(1_900_000);
  await limited(2_000_000, 2_000_000);
  assert.equal(bodies('flow-transition').length, 2);
  assert.equal(server.sockets.length, 1);
});

test('three tokens refused in a row are the end of everything', async (t) => {
  let tokens = 0;
  const refusal = { code: 'AUTHENTICATION_REQUIRED', message: 'expired', retryable: false, details: {} };
  const { client, server } = clientOf(t, {}, { token: () => ((tokens += 1), TOKEN) });
  server.refuse = () => [1, 2, 4, 5, 6].includes(tokens) && refusal;
  const following = client.follow(FLOW);
  assert.deepEqual(await take(following, 1), [at(0)]); // two refusals are none
  server.sockets.at(-1).lose();
  await assert.rejects(following.next(), { code: 'AUTHENTICATION_REQUIRED', message: 'expired' });
  await assert.rejects(client.state(FLOW), { code: 'AUTHENTICATION_REQUIRED' });
  assert.throws(() => client.follow(FLOW), { code: 'AUTHENTICATION_REQUIRED' });
  assert.equal(tokens, 6);
});

test('a service that is away is tried again for longer than that', async (t) => {
  const { client, server } = clientOf(t);
  server.refuse = () => server.sockets.length <= 4 && { message: 'away' };
  assert.deepEqual(await take(client.follow(FLOW), 1), [at(0)]);
  assert.equal(server.sockets.length, 5);
});

test('a token that cannot be checked for now is tried again for longer than that', async (t) => {
  const refusal = { code: 'KEYS_UNAVAILABLE', message: 'away', retryable: true, details: {} };
  const { client, server } = clientOf(t);
  server.refuse = () => server.sockets.length <= 4 && refusal;
  client.on('error', () => {});
  assert.deepEqual(await take(client.follow(FLOW), 1), [at(0)]);
  assert.equal(server.sockets.length, 5);
});

test('when a token has expired, the next connection has another one', async (t) => {
  let tokens = 0;
  const { client, server } = clientOf(t, {}, { token: () => ((tokens += 1), TOKEN) });
  await take(client.follow(FLOW), 1);
  const expired = { error: 'expired', code: 'AUTHENTICATION_REQUIRED', retryable: false, details: {} };
  server.sockets[0].fire('flow-error', expired);
  while (server.sockets.length < 2) await turn();
  assert.equal(tokens, 2);
});

test('a client that is closed while it waits for a token does not connect', async (t) => {
  let give;
  const token = () => new Promise((resolve) => (give = resolve));
  const { client, server } = clientOf(t, {}, { token });
  client.follow(FLOW);
  await turn();
  client.close();
  give(TOKEN);
  await turn();
  assert.equal(server.sockets.length, 0);
});

test('a token that is unavailable for now is requested again', async (t) => {
  const answers = [Promise.reject(new Error('offline')), Promise.resolve(TOKEN)];
  const { client } = clientOf(t, {}, { token: () => answers.shift() });
  const errors = [];
  client.on('error', (error) => errors.push(error));
  assert.deepEqual(await take(client.follow(FLOW), 1), [at(0)]);
  const [{ code, retryable, message, cause }, ...more] = errors;
  assert.deepEqual([code, retryable, cause.message, more], ['TOKEN_UNAVAILABLE', true, 'offline', []]);
  assert.match(message, /token callback failed: offline/);
});

test('at the deadline a call reports why there is no token', async (t) => {
  const token = () => {
    throw new TypeError('no session');
  };
  const { client } = clientOf(t, {}, { token });
  client.on('error', () => {});
  await assert.rejects(client.state(FLOW, { deadline: 30 }), { code: 'TOKEN_UNAVAILABLE', retryable: true });
});

test('what a token callback gives must be a text', async (t) => {
  for (const [given, kind] of [[undefined, 'undefined'], [null, 'null'], [5, 'number'], [{}, 'object']]) {
    const { client, server } = clientOf(t, {}, { token: () => given });
    client.on('error', () => {});
    await assert.rejects(client.state(FLOW, { deadline: 30 }), {
      code: 'TOKEN_UNAVAILABLE',
      retryable: true,
      message: `The token callback failed: a token must be a string, not ${kind}`,
    });
    assert.equal(server.sockets.length, 0);
  }
});

test('at the deadline a call reports which address cannot be reached, and why', async (t) => {
  const refused = Object.assign(new Error('connect ECONNREFUSED 127.0.0.1:9'), { code: 'ECONNREFUSED' });
  for (const [error, cause] of [
    [Object.assign(new Error('websocket error'), { description: { message: refused.message, error: refused } }), refused.message],
    [Object.assign(new Error('websocket error'), { description: { error: new AggregateError([refused], '') } }), refused.message],
    [new Error('fetch failed', { cause: new Error('other side closed', { cause: refused }) }), refused.message],
    [Object.assign(new Error('xhr poll error'), { description: 400, context: { responseText: '"Invalid"\n...' } }), 'xhr poll error (400): "Invalid"'],
    [Object.assign(new Error('websocket error'), { description: { isTrusted: true } }), 'websocket error'],
  ]) {
    const { client } = clientOf(t, { refuse: () => error });
    const errors = [];
    client.on('error', (each) => errors.push(each));
    const failed = await client.state(FLOW, { deadline: 30 }).then(assert.fail, (each) => each);
    assert.deepEqual([failed.code, failed.retryable], ['UNREACHABLE', true]);
    assert.deepEqual(failed.details, { url: 'http://flows.test/', cause });
    assert.equal(failed.message, `http://flows.test/ cannot be reached: ${cause}`);
    assert.equal(errors[0], failed);
  }
});

test('a connection that is not answered in time is one that cannot be reached', async (t) => {
  const silent = () => ({ on() {}, once() {}, off() {}, disconnect() {}, connected: false });
  const { client } = clientOf(t, {}, { io: silent, timeout: 20 });
  client.on('error', () => {});
  const failed = await client.state(FLOW, { deadline: 60 }).then(assert.fail, (each) => each);
  assert.deepEqual([failed.code, failed.details.cause], ['UNREACHABLE', 'no answer in 20 ms']);
});

test('once there was a connection, a late answer is late and no trouble of the way', async (t) => {
  const { client, server } = clientOf(t, { 'flow-state': () => undefined }, { timeout: 20 });
  server.refuse = () => server.sockets.length === 1 && { message: 'away' };
  client.on('error', () => {});
  await assert.rejects(client.state(FLOW, { deadline: 200 }), { code: 'TIMEOUT' });
});

test('the console is warned, once, of errors that nobody listens for', async (t) => {
  const warn = t.mock.method(console, 'warn', () => {});
  const warnings = () => warn.mock.calls.map(({ arguments: [text] }) => text);
  const { client, server } = clientOf(t);
  server.refuse = () => server.sockets.length <= 3 && { message: 'away' };
  const following = client.follow(FLOW);
  await take(following, 1);
  assert.equal(warnings().length, 1, 'the same error three times');
  assert.match(warnings()[0], /UNREACHABLE: http:\/\/flows\.test\/ cannot be reached/);
  server.sockets.at(-1).fire('flow-error', { error: 'too slow', code: 'SLOW_CLIENT', retryable: true, details: {} });
  assert.deepEqual(warnings().slice(1), ['FlowClient: SLOW_CLIENT: too slow']);
  const errors = [];
  client.on('error', ({ code }) => errors.push(code));
  server.sockets.at(-1).fire('flow-error', { error: 'no', code: 'RATE_LIMITED', retryable: true, details: {} });
  await turn();
  assert.deepEqual([errors, warnings().length], [['RATE_LIMITED'], 2]);
});

test('close ends loops and calls, also those that never had a connection', async (t) => {
  for (const refuse of [() => undefined, () => ({ code: 'X', message: 'no', retryable: true, details: {} })]) {
    const { client, server } = clientOf(t, { refuse });
    const following = client.follow(FLOW);
    const call = client.state(FLOW);
    await turn();
    client.close();
    await assert.rejects(call, { code: 'CLOSED' });
    for await (const state of following) assert.fail(`shown after the end: ${state}`);
    await turn();
    assert.ok(server.sockets.every((socket) => !socket.connected));
    assert.throws(() => client.follow(FLOW), { code: 'CLOSED' });
    await assert.rejects(client.state(FLOW), { code: 'CLOSED' });
  }
});

test('a watched flow is watched again on the next connection, until it is not wanted', async (t) => {
  const { client, server, bodies } = clientOf(t, { 'flow-watch': () => ({}), 'flow-unwatch': () => ({}) });
  const [first, second, connects] = [[], [], []];
  client.on('connect', () => connects.push('connect'));
  client.on('disconnect', (reason) => connects.push(reason));
  const unwatch = client.watch(FLOW, ({ userId }) => first.push(userId));
  const unwatchToo = client.watch(FLOW, ({ userId }) => second.push(userId));
  await turn();
  const change = (userId, flowId = FLOW) => server.sockets.at(-1).fire('flow-updated', { userId, flowId });
  change('a');
  change('b', 'another-flow');
  server.sockets[0].lose();
  while (server.sockets.length < 2 || !server.sockets[1].connected) await turn();
  change('c');
  await turn();
  unwatch();
  change('d');
  await turn();
  assert.deepEqual([first, second], [['a', 'c'], ['a', 'c', 'd']]);
  assert.deepEqual(bodies('flow-watch'), [{ flowId: FLOW }, { flowId: FLOW }]);
  assert.deepEqual(bodies('flow-unwatch'), []);
  unwatchToo();
  unwatchToo();
  assert.deepEqual(bodies('flow-unwatch'), [{ flowId: FLOW }]);
  assert.deepEqual(connects, ['connect', 'transport close', 'connect']);
});

test('presence is requested', async (t) => {
  const clients = [{ clientId: 'c', userId: USER, since: 'now' }];
  const { client, bodies } = clientOf(t, { 'flow-presence': () => ({ clients }) });
  assert.deepEqual(await client.presence(FLOW, { userId: 'u-2' }), clients);
  assert.deepEqual(bodies('flow-presence'), [{ flowId: FLOW, userId: 'u-2' }]);
});

test('presence is reported on each connection and after each change', async (t) => {
  const clients = ['a'];
  const { client, server, bodies } = clientOf(t, { 'flow-presence': () => ({ clients }) });
  const changes = [];
  await take(client.follow(FLOW), 1);
  const off = client.onPresence(FLOW, (change) => changes.push(change));
  await turn();
  server.sockets[0].fire('flow-presence', { flowId: FLOW, userId: USER, clients: ['a', 'b'] });
  await turn();
  server.sockets[0].fire('flow-resync', { reason: 'x' });
  await turn();
  server.sockets[0].lose();
  while (changes.length < 3) await turn();
  off();
  server.sockets[1].fire('flow-presence', { flowId: FLOW, userId: USER, clients: [] });
  await turn();
  assert.deepEqual(changes, [['a'], ['a', 'b'], ['a']].map((each) => ({ flowId: FLOW, userId: USER, clients: each })));
  assert.deepEqual(bodies('flow-presence'), [{ flowId: FLOW }, { flowId: FLOW }]);
});

test('presence on one of many states is that of its clients', async (t) => {
  const { client, server, bodies } = clientOf(t, { 'flow-presence': () => ({ clients: ['a'] }), 'flow-subscribe': () => NONE });
  const changes = [];
  client.onPresence(FLOW, (change) => changes.push(change));
  const following = client.follow(FLOW);
  await take(following, 1);
  server['flow-subscribe'] = () => ({ ...NONE, state: one('e-1', 0) });
  server.sockets[0].fire('flow-state-updated', one('e-1', 0));
  await take(following, 1);
  while (changes.length < 2) await turn();
  assert.deepEqual(changes.shift(), { flowId: FLOW, userId: USER, clients: ['a'] });
  server.sockets[0].fire('flow-presence', { flowId: FLOW, userId: USER, entityId: 'e-1', clients: ['a', 'b'] });
  await turn();
  const state = { flowId: FLOW, userId: USER, entityId: 'e-1' };
  assert.deepEqual(changes, [{ ...state, clients: ['a'] }, { ...state, clients: ['a', 'b'] }]);
  assert.deepEqual(bodies('flow-presence'), [{ flowId: FLOW }, { flowId: FLOW, entityId: 'e-1' }]);
});

test('presence on a watched flow is that of all users', async (t) => {
  const { client, bodies } = clientOf(t, { 'flow-presence': () => ({ clients: ['a'] }), 'flow-watch': () => ({}) });
  const changes = [];
  client.onPresence(FLOW, (change) => changes.push(change));
  client.watch(FLOW, () => {});
  while (!changes.length) await turn();
  assert.deepEqual(changes, [{ flowId: FLOW, userId: undefined, clients: ['a'] }]);
  assert.deepEqual(bodies('flow-presence'), [{ flowId: FLOW }]);
});

test('an error that the server sends is reported', async (t) => {
  const { client, server } = clientOf(t);
  const errors = [];
  client.on('error', (error) => errors.push(error));
  await take(client.follow(FLOW), 1);
  const sent = { error: 'too slow', code: 'SLOW_CLIENT', retryable: true, details: { a: 1 } };
  server.sockets[0].fire('flow-error', sent);
  await turn();
  const [{ message, code, retryable, details }] = errors;
  assert.deepEqual({ error: message, code, retryable, details }, sent);
  assert.equal(errors.length, 1);
});

test('a client that knew of no state asks for the next one from its start', async (t) => {
  const { client, server, bodies } = clientOf(t, { 'flow-subscribe': () => NONE });
  const following = client.follow(FLOW);
  assert.deepEqual(await take(following, 1), [null]);
  server['flow-subscribe'] = () => ({ state: at(1), events: [at(0), at(1)], complete: true });
  server.sockets[0].lose();
  assert.deepEqual(await take(following, 2), [at(0), at(1)]);
  const last = at(2, { status: 'cleared' });
  server.sockets[1].fire('flow-state-updated', last);
  const again = [at(0, { epoch: 'e2' }), at(1, { epoch: 'e2' })];
  server['flow-subscribe'] = () => ({ state: again[1], events: again, complete: true });
  for (const event of again) server.sockets[1].fire('flow-state-updated', event);
  assert.deepEqual(await take(following, 3), [last, ...again]);
  assert.deepEqual(bodies('flow-subscribe'), [
    { flowId: FLOW },
    { flowId: FLOW, fromStart: true },
    { flowId: FLOW, epoch: 'e1', since: 2, fromStart: true },
  ]);
  assert.deepEqual([following.stats.gaps, following.stats.resets], [0, 0]);
});

test('no state at all is null', async (t) => {
  const { client } = clientOf(t, { 'flow-subscribe': () => NONE });
  const following = client.follow(FLOW);
  assert.equal(following.state, undefined);
  assert.deepEqual(await take(following, 1), [null]);
  assert.equal(following.state, null);
});
