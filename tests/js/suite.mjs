// What the client does on a running service, in Node and in browsers.

const FLOW = 'user-onboarding';
const MANY = {
  flow: 'requests',
  instances: 'many',
  initialStep: 'open',
  steps: {
    open: {
      index: 0,
      step: 'open',
      service: 'requests',
      transitions: { again: { transition: 'again', step: 'open' }, close: { transition: 'close', step: 'closed' } },
    },
    closed: { index: 1, step: 'closed', service: 'requests', transitions: {} },
  },
};
const APPROVED = {
  ...MANY,
  flow: 'approved-requests',
  participants: { approver: { assignable: true, claim: 'PT15M' } },
  steps: {
    open: {
      ...MANY.steps.open,
      transitions: { approve: { transition: 'approve', step: 'approved', roles: ['approver'] } },
    },
    approved: { index: 1, step: 'approved', service: 'requests', transitions: { seen: { transition: 'seen', step: 'approved' } } },
  },
};
const TEST_SECONDS = 30;
const AT_ONCE = 4; // most of them wait

/**
 * `given`: `url` of the service; `mint(user, {scopes, ttl})` makes tokens; `FlowClient`; `io` of
 * socket.io-client. `only`: a part of the names of the tests to run.
 *
 * @returns {Promise<{name: string, ok: boolean, error?: string}[]>}
 */
export async function run({ only = '', ...given }) {
  const results = [];
  const waiting = Object.entries(tests).filter(([name]) => name.includes(only));
  const runner = async () => {
    while (waiting.length) results.push(await runOne(...waiting.shift(), new Bench(given)));
  };
  await Promise.all(Array.from({ length: AT_ONCE }, runner));
  return results;
}

async function runOne(name, test, bench) {
  try {
    await within(TEST_SECONDS, test(bench));
    return { name, ok: true };
  } catch (error) {
    return { name, ok: false, error: `${error}\n${error.stack}\n${bench.report()}` };
  } finally {
    for (const client of bench.clients) client.close();
  }
}

/** What one test has: a user that no other test has, and clients. */
class Bench {
  constructor({ url, mint, FlowClient, io }) {
    Object.assign(this, { url, mint, FlowClient, io });
    this.clients = [];
    this.errors = [];
    this.user = `jürgen-${crypto.getRandomValues(new Uint32Array(2)).join('')}`;
  }

  client({ user = this.user, scopes = [], ttl = 3600, ...options } = {}) {
    const token = () => this.mint(user, { scopes, ttl });
    const client = new this.FlowClient(this.url, { token, io: this.io, ...options });
    client.on('error', (error) => this.errors.push(`${error.code}: ${error.message}`));
    this.clients.push(client);
    return client;
  }

  /** A client whose connection can be cut, and loses the events that the test selects. */
  tapped(options = {}) {
    const line = new Line(this.io);
    return { line, client: this.client({ io: line.io, ...options }) };
  }

  /** Publish a flow, unless another test has. */
  async publish(flow) {
    const token = await this.mint('root', { scopes: ['flow:admin'], ttl: 60 });
    const headers = { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' };
    const { status } = await fetch(`${this.url}/api/flows`, { method: 'POST', headers, body: JSON.stringify(flow) });
    check([201, 409].includes(status), `${status}`);
  }

  report() {
    return JSON.stringify({ stats: this.clients.map((client) => client.stats), errors: this.errors });
  }
}

/** Between the client and socket.io-client. */
class Line {
  sockets = [];
  loses = () => false; // an event with (name, body)
  losesAnswer = () => false; // to (name, body); the connection is lost with it

  constructor(io) {
    this.io = (url, options) => {
      const socket = io(url, options);
      const { on, emit } = socket;
      socket.on = (name, call) => {
        const lossy = (body) => this.loses(name, body) || call(body);
        return on.call(socket, name, name.startsWith('flow-') ? lossy : call);
      };
      socket.emit = (name, body, ack) =>
        emit.call(socket, name, body, this.losesAnswer(name, body) ? () => this.cut() : ack);
      this.sockets.push(socket);
      return socket;
    };
  }

