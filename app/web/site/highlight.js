import { h } from './dom.js';

const TOKENS = /(?<comment>\/\/.*|\/\*[\s\S]*?\*\/)|(?<string>'[^'\n]*'|`[^`]*`)|\b(?<keyword>import|from|export|function|const|await|async|return|new|if)\b/g;

/** A text of JavaScript as nodes, with its comments, strings and keywords in elements of these classes. */
export function highlight(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(TOKENS)) {
    const [kind] = Object.entries(match.groups).find(([, value]) => value !== undefined);
    nodes.push(text.slice(end, match.index), h('span', { class: kind }, match[0]));
    end = match.index + match[0].length;
  }
  return [...nodes, text.slice(end)];
}
