// Uses of the client that its types must allow, and mistakes that they must find.
import { io } from 'socket.io-client';
import { FlowClient, FlowError, Following } from '../../app/web/client/flow-client.js';
import type { Claim, FollowedState, Participant, Presence, State, StateListing, StateUpdated } from '../../app/web/client/flow-client.js';

const client = new FlowClient('https://flows.example.org', {
  token: async () => 'a token',
  device: 'phone',
  io,
  transports: ['websocket'],
  timeout: 1000,
  deadline: 5000,
});
const smallest = new FlowClient(new URL('https://flows.example.org'), { token: 'a token' });

export async function uses(): Promise<void> {
  const following = client.follow('a-flow');
  for await (const state of following) {
    if (state === null) continue;
    const held: FollowedState = state;
    const led: string | undefined = held.transition;
    const when: number = Date.parse(state.updatedAt) + state.revision;
    console.log(led, when, state.payload?.a, following.level, following.stats.longestRepair, following.state?.step);
    if (state.status === 'completed') break;
  }
  following.close();
  client.follow('a-flow', (state) => console.log(state?.step)).close();
  client.follow('a-flow', { userId: 'u' }, (state) => console.log(state?.step));

  const started: State = await client.start('a-flow', { service: 'web', entityId: null, payload: { a: 1 } });
  const moved: State = await client.transition('a-flow', started.transitions[0]!.transition, {
    requestId: 'once',
    payload: { address: { city: 'Oslo' } },
    remove: ['/address/street', '/a~1b'],
    expectedRevision: started.revision,
    deadline: 1000,
  });
  await client.reset(moved.flow, { step: 'first', userId: 'u' });
  const now: State | null = await client.state('a-flow');
  const present: Presence[] = await client.presence('a-flow');
  console.log(now?.epoch, present[0]?.device?.length);

  const people: Participant[] = [{ role: 'approver', userId: 'u' }, { role: 'approver', group: 'finance' }];
  const request: State = await client.start('many', { participants: people });
  const one = { userId: request.userId, entityId: request.entityId! };
  client.follow('many', one).close();
  client.follow('many', { entityId: 'e' }, (state) => console.log(state?.kind === 'voted', state?.votes?.length));
  const claimed: State = await client.claim('many', { ...one, role: 'approver', expectedRevision: 0 });
  const claim: Claim | undefined = claimed.claims?.[0];
  await client.release('many', { ...one, role: claim?.role });
  await client.withdraw('many', { ...one, requestId: 'once' });
  const assigned: State = await client.assign('many', people, one);
  const names = assigned.participants?.map(({ role, userId, group }) => `${role}: ${userId ?? group.length}`);
  const page: StateListing = await client.list('many', { status: 'active', limit: 20, deadline: 1000 });
  const rest: StateListing = await client.tasks('approver', { after: page.next ?? undefined });
  console.log(names, rest.items[0]?.instances === 'many', request.runs?.[0]?.transition);
  await client.transition('many', 'approve', { ...one, payload: { note: 1 } });

  const unwatch: () => void = client.watch('a-flow', ({ userId, entityId, state, fromStep }) => {
    console.log(userId, entityId?.length, state.step, fromStep);
  });
  unwatch();
  client.onPresence('a-flow', ({ clients, userId }) => console.log(clients.length, userId?.length))();
  client.on('disconnect', (reason: string) => console.log(reason))();
  client.on('error', (error) => {
    if (error instanceof FlowError) console.log(error.code, error.retryable, error.details.errors);
  });
  console.log(client.stats.gaps);
  client.close();

  const rules = new Following(() => 0);
  const { number } = rules.begin();
  const event = { ...moved, kind: 'k', transition: 't', fromStep: 'f', actor: 'a', at: 'n' } satisfies StateUpdated;
  rules.event(event);
  rules.answer(number, { state: null, events: [event], complete: false }).map((state) => state?.step);
}

export async function mistakes(): Promise<void> {
  // @ts-expect-error: a token is needed
  new FlowClient('https://flows.example.org', {});
  // @ts-expect-error: there may be no state
  (await smallest.state('a-flow')).step;
  // @ts-expect-error: what led to a state is not always known
  smallest.follow('a-flow', (state) => state!.transition.length);
  // @ts-expect-error: no such option
  await smallest.transition('a-flow', 'start', { requestid: 'x' });
  // @ts-expect-error: a revision is a number
  await smallest.transition('a-flow', 'start', { expectedRevision: '3' });
  // @ts-expect-error: a transition is named
  await smallest.transition('a-flow');
  // @ts-expect-error: a participant is a user or a group
  await smallest.assign('a-flow', [{ role: 'approver' }]);
  // @ts-expect-error: no such status
  await smallest.list('a-flow', { status: 'running' });
  // @ts-expect-error: tasks are listed in any status
  await smallest.tasks('approver', { status: 'active' });
  // @ts-expect-error: an entity is named by a text
  smallest.follow('a-flow', { entityId: null });
  // @ts-expect-error: no such event
  smallest.on('reconnect', () => {});
  // @ts-expect-error: counters are read
  smallest.stats = smallest.follow('a-flow').stats;
}
