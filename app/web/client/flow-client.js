/**
 * The client of server-flow for browsers and Node: follows states without a gap, and sends requests that
 * survive a lost connection.
 *
 *     const client = new FlowClient('https://flows.example.org', { token: () => fetchToken() });
 *     for await (const state of client.follow('user-onboarding')) render(state);
 *
 * It needs socket.io-client 4: in Node pass its `io`. The module that the service serves to browsers has it built in.
 */
import { Connection } from './connection.js';
import { CallbackConsumer, Callbacks, Follow, Mailbox } from './consumers.js';
import { FlowError } from './errors.js';
import { Following, addStats, noStats } from './following.js';
import { backoff } from './retries.js';
import { Subscription, keyOf, keysOf } from './subscription.js';

export { FlowError, Following };

/** Follows states and sends requests over one connection to server-flow. */
export class FlowClient {
  #connection;
  #lastWarning = undefined; // it is not repeated
  #userId = undefined;
  #subject = undefined;
  #subscriptions = new Map();
  #watchers = new Callbacks();
  #presenceListeners = new Callbacks();
  #listeners = new Callbacks();
  #endedStats = noStats(); // of subscriptions that have ended

  /**
   * @param {string | URL} url the address of the service, such as `https://flows.example.org`
   * @param {object} options
   * @param {string | (() => string | Promise<string>)} options.token a token, or a callback that returns
   *   one; it is called for every connection
   * @param {string} [options.device] a label of at most 64 characters, which presence shows to others
   * @param {Function} options.io `io` of socket.io-client; only `/static/flow-client.js` has a default
   * @param {string[]} [options.transports] `['websocket']`
   * @param {number} [options.timeout] milliseconds until a request without an answer is repeated: 10000
   * @param {number} [options.deadline] milliseconds until a call fails: 60000
   */
  constructor(url, { token, device, io, transports = ['websocket'], timeout = 10_000, deadline = 60_000 }) {
    if (typeof io !== 'function') throw new TypeError("pass the option io: `import { io } from 'socket.io-client'`");
    const options = { url: new URL(url, globalThis.location?.href), token, device, io, transports, timeout, deadline };
    this.#connection = new Connection(options, {
      events: {
        'flow-state-updated': (event) => this.#eventReceived(event),
        'flow-resync': () => this.#syncAll(),
        'flow-updated': (event) => this.#watchers.call(event.flowId, event),
        'flow-presence': (event) => this.#presenceListeners.call(event.flowId, event),
      },
      authenticating: (subject) => this.#setSubject(subject),
      connected: () => this.#connected(),
      disconnected: (reason) => this.#listeners.call('disconnect', reason),
      failed: (error) => this.#report(error),
      ended: (error) => this.#forgetAll(error),
    });
  }

  /** The sums over all subscriptions; of `longestRepair` the maximum. */
  get stats() {
    const sum = { ...this.#endedStats };
    for (const { following } of this.#subscriptions.values()) addStats(sum, following.stats);
    return sum;
  }

  /**
   * Follow a state: `for await (const state of client.follow(flowId))`, or `client.follow(flowId, callback)`.
   * Every change is delivered once, in order. A state whose `status` is `cleared` or `expired` has ended; null says
   * that there is none. The next one is then delivered from its first revision. `userId` names another user, for
   * participants of the state, services and administrators. `entityId` names one of many states; without it, it is
   * the only one that there is, or an error `ENTITY_REQUIRED`.
   *
   * @param {string} flowId
   * @param {{userId?: string, entityId?: string} | ((state: object | null) => void)} [options]
   * @param {(state: object | null) => void} [callback]
   */
  follow(flowId, options = {}, callback = undefined) {
    if (typeof options === 'function') return this.follow(flowId, {}, options);
    this.#connection.start();
    const { userId = undefined, entityId = undefined } = options;
    let subscription = this.#subscriptions.get(keyOf(flowId, userId, entityId));
    const isNew = !subscription;
    if (isNew) {
      subscription = new Subscription(flowId, userId, entityId);
      this.#subscriptions.set(subscription.key, subscription);
    }
    const { following, consumers } = subscription;
    const consumer = callback ? new CallbackConsumer(callback) : new Mailbox();
    consumers.add(consumer);
    if (isNew) this.#sync(subscription);
    else if (following.state !== undefined) consumer.push(following.state);
    const isLevel = () => consumers.has(consumer) && Boolean(this.#connection.socket?.connected) && !following.syncing;
    return new Follow(following, consumer, isLevel, () => {
      consumer.end();
      if (consumers.delete(consumer) && consumers.size === 0) this.#unfollow(subscription);
    });
  }

  /** The state, null if there is none. */
  async state(flowId, options) {
    return (await this.#connection.call('flow-state', { flowId }, options)).state;
  }

  /** Start the flow. Returns the new state, or the running one if there is one. */
  async start(flowId, options) {
    return (await this.#change('flow-start', { flowId }, options)).state;
  }

  /** Run a transition. Returns the new state. */
  async transition(flowId, transition, options) {
    return (await this.#change('flow-transition', { flowId, transition }, options)).state;
  }

  /** Restart at the initial step, or at `options.step`. Returns the new state. */
  async reset(flowId, options) {
    return (await this.#change('flow-reset', { flowId }, options)).state;
  }

  /**
   * Claim the tasks of a role on the state (`options.role`, or the only one that the caller can claim), for a time.
   * Claimed again, it lasts longer. Returns the new state.
   */
  async claim(flowId, options) {
    return (await this.#change('flow-claim', { flowId }, options)).state;
  }

  /** End a claim. Returns the new state. */
  async release(flowId, options) {
    return (await this.#change('flow-release', { flowId }, options)).state;
  }

  /** Withdraw the caller's vote at the present step. Returns the new state. */
  async withdraw(flowId, options) {
    return (await this.#change('flow-withdraw', { flowId }, options)).state;
  }

  /** Replace the people with roles on the state: `{role, userId}` or `{role, group}`. Returns the new state. */
  async assign(flowId, participants, options) {
    return (await this.#change('flow-participants', { flowId, participants }, options)).state;
  }

  /**
   * A page of a user's states in a flow, the newest first: `{items, next}`. `next` is the `after` of the next page,
   * null on the last one. With `status`, those in that status.
   */
  async list(flowId, options) {
    return pageOf(await this.#connection.call('flow-list', { flowId }, options));
  }

  /** A page of the states of all users that wait for the caller in a role, as `list` returns it. */
  async tasks(role, options) {
    return pageOf(await this.#connection.call('flow-list', { as: role }, options));
  }

  /** The clients that follow that state now. */
  async presence(flowId, options) {
    return (await this.#connection.call('flow-presence', { flowId }, options)).clients;
  }

  /** Call back with every user's changes in a flow (administrators only). Returns a function that ends it. */
  watch(flowId, callback) {
    this.#connection.start();
    const isFirst = !this.#watchers.has(flowId);
    const off = this.#watchers.add(flowId, callback);
    if (isFirst) this.#watch(flowId);
    return () => {
      const isLast = () => !this.#watchers.has(flowId);
      if (off() && isLast()) this.#notify('flow-unwatch', { flowId }, isLast);
    };
  }

  /**
   * Call back with `{flowId, userId, entityId, clients}`, the clients that follow a state of this flow, now and after every
   * change: for the states that this client follows, or (without `userId`) for all while it watches the flow.
   * Returns a function that ends it.
   */
  onPresence(flowId, callback) {
    this.#connection.start();
    const off = this.#presenceListeners.add(flowId, callback);
    for (const subscription of this.#subscriptions.values()) {
      if (subscription.flowId !== flowId || subscription.following.syncing) continue;
      subscription.presentOn = undefined;
      this.#subscribePresence(subscription);
    }
    if (this.#watchers.has(flowId)) this.#requestPresence({ flowId });
    return off;
  }

  /**
   * Call back on `connect`, `disconnect` (with the reason) or `error`. Returns a function that ends it. Errors
   * without a listener are written to the console.
   */
  on(name, callback) {
    return this.#listeners.add(name, callback);
  }

  /** End the connection. Loops end, and pending calls fail with `CLOSED`. */
  close() {
    this.#connection.end(new FlowError('CLOSED', 'The client is closed'));
  }

  // The connection

  /** Pass an error to the listeners; without any, write it to the console once. */
  #report(error) {
    if (this.#listeners.has('error')) return this.#listeners.call('error', error);
    const warning = `FlowClient: ${error.code}: ${error.message}`;
    if (warning !== this.#lastWarning) globalThis.console?.warn(warning);
    this.#lastWarning = warning;
    return undefined;
  }

  #connected() {
    this.#lastWarning = undefined;
    this.#listeners.call('connect');
    this.#syncAll();
    for (const flowId of this.#watchers.names()) this.#watch(flowId);
  }

  #setSubject(subject) {
    if (subject !== this.#subject) this.#userId = this.#subject = subject;
  }

  #forgetAll(error) {
    for (const subscription of this.#subscriptions.values()) {
      this.#forget(subscription, error.code === 'CLOSED' ? undefined : error);
    }
  }

  // Subscriptions

  #eventReceived(event) {
    for (const key of keysOf(event, event.userId === this.#userId)) {
      const subscription = this.#subscriptions.get(key);
      if (!subscription) continue;
      const { following } = subscription;
      const wasSyncing = following.syncing;
      subscription.event(event);
      if (following.syncing && !wasSyncing) this.#sync(subscription);
    }
  }

  #syncAll() {
    for (const subscription of this.#subscriptions.values()) {
      subscription.following.want();
      this.#sync(subscription);
    }
  }

  /**
   * Set the user that the server names, which another claim than `sub` may give. Earlier events were not recognized
   * as the user's own, so all subscriptions are synced again.
   */
  #setUser(userId) {
    if (userId === undefined || userId === this.#userId) return;
    this.#userId = userId;
    this.#syncAll();
  }

  /** Sync until nothing is missing. Without a connection this does nothing: the next connection syncs all. */
  async #sync(subscription) {
    const { key, userId, following } = subscription;
    const { socket } = this.#connection;
    let number;
    const isWanted = () => following.isLatest(number) && this.#subscriptions.get(key) === subscription;
    for (let round = 0; socket?.connected && (round === 0 || isWanted()); round += 1) {
      const sync = subscription.begin();
      number = sync.number;
      try {
        const answer = await this.#connection.requestWhileConnected(socket, 'flow-subscribe', sync.body, isWanted);
        if (!answer || !isWanted()) return;
        subscription.answer(number, answer);
        if (userId === undefined) this.#setUser(answer.userId);
      } catch (error) {
        if (!isWanted()) return;
        this.#forget(subscription, error);
        return this.#report(error);
      }
      if (!following.syncing) return this.#subscribePresence(subscription);
      if (round > 0) await this.#connection.pause(backoff(round)); // a second sync is usual; further ones are delayed
    }
  }

  #unfollow(subscription) {
    const { address } = subscription;
    this.#forget(subscription);
    this.#notify('flow-unsubscribe', address, () => !this.#isFollowed(address));
  }

  /** True if a subscription is to this state, by whichever of its names. */
  #isFollowed({ flowId, userId = this.#userId, entityId }) {
    const isSame = (each) => each.flowId === flowId && (each.userId ?? this.#userId) === userId;
    return [...this.#subscriptions.values()].some((each) => isSame(each) && each.entityId === entityId);
  }

  #forget({ key, following, consumers }, error) {
    this.#subscriptions.delete(key);
    addStats(this.#endedStats, following.stats);
    for (const consumer of consumers) consumer.end(error);
    consumers.clear();
  }

  // Requests

  async #watch(flowId) {
    const isWatched = await this.#notify('flow-watch', { flowId }, () => this.#watchers.has(flowId));
    if (isWatched) await this.#requestPresence({ flowId });
  }

  /** Presence is sent to clients that requested it, on this connection. */
  async #subscribePresence(subscription) {
    const { address, presentOn } = subscription;
    if (presentOn === this.#connection.socket || !this.#presenceListeners.has(address.flowId)) return;
    subscription.presentOn = this.#connection.socket;
    await this.#requestPresence(address, address.userId ?? this.#userId);
  }

  async #requestPresence(address, userId) {
    const { flowId, entityId } = address;
    const answer = await this.#notify('flow-presence', address, () => this.#presenceListeners.has(flowId));
    if (!answer) return;
    const state = entityId === undefined ? { flowId, userId } : { flowId, userId, entityId };
    this.#presenceListeners.call(flowId, { ...state, clients: answer.clients });
  }

  /** Send a request and only report its failure; a reconnection repeats what is still wanted. */
  async #notify(event, body, isWanted) {
    try {
      return await this.#connection.requestWhileConnected(this.#connection.socket, event, body, isWanted);
    } catch (error) {
      return this.#report(error);
    }
  }

  #change(event, body, options = {}) {
    // One id for all repetitions: the service executes it once, whichever of them arrives.
    return this.#connection.call(event, { ...body, requestId: requestId() }, options);
  }
}

function pageOf({ items, next = null }) {
  return { items, next };
}

function requestId() {
  if (crypto.randomUUID) return crypto.randomUUID(); // a page without TLS has none
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join('-');
}
