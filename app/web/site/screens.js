// What a device shows at each step of the onboarding. A step that is not listed here, for example of a later
// version of the flow, gets a screen with a button for each transition.
import { h } from './dom.js';

export const STEPS = [
  ['welcome', 'Welcome'],
  ['profile-setup', 'Profile'],
  ['preferences', 'Contact'],
  ['verification', 'Code'],
  ['completed', 'Done'],
];
const LABELS = new Map(STEPS);

const TRANSITIONS = {
  start: 'Get started',
  continue: 'Continue',
  skip: 'Skip for now',
  save: 'Save',
  complete: 'Confirm the code',
};

export const stepLabel = (step) => LABELS.get(step) ?? step;

const SCREENS = {
  welcome: () => ({
    title: 'Welcome',
    text: 'Three short steps. You can put this device away at any time and go on with the other one.',
  }),
  'profile-setup': (id) => ({
    title: 'Your profile',
    text: 'What should we call you?',
    fields: [textField(id, 'name', 'Name', 'Ada')],
  }),
  preferences: (id, { name }) => ({
    title: name ? `Hello, ${name}` : 'Contact',
    text: 'How may we reach you?',
    fields: [choiceField(id, 'contact', ['Email', 'Phone', 'Not at all'])],
  }),
  verification: (id) => ({
    title: 'Verify it is you',
    text: 'Enter the code that we sent. Any code will do here.',
    fields: [textField(id, 'code', 'Code', '4711')],
  }),
  completed: (id, { name }) => ({
    title: name ? `All done, ${name}` : 'All done',
    text: 'The flow is completed. Its history stays.',
  }),
};

function textField(id, name, label, value) {
  return h(
    'div',
    { class: 'field' },
    h('label', { for: `${id}-${name}` }, label),
    h('input', { class: 'input', id: `${id}-${name}`, name, value, autocomplete: 'off', maxlength: '40', required: true }),
  );
}

function choiceField(id, name, choices) {
  const options = choices.map((choice, index) =>
    h('label', { class: 'choice' }, h('input', { type: 'radio', name, value: choice, checked: index === 0 }), choice),
  );
  return h('fieldset', { class: 'choices' }, h('legend', { class: 'label' }, 'Contact by'), ...options);
}

/**
 * The screen for a state (null: not started).
 *
 * `id` makes the ids of fields unique, `act.start()`, `act.restart()` and `act.run(transition, payload)` are called
 * by its buttons.
 */
export function screenOf(id, state, act) {
  if (!state || state.status === 'cleared' || state.status === 'expired') {
    return form({ title: 'Not started', text: 'Nobody has started this onboarding yet.' }, [
      button('Start the onboarding', () => act.start(), true),
    ]);
  }
  const { step, payload = {}, transitions } = state;
  const screen = SCREENS[step]?.(id, payload) ?? { title: stepLabel(step), text: '' };
  const buttons = transitions.map(({ transition }, index) =>
    button(TRANSITIONS[transition] ?? transition, (data) => act.run(transition, data), index === 0, transition === 'skip'),
  );
  if (state.status === 'paused') screen.text = `An administrator has paused this: ${state.pauseReason}`;
  if (!buttons.length) buttons.push(button('Begin again', () => act.restart(), false));
  return form(screen, buttons);
}

function button(label, call, primary, skipsFields = false) {
  const element = h('button', { class: primary ? 'button primary' : 'button', formnovalidate: skipsFields }, label);
  return Object.assign(element, { act: (data) => call(skipsFields ? undefined : data) });
}

function form({ title, text, fields = [] }, buttons) {
  const submit = (event) => {
    event.preventDefault();
    const data = Object.fromEntries(new FormData(event.target));
    event.submitter.act(Object.keys(data).length ? data : undefined);
  };
  return h(
    'form',
    { class: 'screen', submit },
    h('h3', { tabindex: '-1' }, title),
    text && h('p', { class: 'muted small' }, text),
    ...fields,
    h('div', { class: 'screen-actions' }, ...buttons),
  );
}