  cut() {
    this.sockets.at(-1).io.engine.close();
  }

  /** As if the server had sent it. */
  fire(name, body) {
    for (const listener of this.sockets.at(-1).listeners(name)) listener(body);
  }
}

const tests = {
  async 'a flow is walked, and every state shown'(bench) {
    const client = bench.client();
    const following = client.follow(FLOW);
    equal(await next(following), null);
    const started = await client.start(FLOW, { service: 'web', payload: { a: 1, 'o/d': null } });
    equal([started.step, started.revision, started.service], ['welcome', 0, 'web']);
    equal((await next(following)).revision, 0);
    for (const transition of ['start', 'continue', 'save']) await client.transition(FLOW, transition);
    const done = await client.transition(FLOW, 'complete', { payload: { b: 'ü' }, remove: ['/o~1d'], message: 'm' });
    equal([done.status, done.payload, done.message], ['completed', { a: 1, b: 'ü' }, 'm']);
    const seen = await until(following, (state) => state.status === 'completed');
    equal(revisions(seen), [1, 2, 3, 4]);
    equal([seen.at(-1).transition, seen.at(-1).fromStep], ['complete', 'verification']);
    equal(await client.state(FLOW), done);
    equal((await client.reset(FLOW, { step: 'preferences' })).step, 'preferences');
    equal((await next(following)).revision, 5);
    equal(following.state.revision, 5);
  },

  async 'the first state of a flow is shown, also when the next one follows at once'(bench) {
    let gate = Promise.resolve();
    const { line, client } = bench.tapped({ token: async () => (await gate, bench.mint(bench.user)) });
    const other = bench.client();
    const headers = { Authorization: `Bearer ${await bench.mint(bench.user)}` };
    const following = client.follow(FLOW);
    equal(await next(following), null);
    for (const isAway of [false, false, true, true]) {
      let open;
      if (isAway) {
        gate = new Promise((resolve) => (open = resolve));
        const lost = once(client, 'disconnect');
        line.cut();
        await lost;
      }
      await Promise.all([other.start(FLOW), other.transition(FLOW, 'start')]);
      open?.();
      equal(revisions(await until(following, (state) => state.revision === 1)), [0, 1]);
      const cleared = await fetch(`${bench.url}/api/flow/${FLOW}/state`, { method: 'DELETE', headers });
      check(cleared.ok, `${cleared.status}`);
      equal((await next(following)).status, 'cleared');
    }
    equal([following.stats.gaps, following.stats.resets], [0, 0]);
  },

  async 'two clients of one user see what the other does'(bench) {
    const [phone, desk] = [bench.client(), bench.client()];
    await phone.start(FLOW);
    const [onPhone, onDesk] = [phone.follow(FLOW), desk.follow(FLOW)];
    equal([(await next(onPhone)).step, (await next(onDesk)).step], ['welcome', 'welcome']);
    await phone.transition(FLOW, 'start');
    equal((await next(onDesk)).step, 'profile-setup');
    await desk.transition(FLOW, 'skip');
    equal((await next(onDesk)).step, 'verification');
    equal([(await next(onPhone)).step, (await next(onPhone)).step], ['profile-setup', 'verification']);
  },

  async 'a user does not see the states of another'(bench) {
    const mine = bench.client();
    const other = bench.client({ user: `${bench.user}-other` });
    const following = mine.follow(FLOW);
    equal(await next(following), null);
    await other.start(FLOW, { payload: { secret: 1 } });
    await mine.start(FLOW);
    equal((await next(following)).userId, bench.user);
    await rejects(mine.state(FLOW, { userId: `${bench.user}-other` }), 'INSUFFICIENT_PERMISSIONS');
    await rejects(next(mine.follow(FLOW, { userId: `${bench.user}-other` })), 'INSUFFICIENT_PERMISSIONS');
  },

  async 'a service follows and changes the state of a user'(bench) {
    const service = bench.client({ user: `${bench.user}-service`, scopes: ['flow:service'] });
    const { user: userId } = bench;
    const [own, following] = [service.follow(FLOW), service.follow(FLOW, { userId })];
    equal([await next(own), await next(following)], [null, null]);
    await bench.client().start(FLOW);
    equal((await next(following)).userId, userId);
    equal((await service.transition(FLOW, 'start', { userId })).userId, userId);
    equal((await next(following)).actor, `${userId}-service`);
    equal(own.state, null);
  },

  async 'each of many states is followed and moves alone'(bench) {
    await bench.publish(MANY);
    const client = bench.client();
    const first = await client.start(MANY.flow);
    const second = await client.start(MANY.flow, { entityId: 'order; 7%' });
    equal([first.instances, second.instances, second.entityId], ['many', 'many', 'order; 7%']);
    const followed = [first, second].map(({ entityId }) => client.follow(MANY.flow, { entityId }));
    for (const following of followed) equal((await next(following)).revision, 0);
    for (const { entityId } of [second, first, second]) {
      equal((await client.transition(MANY.flow, 'again', { entityId })).entityId, entityId);
    }
    equal(revisions(await until(followed[0], (state) => state.revision === 1)), [1]);
    equal(revisions(await until(followed[1], (state) => state.revision === 2)), [1, 2]);
    await rejects(client.state(MANY.flow), 'ENTITY_REQUIRED');
    await rejects(next(client.follow(MANY.flow)), 'ENTITY_REQUIRED');
    equal((await client.reset(MANY.flow, { entityId: first.entityId })).revision, 2);
    equal((await next(followed[0])).revision, 2);
    equal(client.stats.gaps, 0);

    const page = await client.list(MANY.flow, { limit: 1 });
    equal(page.items.map(({ entityId }) => entityId), [second.entityId]);
    const last = await client.list(MANY.flow, { after: page.next });
    equal([last.items.map(({ entityId }) => entityId), last.next], [[first.entityId], null]);
    equal((await client.list(MANY.flow, { status: 'completed' })).items, []);
  },

  async 'without an entity the first one of many is followed from its start'(bench) {
    await bench.publish(MANY);
    const [client, other] = [bench.client(), bench.client()];
    const following = client.follow(MANY.flow);
    const shared = new Promise((resolve) => {
      client.onPresence(MANY.flow, (change) => change.clients.length === 2 && resolve(change.entityId));
    });
    equal(await next(following), null);
    const { entityId } = await other.start(MANY.flow);
    await other.transition(MANY.flow, 'again', { entityId });
    equal(revisions(await until(following, (state) => state?.revision === 1)), [0, 1]);
    await other.start(MANY.flow, { entityId: 'later' });
    await other.transition(MANY.flow, 'again', { entityId: 'later' });
    await other.transition(MANY.flow, 'again', { entityId });
    equal((await next(following)).entityId, entityId);
    equal([following.stats.gaps, following.stats.resets], [0, 0]);
    await next(other.follow(MANY.flow, { entityId }));
    equal(await shared, entityId);
  },

  async 'a participant follows, claims and moves a state, until it is removed'(bench) {
    await bench.publish(APPROVED);
    const [owner, approver] = [bench.client(), bench.client({ user: `${bench.user}-approver` })];
    const people = [{ role: 'approver', userId: `${bench.user}-approver` }];
    const [{ entityId }, other] = [
      await owner.start(APPROVED.flow, { participants: people }),
      await owner.start(APPROVED.flow, { participants: people }),
    ];
    const address = { userId: bench.user, entityId };
    const waiting = await approver.tasks('approver');
    equal(waiting.items.map((state) => state.entityId).sort(), [entityId, other.entityId].sort());
    const [own, following] = [owner.follow(APPROVED.flow, { entityId }), approver.follow(APPROVED.flow, address)];
    const remaining = approver.follow(APPROVED.flow, { userId: bench.user, entityId: other.entityId });
    for (const each of [own, following, remaining]) equal((await next(each)).participants, people);
    const { claims } = await approver.claim(APPROVED.flow, address);
    equal(claims.map(({ role, userId }) => ({ role, userId })), people);
    await approver.release(APPROVED.flow, { ...address, role: 'approver' });
    equal((await approver.transition(APPROVED.flow, 'approve', address)).step, 'approved');
    for (const each of [own, following]) {
      const seen = await until(each, (state) => state.revision === 3);
      equal(seen.map(({ kind }) => kind), ['claimed', 'released', 'transitioned']);
    }
    await owner.assign(APPROVED.flow, [], { entityId });
    await rejects(next(following), 'INSUFFICIENT_PERMISSIONS');
    await approver.transition(APPROVED.flow, 'approve', { userId: bench.user, entityId: other.entityId });
    equal((await next(remaining)).step, 'approved');
    equal((await next(own)).kind, 'assigned');
  },

  async 'lost events are made up for, in order'(bench) {
    const { line, client } = bench.tapped();
    const other = bench.client();
    await other.start(FLOW);
    const following = client.follow(FLOW);
    await next(following);
    line.loses = (name, body) => name === 'flow-state-updated' && body.revision % 4 > 1;
    for (let revision = 1; revision <= 40; revision += 1) await other.reset(FLOW);
    equal(revisions(await until(following, (state) => state.revision === 40)), range(1, 40));
    const { gaps, repaired, resets } = following.stats;
    check(gaps > 0 && repaired >= 20 && resets === 0, JSON.stringify(following.stats));
  },

  async 'a resync makes up for what was lost'(bench) {
    const { line, client } = bench.tapped();
    const other = bench.client();
    await other.start(FLOW);
    const following = client.follow(FLOW);
    await next(following);
    line.loses = (name) => name === 'flow-state-updated';
    for (let revision = 1; revision <= 5; revision += 1) await other.reset(FLOW);
    equal(following.state.revision, 0);
    line.fire('flow-resync', { reason: 'a test' });
    equal(revisions(await until(following, (state) => state.revision === 5)), range(1, 5));
    const { gaps, repaired } = following.stats;
    equal([gaps, repaired], [0, 5]);
  },

  async 'what happens while there is no connection is made up for'(bench) {
    let gate = Promise.resolve();
    const { line, client } = bench.tapped({ token: async () => (await gate, bench.mint(bench.user)) });
    const other = bench.client();
    await other.start(FLOW);
    const following = client.follow(FLOW);
    await next(following);
    for (const last of [4, 8]) {
      let open;
      gate = new Promise((resolve) => (open = resolve));
      const lost = once(client, 'disconnect');
      line.cut();
      await lost;
      for (let revision = last - 3; revision <= last; revision += 1) await other.reset(FLOW);
      open();
      equal(revisions(await until(following, (state) => state.revision === last)), range(last - 3, last));
    }
    await other.reset(FLOW);
    equal((await next(following)).revision, 9);
    equal(line.sockets.length, 3);
    // Some may arrive late, and be no repair then.
    const { repaired, resets } = following.stats;
    check(repaired >= 4 && resets === 0, JSON.stringify(following.stats));
  },

  async 'a change whose answer is lost is made once'(bench) {
    const { line, client } = bench.tapped();
    const other = bench.client();
    await other.start(FLOW);
    const following = other.follow(FLOW);
    await next(following);
    const sent = [];
    line.losesAnswer = (name, { requestId }) => name === 'flow-reset' && sent.push(requestId) <= 2;
    const state = await client.reset(FLOW, { step: 'preferences' });
    equal([state.step, state.revision], ['preferences', 1]);
    equal([sent.length, new Set(sent).size], [3, 1]);
    equal((await client.transition(FLOW, 'save')).revision, 2);
    equal(revisions(await until(following, (seen) => seen.revision === 2)), [1, 2]);
  },

  async 'a change that had no connection is made when there is one'(bench) {
    let open;
    const gate = new Promise((resolve) => (open = resolve));
    const client = bench.client({ token: async () => (await gate, bench.mint(bench.user)) });
    const started = client.start(FLOW);
    await rejects(client.state(FLOW, { deadline: 50 }), 'TIMEOUT');
    open();
    equal((await started).revision, 0);
  },

  async 'an address that cannot be reached is named, with the cause'(bench) {
    const url = new URL(bench.url);
    url.port = '1';
    const client = new bench.FlowClient(url, { token: 'x', io: bench.io });
    bench.clients.push(client);
    const reported = once(client, 'error');
    const failed = await rejects(client.state(FLOW, { deadline: 300 }), 'UNREACHABLE');
    equal([(await reported).code, failed.retryable, failed.details.url], ['UNREACHABLE', true, url.href]);
    if (!globalThis.document) equal(failed.details.cause, `connect ECONNREFUSED ${url.host}`);
  },

  async 'a client with another transport learns the accepted ones and the setting'(bench) {
    const client = bench.client({ transports: ['polling'] });
    const { details } = await rejects(client.state(FLOW, { deadline: 300 }), 'UNREACHABLE');
    for (const part of ["transports: ['websocket']", 'FLOW_SOCKET_TRANSPORTS']) {
      check(details.cause.includes(part), details.cause);
    }
  },

  async 'a token that expires is replaced'(bench) {
    let tokens = 0;
    // The service accepts a token for 5 s after its expiry: this one for 2 or 3 s.
    const token = () => bench.mint(bench.user, { ttl: (tokens += 1) === 1 ? -2 : 3600 });
    const { line, client } = bench.tapped({ token });
    const other = bench.client();
    await other.start(FLOW);
    const lost = once(client, 'disconnect');
    const following = client.follow(FLOW);
    await next(following);
    await lost;
    await other.transition(FLOW, 'start');
    equal((await next(following)).step, 'profile-setup');
    equal([tokens, line.sockets.length], [2, 2]);
    check(bench.errors[0].startsWith('AUTHENTICATION_REQUIRED'), bench.errors.join());
    equal((await client.transition(FLOW, 'skip')).step, 'verification');
  },

  async 'a stock client connects again by itself after its token has expired'(bench) {
    let tokens = 0;
    const auth = async (give) => give({ token: await bench.mint(bench.user, { ttl: (tokens += 1) === 1 ? -2 : 3600 }) });
    const socket = bench.io(bench.url, { auth, transports: ['websocket'], forceNew: true, reconnectionDelay: 10 });
    try {
      const received = [];
      socket.on('flow-error', ({ code }) => received.push(code));
      socket.on('disconnect', (reason) => received.push(reason));
      const again = new Promise((resolve) => socket.io.on('reconnect', () => socket.once('connect', resolve)));
      await again;
      equal([tokens, received], [2, ['AUTHENTICATION_REQUIRED', 'transport close']]);
      equal((await socket.emitWithAck('flow-start', { flowId: FLOW })).state.step, 'welcome');
    } finally {
      socket.disconnect();
    }
  },

  async 'tokens that are refused, three in a row, are the end'(bench) {
    let tokens = 0;
    const client = bench.client({ token: () => ((tokens += 1), 'no.such.token') });
    const [following, call] = [client.follow(FLOW), client.start(FLOW)];
    await Promise.all([
      rejects(next(following), 'AUTHENTICATION_REQUIRED'),
      rejects(call, 'AUTHENTICATION_REQUIRED'),
    ]);
    equal(tokens, 3);
    await rejects(client.state(FLOW), 'AUTHENTICATION_REQUIRED');
    equal(tokens, 3);
  },

  async 'a refusal has a reason'(bench) {
    const client = bench.client();
    const missing = await rejects(client.start('no-such-flow'), 'FLOW_NOT_FOUND');
    equal([missing.retryable, missing.details], [false, { flowId: 'no-such-flow' }]);
    await rejects(client.transition(FLOW, 'start'), 'FLOW_NOT_STARTED');
    await client.start(FLOW);
    const invalid = await rejects(client.transition(FLOW, 'save'), 'INVALID_TRANSITION');
    equal([invalid.details.fromStep, invalid.details.allowed], ['welcome', ['start']]);
    await rejects(client.transition(FLOW, 'start', { expectedRevision: 7 }), 'REVISION_CONFLICT');
    equal((await client.transition(FLOW, 'start', { expectedRevision: 0 })).revision, 1);
    await rejects(next(client.follow('no-such-flow')), 'FLOW_NOT_FOUND');
  },

  async 'what could only end the connection is refused, and the connection goes on'(bench) {
    const { line, client } = bench.tapped();
    await client.start(FLOW);
    let deep = 1;
    for (let level = 0; level < 1000; level += 1) deep = { deep };
    for (const a of [new Uint8Array(2), new Blob(['x']), deep, NaN]) {
      await rejects(client.transition(FLOW, 'start', { payload: { a } }), 'INVALID_PAYLOAD');
    }
    const large = await rejects(client.transition(FLOW, 'start', { payload: { a: 'x'.repeat(1_048_576) } }), 'PAYLOAD_TOO_LARGE');
    equal(large.details, { limit: 1_048_576 });
    // Below the limit of a message it is the service that refuses it.
    const refused = await rejects(client.transition(FLOW, 'start', { payload: { a: 'x'.repeat(1_048_300) } }), 'PAYLOAD_TOO_LARGE');
    equal(refused.details, { limit: 65_536 });
    equal((await client.transition(FLOW, 'start', { payload: { a: 'x' } })).revision, 1);
    equal(line.sockets.length, 1);
  },

  async 'a state that ends is shown as it ends, and its successor when it starts'(bench) {
    const client = bench.client();
    const first = await client.start(FLOW);
    const following = client.follow(FLOW);
    await next(following);
    const headers = { Authorization: `Bearer ${await bench.mint(bench.user)}` };
    const cleared = await fetch(`${bench.url}/api/flow/${FLOW}/state`, { method: 'DELETE', headers });
    check(cleared.ok, `${cleared.status}`);
    const last = await next(following);
    equal([last.status, last.epoch, last.revision], ['cleared', first.epoch, 1]);
    const again = await client.start(FLOW);
    check(again.epoch > first.epoch, 'the epoch does not grow');
    const [state] = await until(following, (seen) => seen?.epoch === again.epoch);
    equal([state.step, state.status], ['welcome', 'active']);
    await client.transition(FLOW, 'start');
    equal((await next(following)).revision, 1);
  },

  async 'an administrator watches a flow, also after a lost connection'(bench) {
    const { line, client: admin } = bench.tapped({ user: `${bench.user}-admin`, scopes: ['flow:admin'] });
    const changes = new Inbox();
    const unwatch = admin.watch(FLOW, (change) => change.userId.startsWith(bench.user) && changes.push(change));
    await admin.state(FLOW); // answered after the watch is
    const user = bench.client();
    await user.start(FLOW, { payload: { a: 1 } });
    const started = await changes.take();
    equal([started.userId, started.flowId, started.kind], [bench.user, FLOW, 'started']);
    equal([started.state.step, started.state.revision, started.actor], ['welcome', 0, bench.user]);
    line.cut();
    await once(admin, 'connect');
    await admin.state(FLOW);
    await user.transition(FLOW, 'start');
    let change = await changes.take();
    if (change.kind === 'started') change = await changes.take(); // a new connection may deliver it again
    const { transition, fromStep, state } = change;
    equal([transition, fromStep, state.step], ['start', 'welcome', 'profile-setup']);
    unwatch();
    await admin.state(FLOW);
    await user.transition(FLOW, 'skip');
    await admin.start(FLOW);
    equal(changes.states.length, 0);
  },

  async 'only an administrator watches a flow'(bench) {
    const client = bench.client();
    const refused = once(client, 'error');
    client.watch(FLOW, () => {});
    equal((await refused).code, 'INSUFFICIENT_PERMISSIONS');
  },

  async 'presence shows the clients that follow a state, as they come and go'(bench) {
    const [phone, desk] = [bench.client({ device: 'phone' }), bench.client({ device: 'desk' })];
    const changes = new Inbox();
    phone.onPresence(FLOW, (change) => changes.push(change));
    const devices = ({ clients }) => clients.map(({ device }) => device).sort();
    const onPhone = phone.follow(FLOW);
    await next(onPhone);
    equal(devices(await changes.take((change) => devices(change).length === 1)), ['phone']);
    const onDesk = desk.follow(FLOW);
    await next(onDesk);
    const both = await changes.take((change) => devices(change).length === 2);
    equal([devices(both), both.userId, both.flowId], [['desk', 'phone'], bench.user, FLOW]);
    const clients = await desk.presence(FLOW);
    equal(devices({ clients }), ['desk', 'phone']);
    check(new Set(clients.map(({ clientId }) => clientId)).size === 2, 'one id for two clients');
    check(clients.every(({ userId, since }) => userId === bench.user && Date.parse(since)), 'incomplete');
    onDesk.close();
    equal(devices(await changes.take((change) => devices(change).length === 1)), ['phone']);
    await next(desk.follow(FLOW));
    await changes.take((change) => devices(change).length === 2);
    desk.close();
    equal(devices(await changes.take((change) => devices(change).length === 1)), ['phone']);
    equal(devices({ clients: await phone.presence(FLOW) }), ['phone']);
  },

  async 'the bundle for browsers has an io built in, the source has not'(bench) {
    if (!globalThis.document) {
      let thrown;
      try {
        bench.client({ io: undefined });
      } catch (error) {
        thrown = error;
      }
      return equal([thrown?.name, thrown?.message.includes('socket.io-client')], ['TypeError', true]);
    }
    const client = bench.client({ io: undefined });
    equal((await client.start(FLOW)).step, 'welcome');
    equal((await next(client.follow(FLOW))).step, 'welcome');
  },
};

/** What a callback was called with, to be read one by one. */
class Inbox {
  states = [];
  #wake = () => {};

