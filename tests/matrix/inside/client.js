/**
 * What a page and a Node program do alike: one client, and a record of what it showed: `[kind, to, n, user, at]`, the kind of
 * message, for whom it was made and its number, and as whom and when the client showed it.
 */
export function begin(create, { user, token, ...options }, record) {
  let given = token;
  const callback = async () => given;
  const client = create({ ...options, token: callback });
  const note = (kind, { to, n }) => record([kind, to, n, client.getState().userId, realNow()]);
  client.on('user_notification', ({ data }) => note('notice', data));
  client.on('task_completed', ({ data }) => note('end', data.result));
  let news;
  const follow = (name) => {
    news?.unsubscribe();
    news = client.subscribeChannel(`news:${name}`, ({ type, data }) => type === 'message' && note('news', data));
  };
  follow(user);
  client.on('user_changed', ({ to }) => follow(to));
  client.connect().catch(() => {});
  return {
    client,
    /** What the application's callback answers from now on. */
    give: (next) => void (given = next),
    /** Somebody else signs in. */
    become(next) {
      given = next;
      client.setToken(callback);
    },
    isReady: () => client.getState().isConnected && news.state === 'subscribed',
  };
}
