// Lets a test run against what is packed: node --import ./packed.mjs --test …, where PUSHCLIENT names the folder.
import { register } from 'node:module';
import { pathToFileURL } from 'node:url';

const source = `
const sources = '/pushserver/web/static/pushclient/';
const packed = ${JSON.stringify(pathToFileURL(`${process.env.PUSHCLIENT}/`).href)};
export async function resolve(specifier, context, next) {
  const found = await next(specifier, context);
  const at = found.url.indexOf(sources);
  return at < 0 ? found : { ...found, url: new URL(found.url.slice(at + sources.length), packed).href };
}`;
register(`data:text/javascript,${encodeURIComponent(source)}`);
