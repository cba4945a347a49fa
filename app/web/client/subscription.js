// The subscription to one state, which all of its followers share.
import { Following, isEnded } from './following.js';

/** The events of one state, and its position. The owner syncs whenever `following.syncing` has become true. */
export class Subscription {
  following = new Following();
  consumers = new Set();
  presentOn = undefined; // the connection on which presence was requested
  #oneOfManyChanged = false; // during the sync, without knowing whether it is this state

  /** Without `entityId`, it is to the user's only state, or to the one of many that the server finds. */
  constructor(flowId, userId, entityId) {
    this.key = keyOf(flowId, userId, entityId);
    this.flowId = flowId;
    this.userId = userId;
    this.entityId = entityId;
  }

  /** The members by which requests name the state. */
  get address() {
    return { flowId: this.flowId, userId: this.userId, entityId: this.entityId };
  }

  /** Begin a sync. Returns its number, and the body of its request. */
  begin() {
    this.#oneOfManyChanged = false;
    const { following } = this;
    const { number, epoch, since } = following.begin();
    const body = { ...this.address, epoch, since };
    return { number, body: following.absent ? { ...body, fromStart: true } : body };
  }

  /** Apply the answer to the sync of this number. */
  answer(number, answer) {
    const found = entityOf(answer.state);
    const isFound = this.entityId === undefined && found !== undefined;
    if (isFound) {
      this.entityId = found; // from now on, also when there are others
      this.following.forget();
      this.presentOn = undefined;
    }
    this.#deliver(this.following.answer(number, answer));
    if (this.#oneOfManyChanged && (isFound || answer.state === null)) this.following.want();
  }

  /** Apply an event of the flow and the user. */
  event(event) {
    if (entityOf(event) === this.entityId) return this.#deliver(this.following.event(event));
    if (this.entityId !== undefined || isEnded(event)) return undefined;
    // The server decides whether it is the only one now.
    if (this.following.syncing) this.#oneOfManyChanged = true;
    else if (this.following.absent) this.following.want();
    return undefined;
  }

  #deliver(states) {
    for (const state of states) for (const consumer of this.consumers) consumer.push(state);
  }
}

/** The keys of the subscriptions that an event may concern. */
export function keysOf(event, isOwn) {
  const users = isOwn ? [event.userId, undefined] : [event.userId];
  const entityId = entityOf(event);
  const keys = users.map((userId) => keyOf(event.flow, userId));
  return entityId === undefined ? keys : [...keys, ...users.map((userId) => keyOf(event.flow, userId, entityId))];
}

export function keyOf(flowId, userId = '', entityId = '') {
  return `${flowId}\n${userId}\n${entityId}`; // none of them has a line break
}

/** The entity of a state if it is a part of the state's identity; elsewhere it is a label. */
function entityOf(state) {
  return state?.instances === 'many' ? state.entityId : undefined;
}