  push(state) {
    this.states.push(state);
    this.#wake();
  }

  async take(fits = () => true) {
    for (;;) {
      const at = this.states.findIndex(fits);
      if (at >= 0) return this.states.splice(0, at + 1).at(-1);
      await new Promise((resolve) => (this.#wake = resolve));
    }
  }
}

async function next(following) {
  const { value, done } = await following.next();
  check(!done, 'the following ended');
  return value;
}

/** The next states, up to the first that fits. */
async function until(following, fits) {
  const states = [await next(following)];
  while (!fits(states.at(-1))) states.push(await next(following));
  return states;
}

function once(client, name) {
  return new Promise((resolve) => {
    const off = client.on(name, (value) => (off(), resolve(value)));
  });
}

function revisions(states) {
  return states.map(({ revision }) => revision);
}

function range(from, to) {
  return Array.from({ length: to - from + 1 }, (_, n) => from + n);
}

async function within(seconds, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done in ${seconds} s`)), seconds * 1000);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function check(holds, message) {
  if (!holds) throw new Error(message);
}

function equal(got, expected) {
  const [a, b] = [got, expected].map((value) => JSON.stringify(value, (_, part) => sorted(part)));
  if (a !== b) throw new Error(`got ${a}\nexpected ${b}`);
}

function sorted(value) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}

async function rejects(promise, code) {
  try {
    await promise;
  } catch (error) {
    equal([error.name, error.code], ['FlowError', code]);
    return error;
  }
  throw new Error(`no ${code}`);
}
