/** The client of server-flow for browsers and Node. */

/** `cleared` and `expired`: the state has ended; it is the last one of its epoch. */
export type Status = 'active' | 'paused' | 'completed' | 'cleared' | 'expired';

export type Payload = Record<string, unknown>;

/** A transition that the caller may run from the state's step. */
export interface AvailableTransition {
  transition: string;
  step: string;
  explicit: boolean;
  reversible: boolean;
}

/** A role on a state, and who has it: a user, or every user whose token lists the group. */
export type Participant =
  | { role: string; userId: string; group?: undefined }
  | { role: string; group: string; userId?: undefined };

/** A lease on the tasks of a role: `userId` alone of those with the role may act, until `until`. */
export interface Claim {
  role: string;
  userId: string;
  until: string;
}

/** A transition, and who ran it or voted for it. */
export interface TransitionBy {
  transition: string;
  userId: string;
}

/** A user's progress through a flow. Times are ISO 8601. */
export interface State {
  flow: string;
  step: string;
  service: string;
  ok: boolean;
  userId: string;
  /** The version of the definition. */
  version: number;
  /** Changes when a state has ended and starts again. */
  epoch: string;
  /** The number of changes since the start. */
  revision: number;
  status: Status;
  createdAt: string;
  updatedAt: string;
  transitions: AvailableTransition[];
  previous?: string;
  /** The roles that may return to `previous`: everybody if absent, administrators only if empty. */
  undoRoles?: string[];
  /** A part of the state's identity if `instances` is `many`, otherwise a label. */
  entityId?: string | null;
  /** `many`: the user may have many states in the flow, each for an entity. */
  instances?: 'many';
  payload?: Payload;
  /** JSON pointers to places of `payload` with parts that you may not see. */
  masked?: string[];
  message?: string;
  expiresAt?: string;
  pauseReason?: string;
  timeoutAt?: string;
  participants?: Participant[];
  /** Those at the present step. */
  claims?: Claim[];
  /** Those at the present step. */
  votes?: TransitionBy[];
  /** Who ran the transitions that a rule of the flow refers to. */
  runs?: TransitionBy[];
}

/** The kind of a change; newer servers may have others. */
export type Kind =
  | 'started'
  | 'transitioned'
  | 'undone'
  | 'reset'
  | 'set'
  | 'paused'
  | 'resumed'
  | 'cleared'
  | 'expired'
  | 'recovered'
  | 'migrated'
  | 'erased'
  | 'pseudonymised'
  | 'assigned'
  | 'claimed'
  | 'released'
  | 'voted'
  | 'withdrawn'
  | (string & {});

/** The change that led to a state. */
export interface Change {
  kind: Kind;
  transition: string;
  fromStep: string;
  actor: string;
  at: string;
}

/** The body of `flow-state-updated`. */
export type StateUpdated = State & Change;

/** A state as a follower receives it, with the change that led to it if it arrived in an event. */
export type FollowedState = State & Partial<Change>;

/** A change of a watched flow, of any user. */
export interface FlowUpdated extends Change {
  userId: string;
  flowId: string;
  /** Present if the user has many states in the flow. */
  entityId?: string;
  state: State;
}

/** A client that follows a state. */
export interface Presence {
  clientId: string;
  userId: string;
  device?: string;
  since: string;
  /** The owner of the state, if that is another user. */
  ownerId?: string;
  /** The entity of the state, if that is a part of the state's identity. */
  entityId?: string;
}

/** The clients that follow a state; without `userId`, any state of a watched flow. */
export interface PresenceChanged {
  flowId: string;
  userId?: string;
  /** Present if the user has many states in the flow. */
  entityId?: string;
  clients: Presence[];
}

export interface FollowingStats {
  /** Events that did not follow the position held. */
  gaps: number;
  syncs: number;
  /** Missed events that a sync returned. */
  repaired: number;
  /** Syncs that replaced the position held. */
  resets: number;
  /** Old or duplicate events. */
  dropped: number;
  /** The longest time in milliseconds from noticing a gap, or a reconnection, until nothing was missing. */
  longestRepair: number;
}

/**
 * An error of the service, or of the client: `UNREACHABLE` (with the address and the cause), `TOKEN_UNAVAILABLE`
 * (the token callback failed), `TIMEOUT` (no answer), `CLOSED`; and `INVALID_PAYLOAD`, `INVALID_REQUEST` and
 * `PAYLOAD_TOO_LARGE` for messages that are not sent.
 */
export class FlowError extends Error {
  constructor(
    code: string,
    message: string,
    more?: { retryable?: boolean; details?: Record<string, unknown>; cause?: unknown },
  );
  readonly code: string;
  readonly retryable: boolean;
  readonly details: Record<string, unknown>;
}

/** The rules by which one state is followed, without a connection. */
export class Following {
  constructor(now?: () => number);
  readonly epoch: string | undefined;
  readonly revision: number | undefined;
  readonly state: FollowedState | null | undefined;
  readonly syncing: boolean;
  /** True if it is known that there is no state: a sync then requests `fromStart`. */
  readonly absent: boolean;
  readonly stats: FollowingStats;
  want(): void;
  begin(): { number: number; epoch: string | undefined; since: number | undefined };
  isLatest(number: number): boolean;
  event(event: StateUpdated): FollowedState[];
  answer(
    number: number,
    answer: { state: State | null; events: StateUpdated[]; complete: boolean },
  ): (FollowedState | null)[];
}

