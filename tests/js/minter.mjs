/** Makes tokens with the help of the tests' server, which knows the secret. */
export function minter(url) {
  return async (user, { scopes = [], ttl = 3600 } = {}) => {
    const response = await fetch(`${url}?${new URLSearchParams({ user, scope: scopes.join(' '), ttl })}`);
    if (!response.ok) throw new Error(`no token: ${response.status}`);
    return response.text();
  };
}
