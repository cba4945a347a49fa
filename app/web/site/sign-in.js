import { h } from './dom.js';
import { signIn } from './session.js';

/** The form that takes a token. `reason` says why it is shown again. */
export function signInForm(reason) {
  const input = h('input', {
    class: 'input mono',
    id: 'token',
    name: 'token',
    type: 'password',
    autocomplete: 'off',
    spellcheck: 'false',
    required: true,
    'aria-describedby': 'token-help',
  });
  const submit = (event) => {
    event.preventDefault();
    signIn(input.value.trim());
  };
  return h(
    'form',
    { class: 'sign-in card', submit },
    h('h3', {}, reason ? 'Sign in again' : 'Sign in with a token'),
    reason && h('p', { class: 'notice warning', role: 'status' }, reason),
    h(
      'p',
      { class: 'muted small', id: 'token-help' },
      'Nothing is shown without one. Print a token with ',
      h('code', {}, 'server-flow token --user demo'),
      ' and paste it here. It stays in this tab.',
    ),
    h(
      'div',
      { class: 'sign-in-row' },
      h('div', { class: 'field' }, h('label', { for: 'token' }, 'Token'), input),
      h('button', { class: 'button primary' }, 'Sign in'),
    ),
  );
}