/** A followed state: iterate over it, or look at `state`. */
export interface Follow extends AsyncIterableIterator<FollowedState | null> {
  /** null if there is none, undefined until that is known. */
  readonly state: FollowedState | null | undefined;
  /** True if there is a connection, and nothing is known to be missing. */
  readonly level: boolean;
  readonly stats: FollowingStats;
  close(): void;
  return(): Promise<IteratorReturnResult<undefined>>;
}

export interface RequestOptions {
  /** Milliseconds until a request without an answer is repeated. */
  timeout?: number;
  /** Milliseconds until the call fails. */
  deadline?: number;
}

/** The names of a state, beside that of its flow. */
export interface StateOptions {
  /** Another user, for participants of the state, services and administrators. */
  userId?: string;
  /** One of the user's many states. Without it, the only one that there is, or an error `ENTITY_REQUIRED`. */
  entityId?: string;
}

export interface CallOptions extends RequestOptions, StateOptions {}

export interface PageOptions extends RequestOptions {
  /** `next` of the page before. */
  after?: string;
  /** The most states of the page: 1 to 1000. */
  limit?: number;
}

export interface ListOptions extends PageOptions {
  /** States in this status only. */
  status?: 'active' | 'paused' | 'completed';
  /** Another user (services and administrators only). */
  userId?: string;
}

/** Some of several states. */
export interface StateListing {
  items: State[];
  /** The `after` of the next page; null if this is the last one. */
  next: string | null;
}

export interface ChangeOptions extends CallOptions {
  /** 1 to 128 visible ASCII characters: a repetition with the same id returns the first answer. */
  requestId?: string;
  /**
   * Fail with `REVISION_CONFLICT` if the state is at another revision. Some transitions merge instead
   * (`conflict` in the definition), and fail only with `details.fields`, the pointers that conflict.
   */
  expectedRevision?: number;
}

export interface StartOptions extends Omit<ChangeOptions, 'entityId'> {
  step?: string;
  service?: string;
  /** The entity of the new state in a flow with many (a new one if absent), otherwise a label. */
  entityId?: string | null;
  payload?: Payload;
  /** People with roles on the state. */
  participants?: Participant[];
}

export interface TransitionOptions extends ChangeOptions {
  /** Merged into the payload of the state. */
  payload?: Payload;
  /** JSON pointers (RFC 6901) to members of the state's payload that are removed before `payload` is merged. */
  remove?: string[];
  ok?: boolean;
  message?: string;
}

export interface ResetOptions extends ChangeOptions {
  step?: string;
}

export interface ClaimOptions extends ChangeOptions {
  /** Without it, the only role of the caller that can be claimed. */
  role?: string;
}

export interface ClientOptions {
  /** A token, or a callback that returns one; it is called for every connection. */
  token: string | (() => string | Promise<string>);
  /** A label of at most 64 characters, which presence shows to others. */
  device?: string;
  /** `io` of socket.io-client 4. Only `/static/flow-client.js` has a default; elsewhere it is required. */
  io?: (uri: string, options: any) => unknown;
  /** `['websocket']` */
  transports?: string[];
  /** Milliseconds until a request without an answer is repeated: 10000. */
  timeout?: number;
  /** Milliseconds until a call fails: 60000. */
  deadline?: number;
}

/** One connection to server-flow, made on first use and again whenever it is lost. */
export class FlowClient {
  constructor(url: string | URL, options: ClientOptions);
  /** The sums over all subscriptions; of `longestRepair` the maximum. */
  readonly stats: FollowingStats;
  follow(
    flowId: string,
    options?: StateOptions,
    callback?: (state: FollowedState | null) => void,
  ): Follow;
  follow(flowId: string, callback: (state: FollowedState | null) => void): Follow;
  state(flowId: string, options?: CallOptions): Promise<State | null>;
  start(flowId: string, options?: StartOptions): Promise<State>;
  transition(flowId: string, transition: string, options?: TransitionOptions): Promise<State>;
  reset(flowId: string, options?: ResetOptions): Promise<State>;
  claim(flowId: string, options?: ClaimOptions): Promise<State>;
  release(flowId: string, options?: ClaimOptions): Promise<State>;
  withdraw(flowId: string, options?: ChangeOptions): Promise<State>;
  assign(flowId: string, participants: Participant[], options?: ChangeOptions): Promise<State>;
  /** The states of a user in a flow, the newest first. */
  list(flowId: string, options?: ListOptions): Promise<StateListing>;
  /** The states of all users that wait for the caller in a role. */
  tasks(role: string, options?: PageOptions): Promise<StateListing>;
  presence(flowId: string, options?: CallOptions): Promise<Presence[]>;
  watch(flowId: string, callback: (change: FlowUpdated) => void): () => void;
  onPresence(flowId: string, callback: (change: PresenceChanged) => void): () => void;
  on(name: 'connect', callback: () => void): () => void;
  on(name: 'disconnect', callback: (reason: string) => void): () => void;
  /** Errors without a listener are written to the console. */
  on(name: 'error', callback: (error: Error) => void): () => void;
  close(): void;
}
