// Lets modules outside tests/node (react.js lives beside the package's sources) find React there: the newest, or REACT=18.
import { register } from 'node:module';

const home = process.env.REACT === '18' ? '../node/react-18/package.json' : '../node/package.json';

const source = `
const anchor = ${JSON.stringify(new URL(home, import.meta.url).href)};
export function resolve(specifier, context, next) {
  const named = specifier === 'react' || specifier.startsWith('react/') || specifier.startsWith('react-dom/') || specifier === 'react-test-renderer';
  return next(specifier, named ? { ...context, parentURL: anchor } : context);
}`;
register(`data:text/javascript,${encodeURIComponent(source)}`);
