/** The API key, for the sample task here and for the operators' page, which has everything else. */

import { byId, describe, onSubmit, showOutcome } from './dom.js';
import { api, apiKey, forgetKey, keepKey } from './session.js';

export function serverPanel() {
  const show = () => {
    const known = apiKey() !== '';
    byId('key-form').hidden = known;
    byId('forget-key').hidden = !known;
    byId('operators-link').hidden = !known;
    document.dispatchEvent(new Event('keychange'));
  };
  const forget = () => {
    forgetKey();
    show();
  };

  onSubmit(byId('key-form'), byId('key-said'), async () => {
    keepKey(byId('api-key').value);
    byId('api-key').value = '';
    try {
      await api('GET', 'nodes');
    } catch (error) {
      forget();
      throw new Error(describe(error));
    }
    show();
    showOutcome(byId('key-said'), '');
  });
  byId('forget-key').addEventListener('click', () => {
    forget();
    byId('api-key').focus();
  });
  document.addEventListener('keygiven', show);
  show();
}
