// The client under its short address; the same modules as /pushclient/index.js, so that there is one of each class.
export * from './pushclient/index.js';
export { default } from './pushclient/index.js';
