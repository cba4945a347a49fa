import { copyButton, h } from './dom.js';
import { highlight } from './highlight.js';
import sample from './sample.js?raw';
import { get, onSession, session, signOut, takeTokenFromAddress } from './session.js';
import { signInForm } from './sign-in.js';

const MAX_PAGES = 10; // of 100 flows each
const flows = document.getElementById('flows');
const who = document.getElementById('who');
const dialog = document.getElementById('diagram');
const diagramBody = document.getElementById('diagram-body');
const diagramFoot = document.getElementById('diagram-foot');

function showWho() {
  const user = session();
  who.replaceChildren();
  if (!user) return;
  const until = user.expiresAt.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
  const leave = h('button', { class: 'button quiet', type: 'button', click: () => signOut() }, 'Sign out');
  who.append('Signed in as ', h('strong', {}, user.userId), ` until ${until} `, leave);
}

async function listFlows() {
  const found = [];
  let after = '';
  for (let page = 0; page < MAX_PAGES; page += 1) {
    const { items, next } = await (await get(`/api/flows?limit=100${after}`)).json();
    found.push(...items.map(({ flow, title, steps, description }) => ({ flow, title, steps, description })));
    if (!next) break;
    after = `&after=${encodeURIComponent(next)}`;
  }
  return found;
}

function flowRow({ flow, title, description, steps }) {
  const transitions = Object.values(steps).flatMap((step) => Object.keys(step.transitions));
  return h(
    'li',
    {},
    h(
      'div',
      { class: 'flow-name' },
      h('h3', {}, title ?? flow),
      h('p', { class: 'muted small mono' }, flow),
      description && h('p', { class: 'muted small' }, description),
    ),
    h('p', { class: 'muted small numbers' }, `${count(Object.keys(steps), 'step')}, ${count(transitions, 'transition')}`),
    h('a', { class: 'button', href: `#flow=${encodeURIComponent(flow)}`, 'aria-label': `Diagram of ${title ?? flow}` }, 'Diagram'),
  );
}

function count({ length }, noun) {
  return `${length} ${noun}${length === 1 ? '' : 's'}`;
}

function skeleton() {
  return h('ul', { class: 'flow-list skeleton card', 'aria-hidden': 'true' }, h('li'), h('li'), h('li'));
}

function failure(problem, retry) {
  return h(
    'div',
    { class: 'notice bad', role: 'alert' },
    h('p', {}, `This could not be loaded: ${problem.message}`),
    h('button', { class: 'button', type: 'button', click: retry }, 'Try again'),
  );
}

async function showFlows(reason) {
  showWho();
  if (!session()) {
    flows.replaceChildren(signInForm(reason));
  } else {
    flows.setAttribute('aria-busy', 'true');
    flows.replaceChildren(skeleton());
    try {
      const found = await listFlows();
      const none = h('p', { class: 'notice' }, 'There are no flows that you may see. Publish one: server-flow flows import FILE');
      flows.replaceChildren(found.length ? h('ul', { class: 'flow-list card' }, ...found.map(flowRow)) : none);
    } catch (problem) {
      if (problem.status !== 401) flows.replaceChildren(failure(problem, () => showFlows()));
    }
  }
  flows.removeAttribute('aria-busy');
}

/** Show the diagram of the flow that the address names, or close it. */
async function showDiagram() {
  const flow = new URLSearchParams(location.hash.slice(1)).get('flow');
  if (!flow || !session()) return dialog.close();
  document.getElementById('diagram-title').textContent = flow;
  diagramBody.replaceChildren(h('p', { class: 'muted' }, 'Drawing …'));
  diagramFoot.replaceChildren();
  if (!dialog.open) dialog.showModal();
  const path = `/api/flows/${encodeURIComponent(flow)}/diagram`;
  try {
    const response = await get(`${path}?format=svg`);
    const address = URL.createObjectURL(new Blob([await response.text()], { type: 'image/svg+xml' }));
    dialog.addEventListener('close', () => URL.revokeObjectURL(address), { once: true });
    document.getElementById('diagram-title').textContent = `${flow}, version ${response.headers.get('flow-version')}`;
    diagramBody.replaceChildren(h('img', { src: address, alt: `Steps and transitions of ${flow}` }));
    diagramFoot.replaceChildren(
      h('a', { class: 'button', href: address, download: `${flow}.svg` }, 'Download SVG'),
      copyButton(async () => (await get(path)).text(), 'Copy Mermaid'),
    );
  } catch (problem) {
    if (problem.status === 401) return dialog.close();
    diagramBody.replaceChildren(failure(problem, showDiagram));
  }
}

function showCurl() {
  const text = [
    'export TOKEN=$(server-flow token --user ada)',
    `curl -X POST ${location.origin}/api/flow/user-onboarding/start -H "Authorization: Bearer $TOKEN"`,
    `curl -X POST ${location.origin}/api/flow/user-onboarding/transition/start -H "Authorization: Bearer $TOKEN" \\`,
    `     -H 'Content-Type: application/json' -d '{"payload": {"name": "Ada"}}'`,
  ].join('\n');
  document.getElementById('curl').textContent = text;
  document.getElementById('copy-curl').append(copyButton(text));
}

dialog.addEventListener('close', () => {
  if (location.hash) history.pushState(null, '', location.pathname);
});
dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
addEventListener('hashchange', () => {
  takeTokenFromAddress();
  showDiagram();
});
addEventListener('popstate', showDiagram);
onSession(showFlows);

takeTokenFromAddress();
document.getElementById('sample').append(...highlight(sample.trim()));
showCurl();
await showFlows();
await showDiagram();
