// A program on the client that openapi-typescript generates, and mistakes that its types must find.
import createClient from 'openapi-fetch';
import type { components, paths } from './schema.js';

type State = components['schemas']['StateView'];
type Flow = components['schemas']['Flow'];

declare const process: { env: Record<string, string | undefined> };
const { FLOW_URL: baseUrl = '', TOKEN, ADMIN, SLUG = '' } = process.env;

const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${TOKEN}` } });
const admin = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${ADMIN}` } });
const path = { flowId: SLUG };

function check(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what);
}

const definition: Flow = {
  flow: SLUG,
  initialStep: 'a',
  meta: { colour: 'red', sizes: [1, 2] },
  steps: {
    a: { index: 0, step: 'a', service: '-', transitions: { go: { transition: 'go', step: 'b' } } },
    b: { index: 1, step: 'b', service: '-', transitions: {} },
  },
};
const created = await admin.POST('/api/flows', { body: definition });
check(created.response.status === 201 && created.data?.meta?.colour === 'red', 'created');
check(created.response.headers.get('location') === `/api/flows/${SLUG}`, 'where it is');
const twice = await admin.POST('/api/flows', { body: definition });
check(twice.error?.code === 'FLOW_EXISTS', 'exists');
const version: number = twice.error.details.version;
check(version === 1, 'version');

const nothing = await client.GET('/api/flow/{flowId}/state', { params: { path } });
check(nothing.data === null, 'not started');

const started = await client.POST('/api/flow/{flowId}/start', {
  params: { path, header: { 'Idempotency-Key': 'start' } },
  body: { payload: { name: 'Ada', list: [1, { deep: null }] } },
});
check(started.data !== undefined, 'started');
const state: State = started.data;
check(state.payload?.name === 'Ada' && state.ok && state.message === undefined, 'the state');
const tag = started.response.headers.get('etag') ?? '';

const go = { params: { path: { ...path, transition: 'go' }, header: { 'If-Match': tag } } };
const moved = await client.POST('/api/flow/{flowId}/transition/{transition}', { ...go, body: { message: 'm' } });
check(moved.data?.status === 'completed', 'moved, without ok');
const late = await client.POST('/api/flow/{flowId}/transition/{transition}', go);
check(late.error?.code === 'REVISION_CONFLICT' && late.error.status === 412, 'conflict');
const present: State | null = late.error.details.state;
check(present?.revision === 1, 'the present state');

const wrong = await client.POST('/api/flow/{flowId}/transition/{transition}', {
  params: { path: { ...path, transition: 'fly' } },
});
check(wrong.error !== undefined, 'refused');
const { error } = wrong;
const said: string = error.detail;
check(said.includes('fly') && !error.retryable, said);
switch (error.code) {
  case 'INVALID_TRANSITION': {
    const allowed: string[] = error.details.allowed;
    check(allowed.length === 0 && error.details.fromStep === 'b', 'details');
    break;
  }
  case 'INVALID_PAYLOAD':
  case 'INVALID_REQUEST':
    for (const fault of error.details.errors) console.error(fault.pointer, fault.message);
    throw new Error(said);
  default:
    throw new Error(error.code);
}

const unchanged = await client.GET('/api/flows/{flowId}', {
  params: { path, header: { 'If-None-Match': '*' } },
});
check(unchanged.response.status === 304, 'unchanged');
const batch = await admin.POST('/api/admin/states/batch', {
  body: { filter: { flowId: SLUG }, operation: { op: 'reset', body: { step: 'nowhere' } } },
});
const failed = batch.data?.results[0]?.error;
check(failed?.code === 'INVALID_REQUEST' && Array.isArray(failed.details.errors), 'an error inside');
const history = await client.GET('/api/flow/{flowId}/history', { params: { path, query: { limit: 1 } } });
const next: string | undefined = history.data?.next;
check(history.data?.items[0]?.metadata.kind === 'started' && next !== undefined, 'history');

export function mistakes(problem: components['schemas']['InvalidTransitionProblem']): unknown[] {
  return [
    // @ts-expect-error: there is no such member
    { payloads: {} } satisfies components['schemas']['StartCommand'],
    // @ts-expect-error: a reason is required
    admin.POST('/api/flow/{flowId}/pause', { params: { path }, body: {} }),
    // @ts-expect-error: there is no such parameter
    client.GET('/api/states', { params: { query: { user: 'a' } } }),
    // @ts-expect-error: it is another code
    problem.code === 'INVALID_REQUEST',
    // @ts-expect-error: there is no such code
    failed?.code === 'NO_SUCH_CODE',
    // @ts-expect-error: steps are required
    admin.POST('/api/flows', { body: { flow: SLUG, initialStep: 'a' } }),
  ];
}
